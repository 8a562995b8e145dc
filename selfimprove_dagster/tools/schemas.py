"""Describe tools as JSON schemas, as the chat templates of models show them, and read the arguments of their calls.

A tool takes one text, the argument `input`. What it is and how inputs look is in its `description` and its shots, so a
tool that was written for calls in a text needs nothing else. A tool whose shots have no input has no arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove_dagster.tools.base import Tool, ToolError
from selfimprove_dagster.tools.calls import take_out

INPUT = "input"
"""The name of the argument."""

_EXAMPLES = 3


def tool_schema(tool: Tool) -> dict[str, Any]:
    """Return the JSON schema of a tool, an item of the `tools` of `apply_chat_template`.

    The description is the tool's attribute `description` (of a user's own tool, else the docstring of its class), else
    its introduction.
    """
    examples = _inputs(tool)
    properties: dict[str, Any] = {}
    if examples is None or examples:
        shown = "; ".join(examples or [])
        properties[INPUT] = {
            "type": "string",
            "description": f"for example: {shown}" if shown else "what the tool is asked",
        }
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": getattr(tool, "description", "") or tool.introduction,
            "parameters": {"type": "object", "properties": properties, "required": [*properties]},
        },
    }


def call_input(tool: Tool, arguments: Mapping[str, Any]) -> str | ToolError:
    """Return the text that `tool.parse` reads from the arguments of a call, in quotes if those of its shots are."""
    wanted = [*tool_schema(tool)["function"]["parameters"]["properties"]]
    given = {name: value for name, value in arguments.items() if wanted or value not in ("", None)}
    if [*given] != wanted:
        takes = f"the argument {INPUT} and no other" if wanted else "no arguments"
        return ToolError(f"{tool.name} takes {takes}: the call has {', '.join(given) or 'none'}")
    if not wanted:
        return ""
    value = given[INPUT]
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ToolError(f"the argument {INPUT} of {tool.name} must be a text")
    written = _written(tool)
    quoted = bool(written) and all(len(one) > 1 and one[0] == one[-1] == '"' for one in written)
    return f'"{value}"' if quoted else str(value)


def _written(tool: Tool) -> list[str]:
    """Return the arguments of the calls in the shots of a tool, as written, without repetitions."""
    calls = [placed.call for _, shot in tool.shots for placed in take_out(shot, {tool.name})[1]]
    return list(dict.fromkeys(call.arguments for call in calls))


def _inputs(tool: Tool) -> Sequence[str] | None:
    """Return examples of inputs: none for a tool without input, None for a tool without shots."""
    written = _written(tool)
    if not written:
        return None
    return [one.strip('"') for one in written if one.strip('"')][:_EXAMPLES]
