"""Files of prompts and comparisons, as text and as lists of messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.families.dialogues.files import (
    SeedComparison,
    SeedPrompt,
    read_comparisons,
    read_held_out_prompts,
    read_prompts,
)
from selfimprove_dagster.families.dialogues.prompts import turns
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    DialogueEvaluationSection,
    PromptFile,
)
from selfimprove_dagster.rows import Rejected


def said(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


SYSTEM, ASKED = ("system", "Be brief."), ("user", "Why?")
ANSWERED, AGAIN = ("assistant", "Because.\n\nHuman: so."), ("user", "Really?")


def file_of(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts_of(folder: Path, *rows: Any) -> tuple[list[SeedPrompt], list[Rejected]]:
    return read_prompts(PromptFile(file=file_of(folder, *rows)))


def comparisons_of(folder: Path, *rows: Any) -> tuple[list[SeedComparison], list[Rejected]]:
    return read_comparisons(ComparisonFile(file=file_of(folder, *rows)))


def test_a_prompt_is_text_or_messages(tmp_path: Path) -> None:
    conversation = [SYSTEM, ASKED, ANSWERED, AGAIN]
    found, rejected = prompts_of(
        tmp_path,
        {"prompt": "Why not?"},
        {"messages": said(ASKED)},
        {"messages": said(*conversation)},
        {"prompt": said(AGAIN), "messages": said(ASKED, ANSWERED)},
    )
    assert rejected == []
    assert [one.prompt for one in found[:2]] == ["Why not?", "Why?"]
    assert turns(found[2].prompt) == conversation
    assert found[3].prompt == "Really?", "the named field comes first"


def test_a_table_has_messages_as_lists_or_as_json(tmp_path: Path) -> None:
    rows = [said(SYSTEM, ASKED), said(AGAIN)]
    pl.DataFrame({"messages": rows}).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame({"messages": [json.dumps(row) for row in rows]}).write_csv(tmp_path / "rows.csv")
    for name in ("rows.parquet", "rows.csv"):
        found, rejected = read_prompts(PromptFile(file=str(tmp_path / name)))
        assert [turns(one.prompt) for one in found] == [[SYSTEM, ASKED], [AGAIN]] and rejected == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (said(ASKED, ANSWERED, ANSWERED), "must end with what the user says, or with the response"),
        (said(ANSWERED), "must end with what the user says"),
        (said(ANSWERED, AGAIN), "must begin with what the user says"),
        (said(("tool", "5")), "message 1 does not"),
        (said(ASKED, ("assistant", None), AGAIN), "message 2 does not"),
        (said(("user", " ")), "`messages[0].content` is empty"),
        (said(("user", "x" * 10_001)), "more than the 10,000 of `longest`"),
        (["Why?"], "message 1 does not"),
        ("Why?", "must hold a list of messages, as JSON"),
        ([], "field `messages` holds no messages"),
        (7, "field `messages` must hold a list of messages, not int"),
    ],
)
def test_bad_messages_are_rejected_with_file_and_line(tmp_path: Path, messages: Any, reason: str) -> None:
    found, (rejected,) = prompts_of(tmp_path, {"prompt": "Good."}, {"messages": messages})
    assert [one.prompt for one in found] == ["Good."]
    assert (rejected.source_file, rejected.source_line) == ("rows.jsonl", 2)
    assert reason in rejected.reason


def test_a_prompt_as_messages_repeats_one_as_text(tmp_path: Path) -> None:
    found, (rejected,) = prompts_of(tmp_path, {"prompt": "Why?"}, {"messages": said(ASKED)})
    assert len(found) == 1 and rejected.reason == "duplicate of line 1"


GOOD, BAD = ("assistant", "So.\n\nAssistant: said he."), ("assistant", "No.")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": said(SYSTEM, ASKED), "chosen": GOOD[1], "rejected": BAD[1]},
        {"prompt": said(SYSTEM, ASKED), "chosen": said(GOOD), "rejected": said(BAD)},
        {
            "prompt": said(SYSTEM, ASKED),
            "chosen": said(SYSTEM, ASKED, GOOD),
            "rejected": said(SYSTEM, ASKED, BAD),
        },
        {"chosen": said(SYSTEM, ASKED, GOOD), "rejected": said(SYSTEM, ASKED, BAD)},
    ],
)
def test_a_comparison_of_messages_is_read_whatever_its_shape(tmp_path: Path, row: Any) -> None:
    (found,), rejected = comparisons_of(tmp_path, row)
    assert rejected == []
    assert turns(found.prompt) == [SYSTEM, ASKED]
    assert (found.chosen, found.rejected) == (GOOD[1], BAD[1])


def test_a_comparison_of_texts_is_read_as_it_is(tmp_path: Path) -> None:
    dialogue = "Human: Why?\n\nAssistant: Guess.\n\nHuman: No."
    found, rejected = comparisons_of(
        tmp_path,
        {"prompt": "Why?", "chosen": "Assistant: So.", "rejected": "No."},
        {"chosen": f"{dialogue}\n\nAssistant: So.", "rejected": f"{dialogue}\n\nAssistant: No."},
    )
    assert rejected == []
    assert [(one.prompt, one.chosen, one.rejected) for one in found] == [
        ("Why?", "So.", "No."),
        (dialogue, "So.", "No."),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": said(ASKED, GOOD), "rejected": said(AGAIN, BAD)}, "differ there alone"),
        ({"chosen": said(ASKED, GOOD), "rejected": "No."}, "`rejected` must hold a list of messages"),
        ({"chosen": said(ASKED), "rejected": said(ASKED)}, "end with the assistant"),
        ({"prompt": "Why?", "chosen": said(AGAIN, GOOD), "rejected": "No."}, "not those of the prompt"),
        ({"prompt": "Why?", "chosen": said(AGAIN), "rejected": "No."}, "end with what the assistant says"),
        ({"messages": said(GOOD), "chosen": "So.", "rejected": "No."}, "end with what the user"),
        ({"chosen": "So.", "rejected": "No."}, "without a prompt, both must be dialogues"),
    ],
)
def test_a_bad_comparison_is_rejected_with_what_to_do(tmp_path: Path, row: Any, reason: str) -> None:
    found, (rejected,) = comparisons_of(tmp_path, row)
    assert found == [] and reason in rejected.reason and rejected.source_line == 1


def test_a_held_out_prompt_may_be_messages(tmp_path: Path) -> None:
    row = {"messages": said(SYSTEM, ASKED), "wanted": ["because"]}
    section = DialogueEvaluationSection(file=file_of(tmp_path, row), max_tokens=8)
    (found,), rejected = read_held_out_prompts(section)
    assert turns(found.question) == [SYSTEM, ASKED] and rejected == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ""},
        {"prompt": " "},
        {"prompt": "\u200b"},
        {"prompt": "Human:"},
        {"prompt": "Human: \n\nAssistant:"},
        {"prompt": "Human: \n\nAssistant: Hello.\n\nHuman: Why?"},
        {"messages": said(("user", " "))},
        {"messages": said(("user", "\u2060"))},
    ],
)
def test_an_empty_held_out_prompt_is_a_rejected_line(tmp_path: Path, row: dict[str, Any]) -> None:
    file = file_of(tmp_path, {**row, "wanted": ["because"]})
    found, (rejected,) = read_held_out_prompts(DialogueEvaluationSection(file=file, max_tokens=8))
    assert found == [] and rejected.source_line == 1 and "empty" in rejected.reason
