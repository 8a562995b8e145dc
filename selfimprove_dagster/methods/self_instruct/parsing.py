"""New tasks out of a completion of the generation prompt: a numbered list, more or less.

The prompt ends in a number, so the completion opens with the text of that task. Models then number on, start
again at 1, repeat a number, use bullets, write `Task 9:`, add an input to an instruction, and talk before and
after. Every piece of a completion becomes a `ParsedTask`, the pieces that are no task with the reason. The
number that continues the tasks always begins one. Another begins one unless it is

    in a closed block of code,
    further in than the list itself, or
    in a list of its own, which starts at 1 after a colon and counts on from there.

A line without a number goes on with the task above it, up to a line that opens a field (`Input:`, `Output:`)
or, where the list ends or starts anew, up to an empty line. Bullets count where there are no numbers.

The published code splits at any line that begins with a number, and throws away the whole of a completion
that met the token limit; here only the piece that was cut off is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLANK = "blank"


CUT_OFF = "cut off at the token limit"


OUTSIDE = "text outside the list"


NOT_INSTRUCTION = "an input or output, not an instruction"


_WORDS = (
    "task|instruction|problem|question|exercise|aufgabe|anweisung|tâche|tarea|tarefa|compito|zadanie|"
    "задача|задание|任务|任務|タスク|課題|과제"
)


_MARKER = re.compile(
    rf"""(?P<indent>[ \t]*) (?:[#>]+[ \t]+|[-*•][ \t]+)? (?:\*\*)?
    (?: (?:{_WORDS}) [ \t]* [#№]? [ \t]* (?P<named>\d{{1,3}}) (?: (?:\*\*)? [ \t]* [.):：．、–—-] | [ \t]*$ )
      | [(\[#№]? (?P<plain>\d{{1,3}}) (?: [ \t]? (?:\\?[.)\]]|[:：．、。]) (?!\d) | \s*\Z ) )
    (?:\*\*)? [ \t]*""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


_BULLET = re.compile(r"(?P<indent>[ \t]*)[-*•–][ \t]+(?=\S)")


_FENCE = re.compile(r"[ \t]*(?:```|~~~)")


_FIELD = re.compile(
    r"[ \t]*(?:\*\*)?(?:(?:example|sample|expected)[ \t]+)?(?:input|output|answer|response)[ \t]*\d*(?:\*\*)?"
    r"[ \t]*[:：]",
    re.IGNORECASE,
)


_LABEL = re.compile(r"(?:\*\*)?(?:task|instruction)(?:\*\*)?[ \t]*[:：](?:\*\*)?\s*", re.IGNORECASE)


_STRAY = re.compile(r"[-–—:.)•]+[ \t]+(?=[^\W\d])")


_CHAT = re.compile(r"(?:sure|certainly|of course|okay|ok|absolutely)\b", re.IGNORECASE)


_ANNOUNCEMENT = re.compile(r"(?:here|below) (?:are|is)\b", re.IGNORECASE)


_BULLETED = -1
"""The number of a task that bears none."""


@dataclass(frozen=True)
class ParsedTask:
    """A piece of a completion: `instruction` is text[start:end], each line without white space at its end.

    `dropped` is None for a task, and else why the piece is none.
    """

    instruction: str
    start: int
    end: int
    dropped: str | None = None


@dataclass(frozen=True)
class _Line:
    start: int
    end: int
    in_code: bool


@dataclass(frozen=True)
class _Marker:
    """What begins a task: its first character, the first one of the task, and its number."""

    start: int
    content: int
    indent: int
    number: int


def parse_tasks(
    text: str, finish_reason: str, first_number: int = 9, *, answers: bool = False
) -> list[ParsedTask]:
    """The pieces of a completion in order, none lost: tasks, and what is no task with its reason.

    `first_number` is the number in which the prompt ended; with `answers` the text is the answer of a chat model, which
    writes all numbers itself, and without any no list. With the finish reason `length` the piece in which the text
    ends is dropped as cut off.
    """
    lines = list(_lines(text, cut_off=finish_reason == "length"))
    numbered = [marker for line in lines if not line.in_code and (marker := _marker(text, line))]
    markers = list(_beginnings(text, numbered, first_number, answers)) or _bullets(text, lines, answers)
    if answers and not markers:
        return [_piece(text, 0, len(text), OUTSIDE)]
    pieces = []
    head = _Marker(0, 0, 0, first_number)
    for marker, following in zip([head, *markers], [*markers, None], strict=True):
        end = len(text) if following is None else following.start
        if marker is head and following:
            if answers and not text[:end].strip():
                continue
            if answers or _is_preamble(text[:end], following.number, first_number):
                pieces.append(_piece(text, 0, end, OUTSIDE))
                continue
        parts = list(_inline(text, marker, end))
        for number, part_start, part_end in parts:
            goes_on = part_end < end or (
                following is not None and following.number in (number + 1, _BULLETED)
            )
            pieces += _task_and_rest(text, part_start, part_end, lines, goes_on)
    if finish_reason == "length" and pieces[-1].dropped is None:
        pieces[-1] = _piece(text, pieces[-1].start, pieces[-1].end, CUT_OFF)
    return pieces


def _lines(text: str, cut_off: bool) -> Iterator[_Line]:
    """Lines with their places; a block of code that is never closed is none, unless the text was cut off."""
    found = [match.span() for match in re.finditer(r"[^\n]*\n|[^\n]+\Z", text)]
    fences = [index for index, (start, _) in enumerate(found) if _FENCE.match(text, start)]
    if len(fences) % 2:
        fences = [*fences, len(found)] if cut_off else fences[:-1]
    in_code = {
        index
        for opening, closing in zip(fences[::2], fences[1::2], strict=True)
        for index in range(opening, closing + 1)
    }
    for index, (start, end) in enumerate(found):
        yield _Line(start, end, index in in_code)


def _marker(text: str, line: _Line) -> _Marker | None:
    match = _MARKER.match(text, line.start)
    if match is None:
        return None
    number = int(match["named"] or match["plain"])
    return _Marker(line.start, match.end(), len(match["indent"].expandtabs(4)), number)


def _beginnings(
    text: str, numbered: Sequence[_Marker], first_number: int, answers: bool
) -> Iterator[_Marker]:
    """Those of the numbers that begin a task: in answers always the first one."""
    margin = min((marker.indent for marker in numbered), default=0)
    current, content = numbered[0].number - 1 if answers and numbered else first_number, 0
    own_list = 0  # the number that a list inside the current task comes to next
    for marker in numbered:
        above = text[content : marker.start].strip()
        if own_list and marker.number == own_list:
            own_list += 1
            continue
        if marker.number != current + 1:
            if marker.indent >= margin + 2:
                continue
            if marker.number == 1 and above.endswith((":", "：")) and not _announces(above):
                own_list = 2
                continue
        own_list, current, content = 0, marker.number, marker.content
        yield marker


def _bullets(text: str, lines: Sequence[_Line], answers: bool) -> list[_Marker]:
    """Bullets that begin a task; after a colon they are a list inside the task that it ends, but in answers."""
    found = [
        _Marker(line.start, match.end(), len(match["indent"].expandtabs(4)), _BULLETED)
        for line in lines
        if not line.in_code and (match := _BULLET.match(text, line.start))
    ]
    if not found:
        return []
    above = text[: found[0].start].strip()
    if above.endswith((":", "：")) and not answers and not _announces(above):
        return []
    margin = min(marker.indent for marker in found)
    return [marker for marker in found if marker.indent < margin + 2]


def _announces(text: str) -> bool:
    return bool(_CHAT.match(text) or _ANNOUNCEMENT.match(text))


def _is_preamble(head: str, next_number: int, first_number: int) -> bool:
    """Whether the text before the first number talks about the list instead of opening it."""
    head = head.strip()
    if next_number in (1, first_number, _BULLETED):
        return _announces(head)
    return bool(_CHAT.match(head)) and head.endswith((":", "："))


def _inline(text: str, marker: _Marker, end: int) -> Iterator[tuple[int, int, int]]:
    """Tasks that follow each other on one line: number, start and end of each."""
    number, start = marker.number, marker.content
    while following := re.compile(rf"(?<=[.?!:;\"”])[ \t]+{number + 1}[.)][ \t]+(?=[A-Z\"“])").search(
        text, start, end
    ):
        yield number, start, following.start()
        number, start = number + 1, following.end()
    yield number, start, end


def _task_and_rest(
    text: str, start: int, end: int, lines: Sequence[_Line], goes_on: bool
) -> Iterator[ParsedTask]:
    """The task at `start`, and what is between it and `end` without being part of it.

    An empty line ends the task if the list does not go on and no colon announces what comes.
    """
    last, after_blank = "", False  # the last character so far, and whether an empty line followed it
    for line in lines:
        if line.end <= start or line.start >= end:
            continue
        place = max(line.start, start)
        shown = text[place : min(line.end, end)].strip()
        rest = None
        if not line.in_code and _FIELD.match(text, place, end):
            rest = NOT_INSTRUCTION
        elif not line.in_code and shown and after_blank and last not in ":：" and not goes_on:
            rest = OUTSIDE
        if rest is not None:
            if last:
                yield _piece(text, start, place)
            yield _piece(text, place, end, rest)
            return
        after_blank = bool(last) and not shown
        last = shown[-1:] or last
    yield _piece(text, start, end)


def _piece(text: str, start: int, end: int, dropped: str | None = None) -> ParsedTask:
    """The piece without white space, labels, bold marks and quotes around it."""
    if dropped is None or dropped == CUT_OFF:
        start = _skip(_LABEL, text, _skip(_STRAY, text, start, end), end)
    start, end = _stripped(text, start, end)
    inner = text[start:end]
    if inner.startswith("**") and inner.endswith("**") and inner.count("**") == 2:
        start, end = _stripped(text, start + 2, max(start + 2, end - 2))
    elif inner.endswith("**") and inner.count("**") == 1:
        start, end = _stripped(text, start, end - 2)
    inner = text[start:end]
    if (
        len(inner) > 1
        and (inner[0], inner[-1]) in {('"', '"'), ("“", "”")}
        and inner.count(inner[0]) in (1, 2)
    ):
        start, end = _stripped(text, start + 1, end - 1)
    instruction = "\n".join(line.rstrip() for line in text[start:end].split("\n"))
    return ParsedTask(instruction, start, end, dropped or (None if instruction else BLANK))


def _skip(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    start, end = _stripped(text, start, end)
    match = pattern.match(text, start, end)
    return match.end() if match else start


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The place without white space at its ends; an empty one stays where it starts."""
    inner = text[start:end]
    if not inner.strip():
        return start, start
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())
