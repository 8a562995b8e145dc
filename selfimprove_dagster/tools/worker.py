"""Run a tool that is not built in, in a separate process: JSON lines in, JSON lines out.

The first line names the source and the class; each later line has a method and its arguments.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import first_line
from selfimprove_dagster.tools.base import Context, Tool, ToolError

_PARTS = ("name", "version", "introduction", "shots", "parse", "run")


_NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)


def opened(source: str, attribute: str) -> tuple[Tool, str]:
    """Return the tool and its version, with the hash of its file. Raises ValueError if it is not a tool."""
    version = ""
    if source.endswith(".py"):
        version = f" b2:{hashlib.blake2b(Path(source).read_bytes(), digest_size=16).hexdigest()}"
        spec = importlib.util.spec_from_file_location(Path(source).stem, source)
        if spec is None or spec.loader is None:
            raise ValueError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    made = getattr(module, attribute, None)
    if made is None:
        raise ValueError(f"it has no class {attribute!r}")
    tool = made()
    if not isinstance(tool, Tool):
        missing = [name for name in _PARTS if not hasattr(tool, name)]
        raise ValueError(f"it is no tool: it lacks {', '.join(missing)}")
    if not isinstance(tool.name, str) or not _NAME.fullmatch(tool.name):
        raise ValueError(f"its name is {tool.name!r}: use letters, digits and _, a letter first")
    if not isinstance(tool.introduction, str):
        raise ValueError("its introduction must be a text")
    if not all(isinstance(shot, tuple | list) and list(map(type, shot)) == [str, str] for shot in tool.shots):
        raise ValueError("its shots must be pairs: a text without calls, and the same text with calls")
    return tool, f"{tool.version}{version}"


def answer(tool: Tool, method: str, arguments: list[Any]) -> dict[str, str]:
    """Return the result of the method, or the reason why there is none."""
    if method == "run":
        given, date = arguments
        said = tool.run(given, Context(datetime.date.fromisoformat(date) if date else None))
    else:
        said = tool.parse(*arguments)
    if isinstance(said, ToolError):
        return {"error": str(said.reason)}
    if not isinstance(said, str):
        return {"error": f"{method} returned {type(said).__name__}, not text"}
    return {"text": said}


def _guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except SystemExit:
        return {"error": "it asks Python to exit"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


def main() -> None:
    """Answer line by line until the input ends; output of the tool goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(said: dict[str, Any]) -> None:
        print(json.dumps(said), file=out, flush=True)

    source, attribute = json.loads(sys.stdin.readline())
    found: list[Tool] = []

    def start() -> dict[str, Any]:
        tool, version = opened(source, attribute)
        found.append(tool)
        return {
            "name": tool.name,
            "version": version,
            "introduction": tool.introduction,
            "description": str(getattr(tool, "description", "") or type(tool).__doc__ or "").strip(),
            "shots": [*tool.shots],
        }

    say(_guarded(start))
    for line in sys.stdin if found else ():
        method, *arguments = json.loads(line)
        say(_guarded(lambda method=method, arguments=arguments: answer(found[0], method, arguments)))  # type: ignore[misc]


if __name__ == "__main__":
    main()
