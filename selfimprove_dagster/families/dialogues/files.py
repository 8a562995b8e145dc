"""Prompts, comparisons made by people, and held-out prompts from files: good lines go in, bad ones are kept.

The kinds of files are those of `question_files`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.conversation import Message
from selfimprove_dagster.families.dialogues.prompts import ASSISTANT, HUMAN, dialogue_of, turns
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    DialogueEvaluationSection,
    JudgedDialogueEvaluationSection,
    PromptFile,
)
from selfimprove_dagster.rows import Rejected, file_name, text_field
from selfimprove_dagster.seeds.files import DUPLICATE, Question, read_each
from selfimprove_dagster.text import normalise_question

RED_TEAM, HELPFUL = "red_team", "helpful"


MESSAGES = "messages"
"""The field that holds the messages of a prompt where a row has no text of it."""


_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


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

    A prompt is text, or a list of messages (`role`, `content`) in its field or in `messages`, which ends with the
    user. Raises SeedFileError when the file as a whole cannot be read.
    """
    path = Path(section.file)

    def parse(row: Any, line: int) -> SeedPrompt:
        row = {section.prompt_field: row} if isinstance(row, str) else row
        prompt = _prompt(row, section.prompt_field, section.longest)
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

    A row holds prompt (or `messages`), chosen and rejected as text or as lists of messages (`role`, `content`);
    without a prompt, chosen and rejected are whole dialogues that differ in their last turn. Raises SeedFileError.
    """
    path = Path(section.file)

    def parse(row: Any, line: int) -> SeedComparison:
        if not isinstance(row, Mapping):
            raise ValueError("a line of plain text is no comparison")
        fields = (section.chosen_field, section.rejected_field)
        if _is_given(row, section.prompt_field) or _is_given(row, MESSAGES):
            prompt = _prompt(row, section.prompt_field, section.longest)
            chosen, rejected = (_response(row, field, prompt, section.longest) for field in fields)
        elif any(_is_list(row.get(field)) for field in fields):
            prompt, chosen, rejected = _common_messages(row, *fields, section.longest)
        else:
            prompt, chosen, rejected = _without_common_turns(
                *(_filled(row, field, section.longest) for field in fields)
            )
        if normalise_question(chosen) == normalise_question(rejected):
            raise ValueError("the chosen and the rejected response are the same")
        return SeedComparison(prompt, chosen, rejected, file_name(path), line, section.licence)

    def keys(seed: SeedComparison) -> Iterable[tuple[str, str]]:
        texts = (seed.prompt, seed.chosen, seed.rejected)
        yield "\0".join(map(normalise_question, texts)), DUPLICATE

    return read_each(path, parse, keys, section.rows)


def read_held_out_prompts(section: DialogueEvaluationSection) -> tuple[list[HeldOutPrompt], list[Rejected]]:
    """The exam's prompts (`prompt`, `wanted`, `unwanted`), and all lines that are none.

    `wanted` or `unwanted` must be there unless a model judges the responses.
    """
    judged = isinstance(section, JudgedDialogueEvaluationSection) and section.judge is not None
    path = Path(section.file)

    def parse(row: Any, line: int) -> HeldOutPrompt:
        prompt = _prompt(row, "prompt", None)
        wanted = [[one] if isinstance(one, str) else one for one in row.get("wanted") or []]
        unwanted = row.get("unwanted") or []
        for phrases in (*wanted, unwanted):
            if not isinstance(phrases, list) or not all(
                isinstance(one, str) and one.strip() for one in phrases
            ):
                raise ValueError("fields `wanted` (lists of phrases) and `unwanted` (phrases) must hold text")
        if not wanted and not unwanted and not judged:
            raise ValueError(
                "field `wanted` or field `unwanted` must hold a phrase: nothing tells right from wrong (where the "
                "method has evaluation.judge, a model can judge the responses instead)"
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


def _is_given(row: Mapping[str, Any], field: str) -> bool:
    return row.get(field) not in (None, "", [])


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _prompt(row: Any, field: str, longest: int | None) -> str:
    """The prompt of a row: text, or the text of messages that end with the user."""
    if isinstance(row, Mapping) and not _is_given(row, field) and row.get(MESSAGES) not in (None, ""):
        field, given = MESSAGES, row[MESSAGES]
        if isinstance(given, str):  # as a table of text has it
            try:
                given = json.loads(given)
            except ValueError:
                raise ValueError(f"field `{field}` must hold a list of messages, as JSON") from None
        if not _is_list(given):
            raise ValueError(f"field `{field}` must hold a list of messages, not {type(given).__name__}")
        row = {field: given}
    if not isinstance(row, Mapping) or not _is_list(row.get(field)):
        return _filled(row, field, longest)
    messages = _messages(row, field, longest)
    if messages[-1].role != "user":
        raise ValueError(
            f"field `{field}` must end with what the user says, not with the {messages[-1].role}: leave the last "
            "message out"
        )
    return _opened(messages, field)


def _messages(row: Mapping[str, Any], field: str, longest: int | None) -> list[Message]:
    """The messages of a field that holds a list of them."""
    found = []
    for number, message in enumerate(row[field], start=1):
        given = message if isinstance(message, Mapping) else {}
        role, content = _ROLES.get(str(given.get("role"))), given.get("content")
        if role is None or not isinstance(content, str):
            raise ValueError(
                f"field `{field}` must hold messages with `role` (system, user or assistant) and `content` (text): "
                f"message {number} does not"
            )
        name = f"{field}[{number - 1}].content"
        found.append(Message(role, _filled({name: content}, name, longest)))
    if not found:
        raise ValueError(f"field `{field}` holds no messages")
    return found


def _opened(messages: Sequence[Message], field: str) -> str:
    """The text of messages, which begin with the user, or with the system and then the user."""
    first = next((one.role for one in messages if one.role != "system"), "system")
    if first != "user":
        raise ValueError(f"field `{field}` must begin with what the user says, after the system at most")
    return dialogue_of(messages)


def _response(row: Mapping[str, Any], field: str, prompt: str, longest: int | None) -> str:
    """A response without the name of who says it, and without the prompt that messages repeat."""
    if not _is_list(row.get(field)):
        return _filled(row, field, longest).removeprefix(ASSISTANT).strip()
    *before, last = _messages(row, field, longest)
    if last.role != "assistant":
        raise ValueError(f"field `{field}` must end with what the assistant says")
    if before and _alike(before) != _alike(turns(prompt)):
        raise ValueError(
            f"the messages of field `{field}` before the last are not those of the prompt: leave them out"
        )
    return last.content


def _alike(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """What is equal of equal dialogues."""
    return [(one.role, normalise_question(one.content)) for one in messages]


def _common_messages(
    row: Mapping[str, Any], chosen_field: str, rejected_field: str, longest: int | None
) -> tuple[str, str, str]:
    """Prompt and both responses of two lists of messages that begin alike."""
    for field in (chosen_field, rejected_field):
        if not _is_list(row.get(field)):
            raise ValueError(f"field `{field}` must hold a list of messages, as the other response does")
    *before, first = _messages(row, chosen_field, longest)
    *other, second = _messages(row, rejected_field, longest)
    if not before or before != other or {first.role, second.role} != {"assistant"}:
        raise ValueError(
            "without a prompt, both must be lists of messages that end with the assistant and differ there alone"
        )
    return _opened(before, chosen_field), first.content, second.content


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
