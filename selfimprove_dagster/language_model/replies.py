"""Read what a chat model wrote: text, and calls of tools in the format of its chat template.

A response template of transformers describes the format (`PreTrainedTokenizerBase.parse_response`). It comes from the
tokenizer, else from TRL, which knows it for common chat templates, else it is one of the forms below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from selfimprove_dagster.conversation import ToolCall

UNREADABLE = "this call cannot be read: write the name of a tool, and its arguments as a JSON object"

_NO_NAME = "invalid"
"""The name of a call whose name cannot be read."""

_ANY = {"defaults": {"role": "assistant"}, "start_anchor_pattern": r"\Z"}
_TEXT: dict[str, Any] = {"content": "text"}
_FUNCTION = {"type": "function", "function": "{content}"}
_NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}

HERMES: dict[str, Any] = {
    **_ANY,
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": _FUNCTION,
        },
        "content": _TEXT,
    },
}
"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, the form of Hermes and Qwen."""

LLAMA: dict[str, Any] = {
    **_ANY,
    "fields": {
        "tool_calls": {
            "open_pattern": r'\A\s*(?:<\|python_tag\|>)?\s*(?=\{\s*"(?:type|name)":)',
            "close_pattern": r"<\|e(?:ot|om)_id\|>",
            "content": "json",
            "transform": _FUNCTION,
        },
        "content": _TEXT,
    },
}
"""`{"name": …, "parameters": {…}}` alone, the form of Llama 3."""

MISTRAL: dict[str, Any] = {
    **_ANY,
    "fields": {
        "tool_calls": {"open": "[TOOL_CALLS]", "content": "json"},
        "content": _TEXT,
    },
}
"""`[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, the older form of Mistral."""

MISTRAL_ARGS: dict[str, Any] = {
    **_ANY,
    "fields": {
        "tool_calls": {
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\]{}]+)(?:\[CALL_ID\][^\[\]]*)?(?:\[ARGS\])?(?=\s*\{)",
            "close_pattern": r"(?=\[TOOL_CALLS\])",
            "repeats": True,
            "content": "json",
            "transform": _NAMED,
        },
        "content": _TEXT,
    },
}
"""`[TOOL_CALLS]name[ARGS]{…}` for each call, the newer form of Mistral."""


class WrittenCall(NamedTuple):
    """A call as a model wrote it. One that cannot be read has its text as its argument, and the reason as `problem`."""

    call: ToolCall
    problem: str | None = None


class Reply(NamedTuple):
    """The text that a chat model wrote besides its calls, and the calls in their order."""

    text: str
    calls: tuple[WrittenCall, ...] = ()


def response_template(tokenizer: Any, source: str) -> dict[str, Any]:
    """Return the response template for replies in the format of the chat template `source`.

    It differs from that of transformers or TRL in two points: a call that is not JSON is returned as text instead of
    raising ValueError, and all texts around calls are kept, one per line.
    """
    found = getattr(tokenizer, "response_template", None) or _form_of(source)
    fields = {name: dict(one) for name, one in found["fields"].items()}
    calls, text = fields.get("tool_calls"), fields.get("content")
    if calls and calls.get("content") == "json":
        calls["content_args"] = {**calls.get("content_args", {}), "allow_non_json": True}
    if text and text.get("content", "text") == "text":
        text |= {"repeats": True, "join": "\n"}
    return {**found, "fields": fields}


def _form_of(source: str) -> dict[str, Any]:
    if '"parameters": ' in source and "ipython" in source:
        return LLAMA
    if "[TOOL_CALLS]" in source:
        return MISTRAL_ARGS if "[ARGS]" in source else MISTRAL
    from trl.chat_template_utils import add_response_schema

    known = SimpleNamespace(chat_template=source)
    try:
        add_response_schema(known)
    except ValueError:  # TRL does not know this chat template
        return HERMES
    found: dict[str, Any] = known.response_template
    return found if "tool_calls" in found["fields"] else HERMES


def read_reply(text: str, template: Mapping[str, Any]) -> Reply:
    """Return the text and the calls of a reply, given as text with its special tokens and without its thoughts.

    A call that cannot be read is among the calls, with its problem; nothing raises.
    """
    from transformers.utils.chat_parsing import parse_response

    try:
        found = parse_response(text, dict(template), prefix="")
    except (ValueError, KeyError, TypeError, RecursionError):
        return Reply("", (_unreadable(text),))
    calls = found.get("tool_calls") or []
    read = tuple(map(read_call, calls if isinstance(calls, list) else [calls]))
    return Reply(str(found.get("content") or "").strip(), read)


def read_call(found: Any) -> WrittenCall:
    """Return a call as the OpenAI protocol has it: a function with a name, and arguments as JSON or as text."""
    function = found.get("function", found) if isinstance(found, Mapping) else found
    if not isinstance(function, Mapping):
        return _unreadable(str(function))
    name = function.get("name")
    arguments = function.get("arguments", function.get("parameters")) or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        json.dumps([name, arguments], ensure_ascii=False).encode()  # a lone surrogate is not text
    except (ValueError, RecursionError):
        return _unreadable(str(arguments), name)
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return _unreadable(json.dumps(function), name)
    return WrittenCall(ToolCall(name.strip(), arguments))


def _unreadable(text: str, name: Any = None) -> WrittenCall:
    cleaned = text.strip().encode(errors="replace").decode()
    named = name.strip() if isinstance(name, str) else ""
    return WrittenCall(ToolCall(named or _NO_NAME, {"text": cleaned}), UNREADABLE)
