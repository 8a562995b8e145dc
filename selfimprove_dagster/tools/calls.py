"""Read and write tool calls in a text: `[Tool(input) → result]` (Schick et al., 2302.04761, section 2).

The paper writes e(c) = <API> a(i) </API> and e(c, r) = <API> a(i) → r </API>, with ` [`, `]` and `->` for the
three special tokens. Here the arrow is `→`; `->` is also accepted. A call contains no brackets or line
breaks, so it ends at the first `]`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from selfimprove_dagster.text import one_line

OPENING, CLOSING, ARROW = "[", "]", "→"


CALL_STOPS = (ARROW, "->", CLOSING, "\n")
"""String that ends the sampling of a call's name and input; the tool supplies the rest."""


LONGEST_CALL = 4_000
"""Maximum length of a call in characters."""


NO_CALL = "not a call of the form Tool(input)"


TOO_LONG = f"longer than {LONGEST_CALL:,} characters"


_INSIDE = r"[^\[\]\n]"


_BODY = rf"""
    (?P<tool> [A-Za-z]\w{{0,63}} ) [ ]? \(
    (?P<arguments> [ ]*"{_INSIDE}*?"[ ]* | {_INSIDE}*? )
    \) [ ]* (?: (?P<arrow> → | -> ) (?P<result> {_INSIDE}* ) )?
"""


_WRITTEN = re.compile(rf"\s* \[? [ ]* {_BODY} \]? \s*", re.VERBOSE | re.ASCII)


_BRACKETS = re.compile(rf"\[{_INSIDE}{{1,{LONGEST_CALL}}}\]")


_SPACED = re.compile(r"\s")


_REPLACED = str.maketrans({"[": "(", "]": ")", "→": "->"})


@dataclass(frozen=True)
class Call:
    """A tool's name, its input as the model wrote it (with its quotes), and what the tool returned.

    `result` is None in e(c), i.e. before the call is made, and empty in e(c, ε).
    """

    tool: str
    arguments: str
    result: str | None = None


@dataclass(frozen=True)
class PlacedCall:
    """A call before the character `position` of a text without calls."""

    position: int
    call: Call


def write_call(call: Call) -> str:
    """Return the call as text. Results of tools must be cleaned with `clean_result` before."""
    if call.result is None:
        return f"[{call.tool}({call.arguments})]"
    return f"[{call.tool}({call.arguments}) {f'{ARROW} {call.result}'.rstrip()}]"


def clean_result(text: str) -> str:
    """Return a result on one line, without the characters that end a call: `[1]` becomes `(1)`, `→` becomes `->`."""
    return one_line(text).translate(_REPLACED)


def read_call(text: str, tools: Collection[str]) -> Call | str:
    """Return the only call in a generated text, without its result, or the reason why there is none.

    The text starts with or after the opening bracket. A result that the model wrote itself is left out.
    """
    if len(text) > LONGEST_CALL:
        return TOO_LONG
    match = _WRITTEN.fullmatch(text)
    if match is None:
        return NO_CALL
    if match["tool"] not in tools:
        return f"no tool is called {match['tool']}; there are {', '.join(sorted(tools))}"
    return Call(match["tool"], match["arguments"].strip())


def interleave(text: str, placed: Iterable[PlacedCall]) -> str:
    """Insert calls into a text (x* of the paper); calls at the same position keep their order.

    A call is followed by a space if it comes after white space, else preceded by one.
    Raises ValueError for a position outside the text.
    """
    written, done = [], 0
    for item in sorted(placed, key=lambda item: item.position):
        if not 0 <= item.position <= len(text):
            raise ValueError(f"position {item.position} is outside a text of {len(text)} characters")
        written.append(text[done : item.position])
        done = item.position
        call = write_call(item.call)
        written.append(f"{call} " if _opens_word(text, done) else f" {call}")
    return "".join([*written, text[done:]])


def take_out(annotated: str, tools: Collection[str]) -> tuple[str, list[PlacedCall]]:
    """Return the text without the calls of these tools, and the calls; this inverts `interleave`.

    Text and positions are restored exactly, except that a call before a space is returned after it, since
    both have the same written form.
    """
    plain, done = "", 0
    placed: list[PlacedCall] = []
    for brackets in _BRACKETS.finditer(annotated):
        match = _WRITTEN.fullmatch(brackets.group())
        if match is None or match["tool"] not in tools:
            continue
        result = match["result"].strip() if match["arrow"] else None
        plain += annotated[done : brackets.start()]
        done = brackets.end()
        follows = annotated[done : done + 1]
        if follows == " " and _opens_word(plain, len(plain)):
            done += 1
        elif plain.endswith(" "):
            plain = plain[:-1]
            placed = [replace(item, position=min(item.position, len(plain))) for item in placed]
        placed.append(PlacedCall(len(plain), Call(match["tool"], match["arguments"].strip(), result)))
    return plain + annotated[done:], placed


def call_without_result(call: Call) -> Call:
    """Return e(c, ε), the call with an empty result."""
    return replace(call, result="")


def _opens_word(text: str, position: int) -> bool:
    """Return whether the position is at the start or after white space."""
    return position == 0 or bool(_SPACED.match(text, position - 1))
