"""General examples from files, which are trained on beside a dataset: dialogues, prompts with completions, plain text.

The formats of files are those of `rows`, and those of messages are in `seeds.messages`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.conversation import Message, Turn, shown, stored
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.rows import (
    Place,
    Rejected,
    Unreadable,
    read_rows,
    rejection,
    text_field,
    with_first_instance,
)
from selfimprove_dagster.seeds.files import source_name
from selfimprove_dagster.seeds.messages import LISTS, listed, turns_in
from selfimprove_dagster.words import count

_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("question", "answer"))
"""Fields of a prompt and of what is said after it, in published rows."""


@dataclass(frozen=True)
class GeneralExample:
    """A text to learn, after a prompt unless it is plain text, and its place.

    `prompt` is a stored conversation for a chat model, and text for others; None for plain text.
    """

    prompt: str | None
    completion: str
    file: str
    line: int


def check_general(source: Path) -> tuple[int, list[Rejected]]:
    """Return how many rows of a source are examples, and the lines that are none; blank lines do not count.

    Raises SeedFileError if it cannot be read, or if no row is an example.
    """
    usable, rejected = 0, []
    for at, row, read in _read(source):
        if not isinstance(read, ValueError):
            usable += 1
        elif (line := rejection(at, row, read)).excerpt:
            rejected.append(line)
    if not usable:
        first = f"; the first: {_reason(rejected[0])}" if rejected else ": it is empty"
        raise SeedFileError(f"{source} has no usable row{first}")
    return usable, rejected


def left_out(source: Path, rejected: Sequence[Rejected]) -> str:
    """Return the sentence on the lines of a source that are no examples."""
    are = "is" if len(rejected) == 1 else "are"
    lines = f"{count(len(rejected), 'line')} of {source_name(source)}"
    return f"{lines} {are} left out, the first: {_reason(rejected[0])}"


def sample_general(
    source: Path, wanted: int, seed: int, chat: bool
) -> tuple[list[GeneralExample], list[Rejected]]:
    """Return up to `wanted` random examples of a source in its order, and all lines of it that are none.

    The source is read twice, and only the sample is kept. Raises SeedFileError as `check_general` does.
    """
    usable, rejected = check_general(source)
    chosen = {*random.Random(seed).sample(range(usable), min(wanted, usable))}
    examples = ((at, read) for at, _, read in _read(source, chat) if not isinstance(read, ValueError))
    found = [
        GeneralExample(*read, at.file, at.line)
        for number, (at, read) in enumerate(examples)
        if number in chosen
    ]
    return found, rejected


def _read(
    source: Path, chat: bool = False
) -> Iterator[tuple[Place, Any, tuple[str | None, str] | ValueError]]:
    """Yield the place of each row, the row, and its prompt and completion or why it has none."""
    for at, row in read_rows(source):
        try:
            yield at, row, parse_general(row, chat)
        except ValueError as error:
            yield at, row, error


def _reason(line: Rejected) -> str:
    return f"{line.source_file}, line {line.source_line}: {line.reason}"


def parse_general(row: Any, chat: bool) -> tuple[str | None, str]:
    """Return prompt and completion of a row; the prompt is None for plain text. Raises ValueError if it has neither."""
    if isinstance(row, Unreadable):
        raise ValueError(row.reason)
    if isinstance(row, str):
        if not row:
            raise ValueError("empty line")
        return None, row
    if not isinstance(row, Mapping):
        raise ValueError(f"an object is needed, not {type(row).__name__}")
    for name in LISTS:
        if row.get(name):
            return _of_dialogue(turns_in(listed(row[name], name), name), name, chat)
    row = with_first_instance(row)
    for asked, said in _PAIRS:
        if row.get(asked) and row.get(said):
            prompt = text_field(row, asked)
            if row.get("input"):
                prompt = f"{prompt}\n\n{text_field(row, 'input')}"
            completion = _filled(row, said)
            if asked == "prompt" and not chat:
                completion = str(row[said])
            return (stored([Message("user", prompt)]) if chat else _as_given(row, asked, prompt)), completion
    if row.get("text") is not None:
        return None, _filled(row, "text")
    fields = ", ".join(map(str, row)) or "none"
    raise ValueError(
        f"a general example has {', '.join(LISTS)}, or a prompt and a completion, or a text; the fields are: {fields}"
    )


def _filled(row: Mapping[str, Any], field: str) -> str:
    """Return a field's text. Raises ValueError if it is not text or is empty."""
    text = text_field(row, field)
    if not text:
        raise ValueError(f"field `{field}` is empty")
    return text


def _as_given(row: Mapping[str, Any], field: str, prompt: str) -> str:
    """Return a prompt for a model that reads text: as the row has it, or with a line break before the answer."""
    return str(row[field]) if field == "prompt" and not row.get("input") else f"{prompt}\n"


def _of_dialogue(turns: Sequence[Turn], field: str, chat: bool) -> tuple[str, str]:
    """Return the dialogue up to the assistant's last turn, and this turn."""
    last = max((at for at, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    said = turns[last]
    if not last or not isinstance(said, Message) or not said.content.strip():
        raise ValueError(f"field `{field}` has no text of the assistant after another message")
    before = stored(turns[:last])
    return (before if chat else f"{shown(before)}\n\nassistant: "), said.content.strip()
