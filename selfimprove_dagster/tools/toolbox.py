"""Call tools by name and cache their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from selfimprove_dagster.errors import ExperimentError, first_line
from selfimprove_dagster.tools.base import Context, Tool, ToolError
from selfimprove_dagster.tools.calls import clean_result
from selfimprove_dagster.tools.model_tools import MT, QA
from selfimprove_dagster.tools.own_process import ToolProcess

_Key = tuple[str, str, str, Context]


LONGEST_RESULT = 1_000
"""Maximum length of a result; a longer one is an error, since a truncated result could mislead."""


class Toolbox(Mapping[str, Tool]):
    """Tools by name. `call` never raises, and runs a tool once for equal (tool, version, input, context)."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ExperimentError(f"two tools are named {tool.name}: rename one of them")
            self._tools[tool.name] = tool
        self._results: dict[_Key, str | ToolError] = {}

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def close(self) -> None:
        """Stop the processes of tools; a later call starts them again."""
        for tool in self.values():
            if isinstance(tool, ToolProcess):
                tool.close()

    def call(self, name: str, arguments: str, context: Context) -> str | ToolError:
        """Return the result as it is written into a text (one line, no brackets), or the reason why there is
        none.

        `arguments` is the text of the model between the parentheses.
        """
        return self.call_all([(name, arguments, context)])[0]

    def call_all(self, calls: Sequence[tuple[str, str, Context]]) -> list[str | ToolError]:
        """Return the results of many calls. Tools that support it run all their new calls in one batch."""
        keys = [self._key(*call) for call in calls]
        fresh: dict[str, list[_Key]] = {}
        for key in dict.fromkeys(keys):
            if not isinstance(key, ToolError) and key not in self._results:
                fresh.setdefault(key[0], []).append(key)
        for name, wanted in fresh.items():
            found = _run(self._tools[name], [(input, context) for _, _, input, context in wanted])
            self._results.update(zip(wanted, found, strict=True))
        return [key if isinstance(key, ToolError) else self._results[key] for key in keys]

    def _key(self, name: str, arguments: str, context: Context) -> _Key | ToolError:
        tool = self._tools.get(name)
        if tool is None:
            return ToolError(f"no tool is called {name}; there are {', '.join(sorted(self._tools))}")
        try:
            parsed = tool.parse(arguments)
        except Exception as error:  # a tool may be external code, and one bad call must not end a run
            return _raised(error)
        return parsed if isinstance(parsed, ToolError) else (name, tool.version, parsed, context)


def _run(tool: Tool, wanted: Sequence[tuple[str, Context]]) -> list[str | ToolError]:
    if isinstance(tool, QA | MT):
        return [_checked(result) for result in tool.run_all([input for input, _ in wanted])]
    results: list[str | ToolError] = []
    for input, context in wanted:
        try:
            results.append(_checked(tool.run(input, context)))
        except Exception as error:
            results.append(_raised(error))
    return results


def _raised(error: Exception) -> ToolError:
    return ToolError(f"{type(error).__name__}: {first_line(error)}")


def _checked(result: str | ToolError) -> str | ToolError:
    if isinstance(result, ToolError):
        return result
    if len(result) > LONGEST_RESULT:
        return ToolError(f"the result has {len(result):,} characters: at most {LONGEST_RESULT:,}")
    return clean_result(result) or ToolError("the tool returned nothing")
