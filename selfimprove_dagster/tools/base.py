"""What a tool is."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_QUOTES = {'"': '"', "'": "'", "“": "”"}


@dataclass(frozen=True)
class ToolError:
    """Why a tool gave no result; returned, never raised."""

    reason: str


@dataclass(frozen=True)
class Context:
    """What a tool may know of the document that its call stands in."""

    date: datetime.date | None = None
    """The day on which the document was written."""


@runtime_checkable
class Tool(Protocol):
    """A function from text to text, with the prompt by which a model learns where to call it.

    Equal `name`, `version`, input and context give equal results, so results may be kept. `parse` turns what
    the model wrote between the parentheses into the input; `run` needs no other.
    """

    @property
    def name(self) -> str:
        """By which it is called: letters, digits and `_`, a letter first."""

    @property
    def version(self) -> str:
        """Changes with anything that can change a result: the code, the corpus, the model behind it."""

    def prompt(self, text: str) -> str:
        """The few-shot prompt that asks for calls in the text; ends in `Output:`."""

    def parse(self, arguments: str) -> str | ToolError:
        """The input that the arguments of a call state."""

    def run(self, input: str, context: Context) -> str | ToolError:
        """The result of a parsed input."""


def read_text(arguments: str, most: int) -> str | ToolError:
    """The text that a call's arguments state, without the quotes around it: not empty, on one line, of at
    most so many characters.
    """
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
