"""Instances out of a completion of the two instance prompts.

A field ends where a line begins with the name of a field, with `Example` and a number, or with `Task:`; at
that last one the model has gone on to another task, and the rest is dropped. Within an example the fields
come in the order that was shown: input and output, or an output alone for a task without input; label and
input in the label-first form. Whatever cannot be paired for certain is dropped with its reason. Empty outputs
are left to the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfimprove_dagster.families.tasks.answers import says_nothing, without_remark

CUT_OFF = "cut off at the token limit"


NEXT_TASK = "it belongs to another task"


OUTSIDE = "text outside any field"


MISSING = "there is no {} field"


SWAPPED = "the fields come in the wrong order"


@dataclass(frozen=True)
class ParsedInstance:
    """An instance and its place in the completion; `dropped` is None, or says why it cannot be used."""

    input: str
    output: str
    start: int
    end: int
    dropped: str | None = None


@dataclass(frozen=True)
class _Field:
    """A field with its value; `name` is empty for text that has none. The place includes the name."""

    name: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class _Form:
    """The two fields in the order in which they are written, and the one that holds the output."""

    first: str
    second: str
    output: str
    heading: re.Pattern[str]


def _form(first: str, second: str, output: str) -> _Form:
    named = rf"(?:class[ \t]+)?(?P<field>{first}|{second}|task)[ \t]*\d*[*_]*[ \t]*[:：]"
    numbered = r"(?P<example>example)[ \t]*(?:\#?\d+[ \t]*[.:)]?|[.:]?[*_]*[ \t]*$)"
    pattern = rf"^[ \t]*(?:[#>*_-]+[ \t]*)?(?:{named}|{numbered})[*_]*[ \t]*"
    return _Form(first, second, output, re.compile(pattern, re.IGNORECASE | re.MULTILINE))


_INPUT_FIRST = _form("input", "output", output="output")


_OUTPUT_FIRST = _form("label", "input", output="label")


def parse_input_first(text: str, finish_reason: str) -> list[ParsedInstance]:
    """Instances of a task that is no classification, in order; `input` is empty where none was given (or `None`).

    With the finish reason `length` the last one is dropped as cut off (published code), unless the model had
    begun another example or task after it.
    """
    return _instances(text, finish_reason, _INPUT_FIRST)


def parse_output_first(text: str, finish_reason: str) -> list[ParsedInstance]:
    """Instances of a classification task: the label is the output, and each must have an input.

    With the finish reason `length` the last one is dropped as in `parse_input_first`.
    """
    return _instances(text, finish_reason, _OUTPUT_FIRST)


def _instances(text: str, finish_reason: str, form: _Form) -> list[ParsedInstance]:
    whole, text = text, without_remark(text)
    cut_off = finish_reason == "length" and text == whole
    fields = list(_fields(text, form))
    task = next((place for place, field in enumerate(fields) if field.name == "task"), len(fields))
    parsed: list[ParsedInstance] = []
    example: list[_Field] = []
    for field in fields[:task]:
        if field.name == "example":
            parsed += _paired(example, form)
            example = []
        else:
            example.append(field)
    parsed += _paired(example, form)
    if fields[task:]:
        parsed.append(_instance(fields[task:], form, NEXT_TASK))
    elif cut_off and example:
        last = parsed[-1]
        parsed[-1] = ParsedInstance(last.input, last.output, last.start, last.end, CUT_OFF)
    return parsed


def _fields(text: str, form: _Form) -> Iterator[_Field]:
    """The fields and headings in order; text after the heading of an example, or before all, has no name."""
    headings = list(form.heading.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)]
    if text[: ends[0]].strip():
        yield _Field("", text[: ends[0]].strip(), 0, ends[0])
    for heading, end in zip(headings, ends[1:], strict=True):
        value = text[heading.end() : end].strip()
        if heading["field"]:
            yield _Field(heading["field"].lower(), value, heading.start(), end)
            continue
        yield _Field("example", "", heading.start(), heading.end())
        if value:
            yield _Field("", value, heading.end(), end)


def _paired(example: Sequence[_Field], form: _Form) -> Iterator[ParsedInstance]:
    """The instances of one example; without headings all fields are one."""
    if not example:
        return
    names = [field.name for field in example]
    if names == ["output"] and form is _INPUT_FIRST:
        yield _instance(example, form)
        return
    if names[0] == "" and form.first in names[1:2]:  # talk before the fields
        yield _instance(example[:1], form, OUTSIDE)
        example, names = example[1:], names[1:]
    if names[0] != form.first:
        yield _instance(example, form, SWAPPED if names[0] else OUTSIDE)
        return
    starts = [place for place, name in enumerate(names) if name == form.first]
    for start, end in zip(starts, [*starts[1:], len(example)], strict=True):
        unit = example[start:end]
        if len(unit) == 1:
            yield _instance(unit, form, MISSING.format(form.second))
        else:
            yield _instance(unit, form, None if len(unit) == 2 else SWAPPED)


def _instance(fields: Sequence[_Field], form: _Form, dropped: str | None = None) -> ParsedInstance:
    values: dict[str, str] = {}
    for field in fields:
        values.setdefault(field.name, field.value)
    output = values.get(form.output, "")
    given = values.get("input", "")
    if form is _INPUT_FIRST and says_nothing(given):
        given = ""
    return ParsedInstance(given, output, fields[0].start, fields[-1].end, dropped)
