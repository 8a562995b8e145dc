"""Conversations: the messages of a prompt for a chat model, and the text under which tables store them.

A prompt for a base model is plain text. A prompt for a chat model is a conversation, which the model's own chat
template renders when it is asked or trained. Tables store a conversation as canonical JSON,
`{"conversation":[{"role":…,"content":…},…]}`, in the column that otherwise has the text, so that a prompt is one string
everywhere; which of the two it is follows from the model's `prompting`.

A conversation in which the model may call tools has their JSON schemas too, `{"conversation":[…],"tools":[…]}`. A
message with calls has `tool_calls`, and each call is followed by a message of the role `tool` with its result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")

_KEY, _TOOLS = "conversation", "tools"


class Message(NamedTuple):
    """What one side says. `role` is one of `ROLES`."""

    role: str
    content: str


class ToolCall(NamedTuple):
    """A call that a model writes: the name of a tool, and its arguments as JSON values by name."""

    name: str
    arguments: Mapping[str, Any]


class ToolCalls(NamedTuple):
    """What the assistant says before calls, and the calls."""

    content: str
    calls: tuple[ToolCall, ...]

    @property
    def role(self) -> str:
        """Return the side that calls tools."""
        return "assistant"


class ToolResult(NamedTuple):
    """What the tool `name` returned for a call, or why it returned nothing. Results follow the calls in their order."""

    name: str
    content: str

    @property
    def role(self) -> str:
        """Return the side that answers calls."""
        return "tool"


Turn = Message | ToolCalls | ToolResult


def stored(messages: Iterable[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the text under which tables store a conversation, with the JSON schemas of its tools if it has any."""
    found: dict[str, Any] = {_KEY: [row_of(one) for one in messages]}
    if tools:
        found[_TOOLS] = list(tools)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def row_of(turn: Turn) -> dict[str, Any]:
    """Return a message as chat templates read it."""
    row: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if isinstance(turn, ToolCalls):
        row["tool_calls"] = [
            {"type": "function", "function": {"name": one.name, "arguments": dict(one.arguments)}}
            for one in turn.calls
        ]
    elif isinstance(turn, ToolResult):
        row["name"] = turn.name
    return row


def messages_of(prompt: str) -> list[Turn]:
    """Return the messages of a stored conversation. Raises ValueError if the text is not one."""
    try:
        found = [_turn(row) for row in json.loads(prompt)[_KEY]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is not a conversation: {prompt[:80]!r} ({error})") from None
    for one in found:
        if one.role not in ROLES or not isinstance(one.content, str):
            raise ValueError(f"a message has the role {one.role!r}: use one of {', '.join(ROLES)}, and text")
    if not found:
        raise ValueError("this conversation has no messages")
    return found


def _turn(row: Mapping[str, Any]) -> Turn:
    role, content = row["role"], row["content"]
    if role == "assistant" and "tool_calls" in row:
        functions = [one["function"] for one in row["tool_calls"]]
        return ToolCalls(content, tuple(ToolCall(one["name"], {**one["arguments"]}) for one in functions))
    if role == "tool" and "name" in row:
        return ToolResult(row["name"], content)
    return Message(role, content)


def tools_of(prompt: str) -> list[dict[str, Any]]:
    """Return the JSON schemas of the tools of a stored conversation; none without tools."""
    found: list[dict[str, Any]] = json.loads(prompt).get(_TOOLS, [])
    return found


def merged(messages: Sequence[Turn]) -> list[Turn]:
    """Join neighbouring messages of the same role with a blank line, as templates that want turns require.

    Calls and results of tools stay separate.
    """
    found: list[Turn] = []
    for one in messages:
        last = found[-1] if found else None
        if isinstance(last, Message) and isinstance(one, Message) and last.role == one.role != "tool":
            found[-1] = Message(one.role, f"{last.content}\n\n{one.content}")
        else:
            found.append(one)
    return found


BEGINNING = f'{{"{_KEY}":[{{"role":"'
"""The beginning of every stored conversation."""


def shown(text: str) -> str:
    """Return a stored conversation as people read it, one paragraph for each message; other text unchanged.

    Calls of tools are written `Tool(argument: value)`.
    """
    if not text.startswith(BEGINNING):
        return text
    try:
        return "\n\n".join(map(_paragraph, messages_of(text)))
    except ValueError:
        return text


def written(call: ToolCall) -> str:
    """Return a call as people read it: `Tool(argument: value)`, with values in JSON."""
    values = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items()]
    return f"{call.name}({', '.join(values)})"


def _paragraph(turn: Turn) -> str:
    if isinstance(turn, ToolCalls):
        return "\n".join(
            [f"{turn.role}: {turn.content}".rstrip(), *(f"→ {written(one)}" for one in turn.calls)]
        )
    if isinstance(turn, ToolResult):
        return f"{turn.role} {turn.name}: {turn.content}"
    return f"{turn.role}: {turn.content}"
