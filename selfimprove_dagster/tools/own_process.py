"""Run a tool that is not built in in a separate process, where it can hang or crash without harm to the caller."""

from __future__ import annotations

import threading
from typing import Any

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.own_process import OwnProcess, Stopped
from selfimprove_dagster.tools.base import Context, ToolError

TIME_LIMIT = 10.0
"""Time limit of a call in seconds."""


START_LIMIT = 60.0
"""Time limit for importing and creating a tool, in seconds."""


LONGEST_INPUT = 10_000


class ToolProcess:
    """A tool whose code runs in another process; implements `base.Tool`.

    The class `attribute` in `source`, a Python file or the name of a module, is created without arguments.
    Raises ExperimentError if this fails or the object is not a tool. The file's hash is part of the version.
    """

    def __init__(self, source: str, attribute: str, *, time_limit: float = TIME_LIMIT) -> None:
        self._source, self._attribute = source, attribute
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._process = OwnProcess("selfimprove_dagster.tools.worker", "the tool")
        try:
            with self._lock:
                described = self._started()
        except Stopped as error:
            raise ExperimentError(f"tools: {source}:{attribute} cannot be used: {error}") from None
        self.name: str = described["name"]
        self.version: str = described["version"]
        self.introduction: str = described["introduction"]
        self.description: str = described["description"]
        self.shots = [(plain, annotated) for plain, annotated in described["shots"]]

    def parse(self, arguments: str) -> str | ToolError:
        if len(arguments) > LONGEST_INPUT:
            return ToolError(f"the input has {len(arguments):,} characters: at most {LONGEST_INPUT:,}")
        return self._ask("parse", arguments)

    def run(self, input: str, context: Context) -> str | ToolError:
        return self._ask("run", input, context.date.isoformat() if context.date else None)

    def close(self) -> None:
        """Stop the process; a later call starts another."""
        with self._lock:
            self._process.end()

    def _ask(self, method: str, *arguments: str | None) -> str | ToolError:
        with self._lock:
            try:
                if not self._process.runs:
                    self._started()
                answer = self._process.ask([method, *arguments], self._time_limit)
            except Stopped as error:
                self._process.end()
                return ToolError(str(error))
        if "error" in answer:
            return ToolError(str(answer["error"]))
        return str(answer["text"])

    def _started(self) -> dict[str, Any]:
        """Start the process and return the tool's description of itself."""
        self._process.start()
        try:
            described: dict[str, Any] = self._process.ask([self._source, self._attribute], START_LIMIT)
            if "error" in described:
                raise Stopped(described["error"])
        except Stopped:
            self._process.end()
            raise
        return described
