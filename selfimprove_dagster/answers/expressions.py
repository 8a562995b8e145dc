"""Compute the form of an answer with several parts, or in algebra.

    list         `1, 2` = `2 and 1` = `\\{1, 2\\}` = `x = 1 or x = 2` → `1, 2`; `\\pm 3` → `-3, 3`
    options      `(A) and (B)` = `B, A` → `A, B`
    tuple        `\\left(1, 2\\right)` = `(1,2)` → `(1, 2)`; brackets and order count
    interval     `[2, \\infty)`; a union of intervals in a fixed order
    expression   `\\sqrt{12}` = `2 \\sqrt{3}` → `2\\sqrt{3}`; `y = 2x` = `2x`

A list is a set of solutions, as in math-verify: order and repetition do not count. `symbolic.py` reads the parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from selfimprove_dagster.answers.numerals import format_number, number_form
from selfimprove_dagster.answers.symbolic import is_algebra, symbolic_form

Kind = Literal["number", "option", "truth value", "date", "time", "list", "tuple", "expression", "text"]


class Form(NamedTuple):
    """A canonical form, and the kind of answer that it is: the rule that read it."""

    text: str
    kind: Kind


_SEPARATOR = re.compile(r",?\s+(?:and|or)\s+|,(?!\d{3}(?!\d))|;")


_PRICE = re.compile(r"\d,\d\d\s?[$€£¥₹]|[$€£¥₹]\s?\d[\d .]*,\d\d(?!\d)")
"""A price with a decimal comma, which is neither a list nor, with decimal points, a number."""


_COMMA = re.compile(r"[,;]")


_OPTION = re.compile(r"\(([A-Za-z])\)|([A-Z])")


_CUP = re.compile(r"\\cup(?![a-z])|∪")


_PLUS_MINUS = re.compile(r"\\pm(?![a-z])|±")


_NAMED = r"\s*([A-Za-z](?:_\{?\w+\}?)?(?:\s?\([a-z]\))?)\s*"


_NAME = re.compile(_NAMED)


_ASSIGNED = re.compile(_NAMED + r"(?:=|\\in(?![a-z])|∈)\s*(?=\S)(.*)")


_WORD = re.compile(r"(?<![\\a-zA-Z])[A-Za-z]{2,}")


def several_options(answer: str) -> Form | None:
    """Return the form of two options or more."""
    parts = [part.strip() for part in _split(answer.replace("&", ","))]
    letters = [_OPTION.fullmatch(part) for part in parts]
    if len(parts) < 2 or not all(letters):
        return None
    return Form(", ".join(sorted({one[0].strip("()").upper() for one in letters if one})), "list")


def expression_form(answer: str, formula: bool = False) -> Form | None:
    """Return the form of a tidy answer that is a list, a tuple, an interval or an expression; else None.

    `formula`: the answer was marked as mathematics, so it may be arithmetic.
    """
    pieces = _top_level(answer, _CUP)
    if len(pieces) > 1:
        forms = [_bracketed(piece.strip(), formula) for piece in pieces]
        joined = sorted({form.text for form in forms if form is not None})
        return Form(r" \cup ".join(joined), "tuple") if all(forms) else None
    if (bracketed := _bracketed(answer, formula)) is not None:
        return bracketed
    parts = _split(answer)
    if len(parts) > 1:
        return None if _PRICE.search(answer) else _list(parts, formula)
    assigned = _ASSIGNED.fullmatch(answer)
    if assigned and "=" not in assigned[2]:
        value = assigned[2].strip()
        number = number_form(value)
        return Form(number, "number") if number is not None else expression_form(value, formula)
    if _PLUS_MINUS.search(answer):
        return _list([_PLUS_MINUS.sub(sign, answer) for sign in "+-"], True)
    return _algebra(answer, formula)


def is_equation_side(side: str) -> bool:
    """Return whether the left side of an equation is more than a name, such as `3x + y`."""
    return not _NAME.fullmatch(side) and is_algebra(side.strip(), False)


def _algebra(answer: str, formula: bool) -> Form | None:
    if not is_algebra(answer, formula):
        return None
    found = symbolic_form(answer)
    if found is None:
        return None
    above, _, below = found.partition("/")
    if below.isdigit() and above.removeprefix("-").isdigit():
        number = format_number(Fraction(int(above), int(below)))
        return None if number is None else Form(number, "number")
    return Form(found, "expression")


def _bracketed(answer: str, formula: bool) -> Form | None:
    """Return the form of a tuple, an interval or a set in its brackets."""
    body = answer.replace(r"\{", "{").replace(r"\}", "}")
    if len(body) < 3 or body[0] not in "([{" or body[-1] not in ")]}" or not _closes_at_end(body):
        return None
    parts = _split(body[1:-1], _COMMA)
    if body[0] == "{":
        return _list(parts, formula)
    if len(parts) < 2:
        return None
    forms = [_part(part, formula) for part in parts]
    if any(form is None for form in forms):
        return None
    return Form(f"{body[0]}{', '.join(form for form in forms if form)}{body[-1]}", "tuple")


def _list(parts: Sequence[str], formula: bool) -> Form | None:
    """Return the form of solutions: `x =` is dropped if it is said of all, or only of the first."""
    parts = [part.strip().strip("$").strip() for part in parts]
    assigned = [_ASSIGNED.fullmatch(part) for part in parts]
    names = {one[1] for one in assigned if one}
    dropped = len(names) == 1 and (all(assigned) or (assigned[0] is not None and not any(assigned[1:])))
    forms = set()
    for part, one in zip(parts, assigned, strict=True):
        form = _part(one[2] if one else part, formula)
        if form is None or (one and not dropped and form.startswith(("(", "["))):
            return None
        forms.add(form if one is None or dropped else f"{one[1]} = {form}")
    return Form(", ".join(sorted(forms, key=_order)), "number" if len(forms) == 1 else "list")


def _part(part: str, formula: bool) -> str | None:
    """Return the form of one part, without words; a letter is a variable."""
    part = part.strip()
    if _WORD.search(part) and not is_algebra(part, formula):
        return None
    number = number_form(part)
    if number is not None:
        return number
    if len(part) == 1 and part.isalpha():
        return part.lower()
    found = _bracketed(part, formula) or _algebra(part, True)
    return None if found is None else found.text


def _order(form: str) -> tuple[bool, Fraction, str]:
    """Return the key by which the parts of a list are sorted: numbers first, by value."""
    try:
        return False, Fraction(form), form
    except (ValueError, ZeroDivisionError):
        return True, Fraction(0), form


def _split(answer: str, separator: re.Pattern[str] = _SEPARATOR) -> list[str]:
    pieces = _top_level(answer, separator)
    return pieces if all(piece.strip() for piece in pieces) else [answer]


def _top_level(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at matches that are in no bracket."""
    pieces, start = [], 0
    outside = _outside(text)
    for found in separator.finditer(text):
        if outside(found.start()):
            pieces.append(text[start : found.start()])
            start = found.end()
    return [*pieces, text[start:]]


def _outside(text: str) -> Callable[[int], bool]:
    depths, depth = [], 0
    for character in text:
        depths.append(depth)
        depth += (character in "([{") - (character in ")]}")
    return lambda place: depths[place] == 0


def _closes_at_end(body: str) -> bool:
    """Return whether the bracket at the start is closed by the one at the end."""
    depth = 0
    for place, character in enumerate(body):
        depth += (character in "([{") - (character in ")]}")
        if depth <= 0:
            return place == len(body) - 1
    return False
