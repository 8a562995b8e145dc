"""Tools that a language model may call (Schick et al., 2302.04761, section 3).

    Calculator   `400 / 1400` → `0.29`
    Calendar     → `Today is Friday, November 20, 2020.`
    WikiSearch   the best passage of a local corpus, by BM25
    QA, MT       a language model answers, or translates into English

A tool is a function from text to text. It refuses an input with a reason; no input makes it raise or hang. A
user's own tools come from a file or an installed package and run in a separate process.
"""

from selfimprove_dagster.tools.base import Context, Tool, ToolError
from selfimprove_dagster.tools.registry import BUILT_IN, open_tools
from selfimprove_dagster.tools.toolbox import Toolbox

__all__ = ["BUILT_IN", "Context", "Tool", "ToolError", "Toolbox", "open_tools"]
