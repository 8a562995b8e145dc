"""Open tools by name: built-in tools, tools of installed packages, and tools in a user's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.tools.base import Tool
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calendar import Calendar
from selfimprove_dagster.tools.model_tools import MT, QA
from selfimprove_dagster.tools.own_process import TIME_LIMIT, ToolProcess
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA, WikiSearch

BUILT_IN = ("Calculator", "Calendar", "WikiSearch", "QA", "MT")


ENTRY_POINTS = "selfimprove_dagster.tools"
"""The entry point group for tools of packages: `Weather = "weather_tool:Weather"`."""


def open_tools(
    names: Sequence[str],
    *,
    model: LanguageModel | None = None,
    prompts_only: bool = False,
    corpus: Path = ENCYCLOPAEDIA,
    index_folder: Path | None = None,
    folder: Path = Path(),
    time_limit: float = TIME_LIMIT,
) -> Toolbox:
    """Open the tools with these names; close the toolbox to stop their processes.

    A name is that of a built-in tool, that of an entry point in the group `selfimprove_dagster.tools`, or
    `my_tools.py:Weather`, a class in a file (relative to `folder`) that is created without arguments. `model`
    is used by QA and MT; it may be missing only if the tools are opened for their shots. `corpus` and
    `index_folder` belong to WikiSearch. `time_limit`, in seconds, applies to calls of tools that are not
    built in. Raises ExperimentError for an unknown name.
    """

    def asked() -> LanguageModel | None:
        if model is None and not prompts_only:
            raise ExperimentError("the tools QA and MT need a language model: name one, or leave them out")
        return model

    makers: dict[str, Callable[[], Tool]] = {
        "Calculator": Calculator,
        "Calendar": Calendar,
        "WikiSearch": lambda: WikiSearch(corpus, index_folder),
        "QA": lambda: QA(asked()),
        "MT": lambda: MT(asked()),
    }
    opened: list[Tool] = []
    try:
        for name in names:
            maker = makers.get(name)
            opened.append(maker() if maker else ToolProcess(*_found(name, folder), time_limit=time_limit))
        return Toolbox(opened)
    except BaseException:
        for tool in opened:
            if isinstance(tool, ToolProcess):
                tool.close()
        raise


def _found(name: str, folder: Path) -> tuple[str, str]:
    """Return the location of the tool: file or module, and class."""
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        file = (folder / path).resolve()
        if not file.is_file():
            raise ExperimentError(f"tools: there is no file {file}; give an existing file")
        return str(file), attribute
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        known = ", ".join((*BUILT_IN, *sorted(offered)))
        raise ExperimentError(
            f"tools: {name!r} is none of {known}; for your own tool give its file and class, e.g. "
            "my_tools.py:Weather"
        )
    return offered[name].module, offered[name].attr
