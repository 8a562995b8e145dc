"""Dialogues as text and as messages.

A prompt is what a human said, or the text of a whole dialogue that ends with the human's turn. A dialogue in which
tools are called is a stored conversation (see `conversation`), since its text would lose the calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfimprove_dagster.conversation import (
    BEGINNING,
    Message,
    ToolCalls,
    ToolResult,
    Turn,
    messages_of,
    stored,
    written,
)

PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts about a dialogue, for which `spoken` gives the fields `dialogue` and `turns`."""


HUMAN, ASSISTANT, SYSTEM = "Human:", "Assistant:", "System:"
"""The headings of turns in the text of a dialogue; only a first turn is of the system."""


def spoken(prompt: str) -> dict[str, Any]:
    """Return the fields of the prompts in `PROMPTS` that hold a dialogue, or what a human said."""
    said = prompt.strip()
    if said.startswith(BEGINNING):
        return {"dialogue": "\n\n".join(map(_paragraph, messages_of(said))), "turns": turns(said)}
    dialogue = said if is_dialogue(said) else f"{HUMAN} {_indented(said)}"
    return {"dialogue": dialogue, "turns": turns(said)}


def turns(dialogue: str) -> Sequence[Turn]:
    """Return the messages of a dialogue, or the one message of what a human said.

    The heading at the end that only opens the next turn is no message.
    """
    text = dialogue.strip()
    if text.startswith(BEGINNING):
        return messages_of(text)
    if not is_dialogue(text):
        return [Message("user", text)] if text else []
    found: list[Message] = []
    for part in text.split("\n\n"):
        heading = next((one for one in _ROLES if part.startswith(one)), None)
        if heading is not None and (heading != SYSTEM or not found):
            found.append(Message(_ROLES[heading], part.removeprefix(heading)))
        else:
            role, before = found[-1]
            found[-1] = Message(role, f"{before}\n\n{_without_indent(part)}")
    said = [Message(one.role, one.content.strip()) for one in found]
    return said if said[-1].content else said[:-1]


def said_in(turn: Turn) -> str:
    """Return the text of a turn, the calls of tools as people read them."""
    if isinstance(turn, ToolCalls):
        return "\n".join([turn.content, *(f"→ {written(one)}" for one in turn.calls)]).strip()
    return turn.content


def _paragraph(turn: Turn) -> str:
    heading = f"Result of {turn.name}:" if isinstance(turn, ToolResult) else _HEADINGS[turn.role]
    return f"{heading} {_indented(said_in(turn))}"


def dialogue_of(messages: Iterable[Turn]) -> str:
    """Return the text that `turns` reads as these messages, what the system says first.

    A single message of the user is its content. A later paragraph that begins like a heading is indented, so that it
    remains part of its message. Messages with calls of tools are a stored conversation.
    """
    messages = list(messages)
    if not all(isinstance(one, Message) for one in messages):
        return stored(messages)
    given = [Message(one.role, one.content.strip()) for one in messages]
    system = [one.content for one in given if one.role == "system"]
    others = [one for one in given if one.role != "system"]
    if not system and [one.role for one in others] == ["user"] and not is_dialogue(others[0].content):
        return others[0].content
    first = [Message("system", "\n\n".join(system))] if system else []
    return "\n\n".join(f"{_HEADINGS[one.role]} {_indented(one.content)}" for one in [*first, *others])


_ROLES = {HUMAN: "user", ASSISTANT: "assistant", SYSTEM: "system"}
_HEADINGS = {role: heading for heading, role in _ROLES.items()}

_LATER_HEADING = re.compile(rf" *({HUMAN}|{ASSISTANT})")


def _indented(content: str) -> str:
    first, *later = content.split("\n\n")
    return "\n\n".join([first, *(f" {part}" if _LATER_HEADING.match(part) else part for part in later)])


def _without_indent(part: str) -> str:
    return part[1:] if _LATER_HEADING.match(part) else part


def is_dialogue(text: str) -> bool:
    """Return whether a text is a dialogue with headings, and not what a human said."""
    return text.startswith(HUMAN) or (text.startswith(SYSTEM) and f"\n\n{HUMAN}" in text)
