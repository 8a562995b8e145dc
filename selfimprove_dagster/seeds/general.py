"""General examples from files, which are trained on beside a dataset: dialogues, prompts with completions, plain text.

The formats of files are those of `rows`, and those of messages are in `seeds.messages`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.conversation import Message, Turn, shown, stored
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.rows import (
    Rejected,
    Unreadable,
    read_rows,
    rejection,
    text_field,
    with_first_instance,
)
from selfimprove_dagster.seeds.messages import LISTS, listed, turns_in

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


def sample_general(
    source: Path, wanted: int, seed: int, chat: bool
) -> tuple[list[GeneralExample], list[Rejected]]:
    """Return up to `wanted` random examples of a source in its order, and the sampled lines that are none.

    The source is read twice, and only the sample is kept. Raises SeedFileError if it cannot be read, or if none of the
    sampled lines is an example.
    """
    total = sum(1 for _ in read_rows(source))
    chosen = {*random.Random(seed).sample(range(total), min(wanted, total))}
    found: list[GeneralExample] = []
    rejected: list[Rejected] = []
    for number, (at, row) in enumerate(read_rows(source)):
        if number not in chosen:
            continue
        try:
            prompt, completion = parse_general(row, chat)
        except ValueError as error:
            rejected.append(rejection(at, row, error))
        else:
            found.append(GeneralExample(prompt, completion, at.file, at.line))
    if not found:
        first = (
            f"{rejected[0].source_file}, line {rejected[0].source_line}: {rejected[0].reason}"
            if rejected
            else ""
        )
        raise SeedFileError(f"{source} has no general example" + (f"; {first}" if first else ": it is empty"))
    return found, rejected


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
            completion = str(row[said]) if asked == "prompt" and not chat else text_field(row, said)
            return (stored([Message("user", prompt)]) if chat else _as_given(row, asked, prompt)), completion
    if row.get("text"):
        return None, text_field(row, "text")
    fields = ", ".join(map(str, row)) or "none"
    raise ValueError(
        f"a general example has {', '.join(LISTS)}, or a prompt and a completion, or a text; the fields are: {fields}"
    )


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
