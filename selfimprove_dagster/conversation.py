"""Conversations: the messages of a prompt for a chat model, and the text under which tables store them.

A prompt for a base model is plain text. A prompt for a chat model is a conversation, which the model's own chat
template renders when it is asked or trained. Tables store a conversation as canonical JSON,
`{"conversation":[{"role":…,"content":…},…]}`, in the column that otherwise has the text, so that a prompt is one string
everywhere; which of the two it is follows from the model's `prompting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROLES = ("system", "user", "assistant", "tool")

_KEY = "conversation"


class Message(NamedTuple):
    """What one side says. `role` is one of `ROLES`."""

    role: str
    content: str


def stored(messages: Iterable[Message]) -> str:
    """Return the text under which tables store a conversation."""
    rows = [{"role": one.role, "content": one.content} for one in messages]
    return json.dumps({_KEY: rows}, ensure_ascii=False, separators=(",", ":"))


def messages_of(prompt: str) -> list[Message]:
    """Return the messages of a stored conversation. Raises ValueError if the text is not one."""
    try:
        found = [Message(row["role"], row["content"]) for row in json.loads(prompt)[_KEY]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is not a conversation: {prompt[:80]!r} ({error})") from None
    for one in found:
        if one.role not in ROLES or not isinstance(one.content, str):
            raise ValueError(f"a message has the role {one.role!r}: use one of {', '.join(ROLES)}, and text")
    if not found:
        raise ValueError("this conversation has no messages")
    return found


def merged(messages: Sequence[Message]) -> list[Message]:
    """Join neighbouring messages of the same role with a blank line, as templates that want turns require."""
    found: list[Message] = []
    for one in messages:
        if found and found[-1].role == one.role:
            found[-1] = Message(one.role, f"{found[-1].content}\n\n{one.content}")
        else:
            found.append(one)
    return found


BEGINNING = f'{{"{_KEY}":[{{"role":"'
"""The beginning of every stored conversation."""


def shown(text: str) -> str:
    """Return a stored conversation as people read it, one paragraph for each message; other text unchanged."""
    if not text.startswith(BEGINNING):
        return text
    try:
        return "\n\n".join(f"{one.role}: {one.content}" for one in messages_of(text))
    except ValueError:
        return text
