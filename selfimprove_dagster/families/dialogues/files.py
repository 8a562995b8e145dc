"""Prompts, comparisons made by people, and held-out prompts from files: good lines go in, bad ones are kept.

The kinds of files are those of `question_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.families.dialogues.prompts import ASSISTANT, HUMAN
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    DialogueEvaluationSection,
    PromptFile,
)
from selfimprove_dagster.rows import Rejected, file_name, text_field
from selfimprove_dagster.seeds.files import DUPLICATE, Question, read_each
from selfimprove_dagster.text import normalise_question

RED_TEAM, HELPFUL = "red_team", "helpful"


_SPEAKERS = {"user": HUMAN, "human": HUMAN, "assistant": ASSISTANT, "system": HUMAN}


@dataclass(frozen=True)
class SeedPrompt:
    """What a human says, or a dialogue that ends with the human's turn, and where it stands."""

    prompt: str
    kind: str
    response: str | None
    source_file: str
    source_line: int
    licence: str


@dataclass(frozen=True)
class SeedComparison:
    """Two responses to a prompt, of which a person chose one, and where they stand."""

    prompt: str
    chosen: str
    rejected: str
    source_file: str
    source_line: int
    licence: str


@dataclass(frozen=True)
class HeldOutPrompt(Question):
    """A held-out prompt (`question`) and what tells a helpful and a harmless response to it.

    `wanted`: a response is helpful when it says one phrase of each list; `unwanted`: it is harmless when it
    says none of these. `chosen`: the response that people preferred, where it is known.
    """

    wanted: tuple[tuple[str, ...], ...] = ()
    unwanted: tuple[str, ...] = ()
    chosen: str | None = None


def read_prompts(section: PromptFile) -> tuple[list[SeedPrompt], list[Rejected]]:
    """All prompts of a file, and all lines that are none; a prompt counts once.

    Raises SeedFileError when the file as a whole cannot be read.
    """
    path = Path(section.file)

    def parse(row: Any, line: int) -> SeedPrompt:
        row = {section.prompt_field: row} if isinstance(row, str) else row
        prompt = _filled(row, section.prompt_field, section.longest)
        kind = text_field(row, section.kind_field) if row.get(section.kind_field) else RED_TEAM
        if kind not in (RED_TEAM, HELPFUL):
            raise ValueError(
                f"field `{section.kind_field}` must be {RED_TEAM} or {HELPFUL}, not {kind!r:.40}"
            )
        response = None
        if row.get(section.response_field):
            response = _filled(row, section.response_field, section.longest)
        return SeedPrompt(prompt, kind, response, file_name(path), line, section.licence)

    return read_each(path, parse, lambda seed: [(normalise_question(seed.prompt), DUPLICATE)], section.rows)


def read_comparisons(section: ComparisonFile) -> tuple[list[SeedComparison], list[Rejected]]:
    """All comparisons of a file, and all lines that are none.

    A row holds prompt, chosen and rejected as text or as lists of messages (`role`, `content`); without a
    prompt, chosen and rejected are whole dialogues that differ in their last turn. Raises SeedFileError.
    """
    path = Path(section.file)

    def parse(row: Any, line: int) -> SeedComparison:
        if not isinstance(row, Mapping):
            raise ValueError("a line of plain text is no comparison")
        given = row.get(section.prompt_field)
        chosen = _dialogue(row, section.chosen_field, section.longest)
        rejected = _dialogue(row, section.rejected_field, section.longest)
        if given in (None, "", []):
            prompt, chosen, rejected = _without_common_turns(chosen, rejected)
        else:
            prompt = _dialogue(row, section.prompt_field, section.longest)
            chosen, rejected = _last_turn(chosen), _last_turn(rejected)
        if normalise_question(chosen) == normalise_question(rejected):
            raise ValueError("the chosen and the rejected response are the same")
        return SeedComparison(prompt, chosen, rejected, file_name(path), line, section.licence)

    def keys(seed: SeedComparison) -> Iterable[tuple[str, str]]:
        texts = (seed.prompt, seed.chosen, seed.rejected)
        yield "\0".join(map(normalise_question, texts)), DUPLICATE

    return read_each(path, parse, keys, section.rows)


def read_held_out_prompts(section: DialogueEvaluationSection) -> tuple[list[HeldOutPrompt], list[Rejected]]:
    """The exam's prompts (`prompt`, `wanted`, `unwanted`), and all lines that are none."""
    path = Path(section.file)

    def parse(row: Any, line: int) -> HeldOutPrompt:
        prompt = _filled(row, "prompt", None)
        wanted = [[one] if isinstance(one, str) else one for one in row.get("wanted") or []]
        unwanted = row.get("unwanted") or []
        for phrases in (*wanted, unwanted):
            if not isinstance(phrases, list) or not all(
                isinstance(one, str) and one.strip() for one in phrases
            ):
                raise ValueError("fields `wanted` (lists of phrases) and `unwanted` (phrases) must hold text")
        if not wanted and not unwanted:
            raise ValueError(
                "field `wanted` or field `unwanted` must hold a phrase: nothing tells right from wrong"
            )
        difficulty = text_field(row, section.difficulty_field) if section.difficulty_field else None
        return HeldOutPrompt(
            prompt,
            file_name(path),
            line,
            section.licence,
            difficulty=difficulty,
            wanted=tuple(map(tuple, wanted)),
            unwanted=tuple(unwanted),
            chosen=str(row.get(section.response_field) or "").strip() or None,
        )

    return read_each(path, parse, lambda one: [(normalise_question(one.question), DUPLICATE)], section.rows)


def _filled(row: Any, field: str, longest: int | None) -> str:
    text = text_field(row, field)
    if not text:
        raise ValueError(f"field `{field}` is empty")
    if longest is not None and len(text) > longest:
        raise ValueError(
            f"field `{field}` has {len(text):,} characters, more than the {longest:,} of `longest`"
        )
    return text


def _dialogue(row: Mapping[str, Any], field: str, longest: int) -> str:
    """The text of a field; messages are written as turns."""
    given = row.get(field)
    if isinstance(given, Sequence) and not isinstance(given, str):
        turns = []
        for message in given:
            speaker = _SPEAKERS.get(str(message.get("role"))) if isinstance(message, Mapping) else None
            if speaker is None or not isinstance(message.get("content"), str):
                raise ValueError(f"field `{field}` must hold messages with `role` and `content`")
            turns.append(f"{speaker} {message['content'].strip()}")
        return _filled({field: "\n\n".join(turns)}, field, longest)
    return _filled(row, field, longest)


def _last_turn(response: str) -> str:
    """A response without the name of who says it."""
    return response.removeprefix(ASSISTANT).strip()


def _without_common_turns(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and both responses of two dialogues that begin alike."""
    marker = f"\n\n{ASSISTANT}"
    before, found, first = chosen.rpartition(marker)
    other, found_too, second = rejected.rpartition(marker)
    if not found or not found_too or before != other:
        raise ValueError(
            f"without a prompt, both must be dialogues of `{HUMAN}` and `{ASSISTANT}` that differ at the end"
        )
    if not first.strip() or not second.strip():
        raise ValueError("a dialogue ends without a response")
    return before.strip(), first.strip(), second.strip()
