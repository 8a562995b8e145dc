"""Tasks: an instruction and instances of it.

A task is what a line of Self-Instruct's `seed_tasks.jsonl` holds (Wang et al., 2212.10560, section 2.1).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from selfimprove_dagster.text import one_line


@dataclass(frozen=True)
class Instance:
    """One example of a task; `input` is empty where the instruction says it all."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction with its instances; `is_classification` is None if unknown."""

    instruction: str
    instances: tuple[Instance, ...] = ()
    is_classification: bool | None = None


def normalise_instruction(text: str) -> str:
    """What two instructions that are the same have in common.

    Compatibility forms and case folded (NFKC), white space collapsed, closing `.`, `:` and `;` and what
    precedes them dropped. `?` and `!` stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return one_line(unicodedata.normalize("NFKC", folded)).rstrip(".:; ")
