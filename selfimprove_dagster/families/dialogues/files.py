"""Prompts, comparisons made by people, and held-out prompts from files: good lines go in, bad ones are kept.

The formats of files are those of `rows`, and those of messages are in `seeds.messages`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from selfimprove_dagster.conversation import Message, Turn, row_of
from selfimprove_dagster.families.dialogues.prompts import ASSISTANT, HUMAN, dialogue_of, is_dialogue, turns
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    DialogueEvaluationSection,
    JudgedDialogueEvaluationSection,
    PromptFile,
)
from selfimprove_dagster.rows import Place, Rejected, text_field, value_at, with_first_instance
from selfimprove_dagster.seeds.files import DUPLICATE, Question, each, read_each, split
from selfimprove_dagster.seeds.messages import LISTS, is_list, is_message, listed, turns_in
from selfimprove_dagster.text import normalise_question, plain

RED_TEAM, HELPFUL = "red_team", "helpful"


INSTRUCTION = "instruction"
"""The field that holds the prompt in rows of Alpaca."""


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


def prompts(section: PromptFile) -> Iterator[SeedPrompt | Rejected]:
    """Yield the prompts of a source and its rejected lines; a prompt counts once.

    A prompt is text, or a list of messages in its field, or a published form: `messages`, ShareGPT's `conversations`,
    or Alpaca's `instruction`. What the assistant says at the end of such a list is the response. Raises SeedFileError
    if a whole file cannot be read.
    """

    def parse(row: Any, at: Place) -> SeedPrompt:
        row = {section.prompt_field: row} if isinstance(row, str) else row
        asked = _asked(row, section.prompt_field, section.longest)
        kind = text_field(row, section.kind_field) if value_at(row, section.kind_field) else RED_TEAM
        if kind not in (RED_TEAM, HELPFUL):
            raise ValueError(
                f"field `{section.kind_field}` must be {RED_TEAM} or {HELPFUL}, not {kind!r:.40}"
            )
        response = asked.response
        if value_at(row, section.response_field):
            response = _response(row, section.response_field, asked.turns, section.longest)[0]
        return SeedPrompt(asked.text, kind, response, at.file, at.line, section.licence)

    keys = _key_of("prompt")
    return each(Path(section.file), parse, keys, section.rows)


def comparisons(section: ComparisonFile) -> Iterator[SeedComparison | Rejected]:
    """Yield the comparisons of a source and its rejected lines.

    A row holds a prompt, as in `prompts`, and chosen and rejected: texts, messages, or dialogues that repeat the
    prompt. Of UltraFeedback's `completions`, the best and the worst by `overall_score` are compared. Without a prompt,
    chosen and rejected are whole dialogues that differ in their last turn. Raises SeedFileError if a whole file cannot
    be read.
    """

    def parse(row: Any, at: Place) -> SeedComparison:
        if not isinstance(row, Mapping):
            raise ValueError("a line of plain text is no comparison")
        fields = (section.chosen_field, section.rejected_field)
        row = _scored_pair(row, fields)
        if _has_prompt(row, section.prompt_field):
            asked = _asked(row, section.prompt_field, section.longest, answered=_is_given(row, fields[0]))
            read = [_response(row, field, asked.turns, section.longest) for field in fields]
            chosen, rejected = (response for response, _ in read)
            if (begun := read[0][1] or read[1][1]) is not None:
                if any(other is not None and _alike(other) != _alike(begun) for _, other in read):
                    raise ValueError("the dialogues of the two responses differ before the last turn")
                asked = _Asked(begun, _opened(begun, fields[0]))
            prompt = asked.text
        elif any(is_list(value_at(row, field)) for field in fields):
            prompt, chosen, rejected = _common_messages(row, *fields, section.longest)
        else:
            prompt, chosen, rejected = _without_common_turns(
                *(_filled(row, field, section.longest) for field in fields)
            )
        if normalise_question(chosen) == normalise_question(rejected):
            raise ValueError("the chosen and the rejected response are the same")
        return SeedComparison(prompt, chosen, rejected, at.file, at.line, section.licence)

    keys = _key_of("prompt", "chosen", "rejected")
    return each(Path(section.file), parse, keys, section.rows)


def read_prompts(section: PromptFile) -> tuple[list[SeedPrompt], list[Rejected]]:
    """Return all prompts of `prompts`, and all rejected lines."""
    return split(prompts(section))


def read_comparisons(section: ComparisonFile) -> tuple[list[SeedComparison], list[Rejected]]:
    """Return all comparisons of `comparisons`, and all rejected lines."""
    return split(comparisons(section))


def read_held_out_prompts(section: DialogueEvaluationSection) -> tuple[list[HeldOutPrompt], list[Rejected]]:
    """The exam's prompts (`prompt`, `wanted`, `unwanted`), and all lines that are none.

    `wanted` or `unwanted` must be there unless a model judges the responses. What the assistant says at the end of
    messages is the response that people preferred, if no field has it.
    """
    judged = isinstance(section, JudgedDialogueEvaluationSection) and section.judge is not None

    def parse(row: Any, at: Place) -> HeldOutPrompt:
        asked = _asked(row, "prompt", None)
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
        chosen = asked.response
        if value_at(row, section.response_field):
            chosen = _response(row, section.response_field, asked.turns, None)[0] or None
        return HeldOutPrompt(
            asked.text,
            at.file,
            at.line,
            section.licence,
            difficulty=difficulty,
            wanted=tuple(map(tuple, wanted)),
            unwanted=tuple(unwanted),
            chosen=chosen,
        )

    return read_each(Path(section.file), parse, _key_of("question"), section.rows)


def dialogue_in(row: Any, field: str) -> tuple[str, str | None] | None:
    """Return what the messages of a row ask, and the response at their end if it has one; None for other rows.

    A single message of the user is its text, a longer dialogue the text of its turns. `field` holds the prompt of other
    rows. Raises ValueError for messages that cannot be read, and for calls of tools, which text would lose.
    """
    if (
        not isinstance(row, Mapping)
        or _is_given(row, field)
        or not any(_is_given(row, name) for name in LISTS)
    ):
        return None
    asked = _asked(row, field, None)
    if not all(isinstance(turn, Message) for turn in asked.turns):
        raise ValueError(
            "a dialogue with calls of tools is no example of text; use a method that reads dialogues"
        )
    return asked.text, asked.response


def _scored_pair(row: Mapping[str, Any], fields: tuple[str, str]) -> Mapping[str, Any]:
    """Return a row of UltraFeedback's first form as a comparison: its best completion against its worst, by score.

    Other rows stay as they are. Raises ValueError if there are no two scores that differ.
    """
    completions: Any = row.get("completions")
    if not is_list(completions) or _is_given(row, fields[0]):
        return row
    scored = [
        (float(one["overall_score"]), one["response"])
        for one in completions
        if isinstance(one, Mapping)
        and isinstance(one.get("response"), str)
        and isinstance(one.get("overall_score"), int | float)
    ]
    best, worst = (choose(scored, key=itemgetter(0), default=(0.0, "")) for choose in (max, min))
    if best[0] == worst[0]:
        raise ValueError("field `completions` holds no two responses with different `overall_score`")
    return {**row, fields[0]: best[1], fields[1]: worst[1]}


def _key_of(*fields: str) -> Callable[[Any], Iterable[tuple[str, str]]]:
    """Return the keys of a row by which it counts once."""
    return lambda one: [("\0".join(normalise_question(getattr(one, name)) for name in fields), DUPLICATE)]


class _Asked(NamedTuple):
    """A prompt: its turns, and the text under which tables store them; and the response that follows, if any."""

    turns: list[Turn]
    text: str
    response: str | None = None


def _has_prompt(row: Mapping[str, Any], field: str) -> bool:
    return any(_is_given(row, name) for name in (field, *LISTS, INSTRUCTION))


def _asked(row: Any, field: str, longest: int | None, answered: bool = False) -> _Asked:
    """Return the prompt of a row.

    `answered`: the row has responses of its own, so that a response at the end of the messages is left out.
    """
    named = isinstance(row, Mapping) and not _is_given(row, field)
    if named and (name := next((one for one in LISTS if row.get(one) not in (None, "")), "")):
        return _of_messages(listed(row[name], name), name, longest, _system(row), answered)
    if named and _is_given(row, INSTRUCTION) and not is_list(row[INSTRUCTION]):
        return _of_instruction(row, longest)
    given = value_at(row, field) if isinstance(row, Mapping) else None
    if given is not None and is_list(given):
        return _of_messages(given, field, longest, "", answered)
    text = _filled(row, field, longest)
    found = list(turns(text))
    if not found or any(isinstance(one, Message) and not plain(one.content).strip() for one in found):
        raise ValueError(f"field `{field}` holds a dialogue with an empty turn")
    return _Asked(found, text)


def _of_messages(
    given: Sequence[Any], field: str, longest: int | None, system: str, answered: bool
) -> _Asked:
    """Return the prompt of messages, and the assistant's response at their end, if any."""
    found = _checked(turns_in(given, field), field, longest)
    response = None
    if isinstance(found[-1], Message) and found[-1].role == "assistant":
        *found, last = found
        response = last.content
    if system and found and found[0].role != "system":
        found.insert(0, Message("system", system))
    if not found or found[-1].role not in ("user", "tool"):
        raise ValueError(
            f"field `{field}` must end with what the user says, or with the response of the assistant after it"
        )
    return _Asked(found, _opened(found, field), None if answered else response)


def _of_instruction(row: Mapping[str, Any], longest: int | None) -> _Asked:
    """Return the prompt of a row of Alpaca: `instruction` and `input`, after `system` and `history` if it has them.

    Of a row of Self-Instruct the input is that of its first instance.
    """
    row = with_first_instance(row)
    parts = [_filled(row, INSTRUCTION, longest)]
    if _is_given(row, "input"):
        parts.append(_filled(row, "input", longest))
    found: list[Turn] = [Message("system", system)] if (system := _system(row)) else []
    for pair in row.get("history") or []:
        if not is_list(pair) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise ValueError("field `history` must hold pairs of what the user and the assistant said")
        found += [Message("user", pair[0].strip()), Message("assistant", pair[1].strip())]
    found.append(Message("user", "\n\n".join(parts)))
    output = row.get("output")
    response = output.strip() or None if isinstance(output, str) else None
    return _Asked(found, dialogue_of(found), response)


def _system(row: Mapping[str, Any]) -> str:
    """Return what the system says where a row has it beside the messages."""
    return text_field(row, "system") if row.get("system") else ""


def _filled(row: Any, field: str, longest: int | None) -> str:
    text = text_field(row, field)
    if not plain(text).strip():
        raise ValueError(f"field `{field}` is empty")
    if longest is not None and len(text) > longest:
        raise ValueError(
            f"field `{field}` has {len(text):,} characters, more than the {longest:,} of `longest`"
        )
    return text


def _is_given(row: Mapping[str, Any], field: str) -> bool:
    value = value_at(row, field)
    return value is not None and value != "" and not (is_list(value) and not len(value))


def _checked(found: Sequence[Turn], field: str, longest: int | None) -> list[Turn]:
    """Return the turns without outer white space. Raises ValueError for an empty or too long one."""
    kept: list[Turn] = []
    for number, one in enumerate(found):
        name = f"{field}[{number}].content"
        if isinstance(one, Message):
            kept.append(Message(one.role, _filled({name: one.content}, name, longest)))
        else:
            text = _filled({name: one.content}, name, longest) if one.content.strip() else ""
            kept.append(one._replace(content=text))
    return kept


def _opened(messages: Sequence[Turn], field: str) -> str:
    """The text of messages, which begin with the user, or with the system and then the user."""
    first = next((one.role for one in messages if one.role != "system"), "system")
    if first != "user":
        raise ValueError(f"field `{field}` must begin with what the user says, after the system at most")
    return dialogue_of(messages)


def _response(
    row: Mapping[str, Any], field: str, prompt: Sequence[Turn], longest: int | None
) -> tuple[str, list[Turn] | None]:
    """Return a response without the name of who says it, and without the prompt that its dialogue repeats.

    Also returns the turns before it if they say more than the prompt: a system message, or earlier turns.
    """
    given = value_at(row, field)
    if is_message(given):
        given = [given]
    if is_list(given):
        *before, last = _checked(turns_in(given, field), field, longest)
        if not isinstance(last, Message) or last.role != "assistant":
            raise ValueError(f"field `{field}` must end with what the assistant says")
        return last.content, _begun(before, prompt, field)
    text = _filled(row, field, longest)
    if not is_dialogue(text) or _MARKER not in text:
        return text.removeprefix(ASSISTANT).strip(), None
    at = text.find(_MARKER)
    while at >= 0:
        before = list(turns(text[:at]))
        if _alike(before) == _alike(prompt) or _continues(before, prompt):
            break
        at = text.find(_MARKER, at + 1)
    at = text.rfind(_MARKER) if at < 0 else at
    response = text[at + len(_MARKER) :].strip()
    if not response:
        raise ValueError(f"the dialogue in field `{field}` ends without a response")
    return response, _begun(list(turns(text[:at])), prompt, field)


def _begun(before: list[Turn], prompt: Sequence[Turn], field: str) -> list[Turn] | None:
    """Return the turns before a response if they say more than the prompt. Raises ValueError if they are others."""
    if not before or _alike(before) == _alike(prompt):
        return None
    if _continues(before, prompt):
        return before
    raise ValueError(
        f"the messages of field `{field}` before the last are not those of the prompt: leave them out"
    )


def _continues(before: Sequence[Turn], prompt: Sequence[Turn]) -> bool:
    """Return whether turns hold the prompt and more: a system message, or the rest of a dialogue that it opens."""
    said = [one for one in _alike(before) if one[0] != "system"]
    asked = _alike(prompt)
    opens = said[: len(asked)] == asked or said[-len(asked) :] == asked
    return bool(asked) and opens and bool(before) and before[-1].role in ("user", "tool")


def _alike(messages: Sequence[Turn]) -> list[tuple[str, str]]:
    """What is equal of equal dialogues."""
    return [
        (one.role, normalise_question(one.content if isinstance(one, Message) else json.dumps(row_of(one))))
        for one in messages
    ]


def _common_messages(
    row: Mapping[str, Any], chosen_field: str, rejected_field: str, longest: int | None
) -> tuple[str, str, str]:
    """Prompt and both responses of two lists of messages that begin alike."""
    for field in (chosen_field, rejected_field):
        if not is_list(value_at(row, field)):
            raise ValueError(f"field `{field}` must hold a list of messages, as the other response does")
    *before, first = _checked(turns_in(value_at(row, chosen_field), chosen_field), chosen_field, longest)
    *other, second = _checked(
        turns_in(value_at(row, rejected_field), rejected_field), rejected_field, longest
    )
    if (
        not before
        or before != other
        or not (isinstance(first, Message) and isinstance(second, Message))
        or {first.role, second.role} != {"assistant"}
    ):
        raise ValueError(
            "without a prompt, both must be lists of messages that end with the assistant and differ there alone"
        )
    return _opened(before, chosen_field), first.content, second.content


_MARKER = f"\n\n{ASSISTANT}"


def _without_common_turns(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and both responses of two dialogues that begin alike."""
    before, found, first = chosen.rpartition(_MARKER)
    other, found_too, second = rejected.rpartition(_MARKER)
    if not found or not found_too or before != other:
        raise ValueError(
            f"without a prompt, both must be dialogues of `{HUMAN}` and `{ASSISTANT}` that differ at the end"
        )
    if not first.strip() or not second.strip():
        raise ValueError("a dialogue ends without a response")
    return before.strip(), first.strip(), second.strip()
