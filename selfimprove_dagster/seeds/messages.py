"""Read the messages of a dialogue in the forms in which data sets publish them.

- OpenAI and TRL: `role` and `content`, which is text or a list of parts; `tool_calls` and messages of the role `tool`.
- ShareGPT and LLaMA-Factory: `from` and `value`; a `function_call` is JSON, and an `observation` is its result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove_dagster.conversation import Message, ToolCall, ToolCalls, ToolResult, Turn

LISTS = ("messages", "conversations", "conversation")
"""Fields in which published rows have the messages of a dialogue."""

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}


def is_list(value: Any) -> bool:
    """Return whether a value is a list, as JSON and tables have it."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_message(value: Any) -> bool:
    """Return whether a value is one message."""
    return isinstance(value, Mapping) and str(value.get("role") or value.get("from")).lower() in _ROLES


def listed(value: Any, field: str) -> Sequence[Any]:
    """Return a list of messages, which a table of text has as JSON. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"field `{field}` must hold a list of messages, as JSON") from None
    if not is_list(value):
        raise ValueError(f"field `{field}` must hold a list of messages, not {type(value).__name__}")
    return value


def turns_in(messages: Sequence[Any], field: str) -> list[Turn]:
    """Return the turns of a list of messages. Raises ValueError that names the message that is none."""
    found: list[Turn] = []
    named: dict[str, str] = {}
    waiting: list[str] = []
    for number, message in enumerate(messages, start=1):
        given = message if isinstance(message, Mapping) else {}
        role = _ROLES.get(str(given.get("role") or given.get("from")).lower())
        content = given.get("content") if given.get("content") is not None else given.get("value")
        calls = _calls(given, role, content, f"{field}[{number - 1}]")
        if role in ("assistant", "call") and calls:
            text = (
                "" if content is None or role == "call" else _text(content, f"{field}[{number - 1}].content")
            )
            found.append(ToolCalls(text, tuple(call for _, call in calls)))
            named |= {id: call.name for id, call in calls if id}
            waiting = [call.name for _, call in calls]
        elif role == "tool" and content is not None:
            first = waiting.pop(0) if waiting else ""
            name = str(given.get("name") or "") or named.get(str(given.get("tool_call_id")), "") or first
            if not name:
                raise ValueError(
                    f"field `{field}` holds the result of a tool that is not called: message {number} does not follow "
                    "a call"
                )
            found.append(ToolResult(name, _result(content)))
        elif role in ("system", "user", "assistant") and (isinstance(content, str) or is_list(content)):
            found.append(Message(role, _text(content, f"{field}[{number - 1}].content")))
        else:
            raise ValueError(
                f"field `{field}` must hold messages with `role` (system, user, assistant or tool) and `content` "
                f"(text), or with `from` and `value`: message {number} does not"
            )
    if not found:
        raise ValueError(f"field `{field}` holds no messages")
    return found


def _text(content: Any, field: str) -> str:
    """Return the text of a content, the parts of which are joined by line breaks."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"field `{field}` has a part of the type {kind}; only text can be read")
    return "\n".join(texts)


def _result(content: Any) -> str:
    if isinstance(content, str):
        return content
    if is_list(content) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "\n".join(part["text"] for part in content)
    return json.dumps(content, ensure_ascii=False)


def _calls(
    message: Mapping[str, Any], role: str | None, content: Any, field: str
) -> list[tuple[str, ToolCall]]:
    """Return the calls of a message, each with its id, which may be empty."""
    if role == "call":
        given = _parsed(content, field)
        return [_call(one, field) for one in (given if is_list(given) else [given])]
    if role != "assistant":
        return []
    if message.get("tool_calls"):
        return [_call(one, field) for one in listed(message["tool_calls"], f"{field}.tool_calls")]
    return [_call(message["function_call"], field)] if message.get("function_call") else []


def _call(given: Any, field: str) -> tuple[str, ToolCall]:
    called = given.get("function") or given if isinstance(given, Mapping) else {}
    arguments = called.get("arguments", called.get("parameters"))
    arguments = (
        _parsed(arguments, field) if isinstance(arguments, str) and arguments.strip() else arguments or {}
    )
    if not isinstance(called.get("name"), str) or not isinstance(arguments, Mapping):
        raise ValueError(f"field `{field}` holds a call of a tool without `name` and `arguments`")
    # A table has a column for each argument of any call, empty where a call has none.
    return str(given.get("id") or ""), ToolCall(
        called["name"], {key: value for key, value in arguments.items() if value is not None}
    )


def _parsed(text: Any, field: str) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        raise ValueError(f"field `{field}` holds a call of a tool that is not JSON: {text[:60]!r}") from None
