"""Define the interface of tools."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_QUOTES = {'"': '"', "'": "'", "“": "”"}


@dataclass(frozen=True)
class ToolError:
    """The reason why a tool gave no result; returned, never raised."""

    reason: str


@dataclass(frozen=True)
class Context:
    """What a tool may know about the document that contains its call."""

    date: datetime.date | None = None
    """The date on which the document was written."""


@runtime_checkable
class Tool(Protocol):
    """A function from text to text, with examples that teach a model where to call it.

    Equal `name`, `version`, input and context give equal results, so results may be cached. `parse` converts
    the text between the parentheses into the input of `run`. A tool may also have a text `description`, which says to
    chat models what it does.
    """

    @property
    def name(self) -> str:
        """Return the name in calls: letters, digits and `_`, starting with a letter."""

    @property
    def version(self) -> str:
        """Return the version, which changes with anything that affects results: code, corpus, model."""

    @property
    def introduction(self) -> str:
        """Return what the tool is for and how its calls are written, as an instruction to a model."""

    @property
    def shots(self) -> Sequence[tuple[str, str]]:
        """Return examples: a text without calls, and the same text with calls."""

    def parse(self, arguments: str) -> str | ToolError:
        """Return the input in the arguments of a call."""

    def run(self, input: str, context: Context) -> str | ToolError:
        """Return the result for a parsed input."""


def read_text(arguments: str, most: int) -> str | ToolError:
    """Return the text in a call's arguments without quotes; it is one non-empty line of at most `most` characters."""
    if len(arguments) > most:
        return ToolError(f"the input has {len(arguments):,} characters: at most {most:,}")
    text = arguments.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if not text:
        return ToolError("the input is empty")
    if _CONTROL.search(text):
        return ToolError("the input holds control characters")
    return text
