"""Plain texts and held-out beginnings from files."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.methods.toolformer.files import read_beginnings, read_plain_texts, read_texts
from selfimprove_dagster.methods.toolformer.settings import TextFile, ToolEvaluationSection


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def exam(file: str, **fields: Any) -> ToolEvaluationSection:
    return ToolEvaluationSection(file=file, max_tokens=8, max_call_tokens=16, **fields)


def test_good_lines_are_texts_and_bad_ones_say_why(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "texts.jsonl",
        [
            {"text": "The fair is on Sunday.", "date": "2024-05-31", "source": "a notice"},
            {"text": "No date."},
            {"text": "  the FAIR is\n on Sunday. "},
            {"text": "x" * 50},
            {"text": "Bad date.", "date": "31 May"},
            {"text": ""},
            {"title": "No text."},
            {"text": "Empty date.", "date": ""},
        ],
    )
    texts, rejected = read_texts(TextFile(file=file, longest=40, licence="CC0"))
    assert [(one.text, one.date, one.source, one.source_line) for one in texts] == [
        ("The fair is on Sunday.", "2024-05-31", "a notice", 1),
        ("No date.", None, None, 2),
        ("Empty date.", None, None, 8),
    ]
    assert {one.licence for one in texts} == {"CC0"}
    assert [(line.source_line, line.reason) for line in rejected] == [
        (3, "duplicate of line 1"),
        (4, "50 characters, more than the 40 of `longest`"),
        (5, "field `date` must be a date as 2024-05-31, not '31 May'"),
        (6, "the text is empty"),
        (7, "there is no field `text`; the fields are: title"),
    ]


def test_rows_of_a_file_can_be_chosen_and_fields_be_called_otherwise(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", [{"body": f"Text {n}.", "day": f"2024-01-0{n}"} for n in range(1, 6)])
    texts, rejected = read_texts(TextFile(file=file, text_field="body", date_field="day", rows="1:3"))
    assert [(one.text, one.date) for one in texts] == [("Text 2.", "2024-01-02"), ("Text 3.", "2024-01-03")]
    assert rejected == []


def test_parquet_dates_and_plain_lines_are_read(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["A."], "date": [date(2024, 5, 31)]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("One line.\nAnother.\n", encoding="utf-8")
    assert read_texts(TextFile(file=str(tmp_path / "t.parquet")))[0][0].date == "2024-05-31"
    assert [one.text for one in read_texts(TextFile(file=str(tmp_path / "t.txt")))[0]] == [
        "One line.",
        "Another.",
    ]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SeedFileError, match="there is no file"):
        read_texts(TextFile(file=str(tmp_path / "none.jsonl")))


def test_beginnings_need_a_prompt_and_an_answer(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "exam.jsonl",
        [
            {"prompt": "2 and 3 make", "answer": 5, "date": "2024-05-31", "kind": "sum"},
            {"prompt": "2 and 3 make", "answer": "6", "kind": "sum"},
            {"prompt": "", "answer": "6", "kind": "sum"},
            {"prompt": "4 and 4 make", "kind": "sum"},
        ],
    )
    found, rejected = read_beginnings(exam(file, difficulty_field="kind"))
    assert [(one.question, one.answer, one.difficulty, one.date) for one in found] == [
        ("2 and 3 make", "5", "sum", date(2024, 5, 31))
    ]
    assert [line.source_line for line in rejected] == [2, 3, 4]


def test_plain_texts_are_held_out_without_an_answer(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "plain.jsonl", [{"text": "It rained.", "date": "2024-05-31"}])
    file = jsonl(tmp_path / "exam.jsonl", [{"prompt": "a", "answer": "b"}])
    ((one,), rejected) = read_plain_texts(exam(file, plain_file=plain))
    assert (one.question, one.answer, one.date, rejected) == ("It rained.", None, date(2024, 5, 31), [])
    assert read_plain_texts(exam(file)) == ([], [])
