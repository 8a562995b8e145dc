"""Question files: every good line goes in, every bad one is kept with file, line and reason."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kit.small_lake import write_lines

from selfimprove_dagster.answers.canonical import canonical_answer
from selfimprove_dagster.answers.languages import Conventions
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.methods.lmsi.settings import EvaluationSection
from selfimprove_dagster.seeds.files import read_questions
from selfimprove_dagster.seeds.settings import QuestionFile
from selfimprove_dagster.text import normalise_question


def asked(source: QuestionFile) -> list[str]:
    return [question.question for question in read_questions(source)[0]]


def refused(source: QuestionFile) -> list[tuple[int, str]]:
    """Line and reason of what is no question."""
    return [(bad.source_line, bad.reason) for bad in read_questions(source)[1]]


def jsonl(folder: Path, *rows: Any) -> QuestionFile:
    return QuestionFile(file=str(write_lines(folder / "q.jsonl", rows)))


def test_good_lines_keep_their_file_and_line(tmp_path: Path) -> None:
    source = jsonl(tmp_path, {"question": " 1 + 1? "}, {"question": "Wie groß?", "other": [1]}, "bad")
    questions, rejected = read_questions(source)
    assert [(q.question, q.source_file, q.source_line) for q in questions] == [
        ("1 + 1?", "q.jsonl", 1),
        ("Wie groß?", "q.jsonl", 2),
    ]
    assert [(bad.source_file, bad.source_line) for bad in rejected] == [("q.jsonl", 3)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "cut', "not JSON: Unterminated string"),
        ("{question: 1}", "not JSON"),
        ("", "empty line"),
        ("   \t ", "empty line"),
        ('{"question": ""}', "the question is empty"),
        ('{"question": " \\n "}', "the question is empty"),
        ('{"question": null}', "field `question` must be text, not NoneType"),
        ('{"question": ["a"]}', "field `question` must be text, not list"),
        ('{"question": true}', "field `question` must be text, not bool"),
        ('{"Question": "a?"}', "there is no field `question`; the fields are: Question"),
        ("{}", "there is no field `question`; the fields are: none"),
        ("[1, 2]", "an object with a field `question` is needed, not list"),
        ("7", "an object with a field `question` is needed, not int"),
        ("null", "an object with a field `question` is needed, not NoneType"),
        ('{"question": "' + "x" * 10_001 + '"}', "10,001 characters, more than the 10,000 of `longest`"),
        ('{"question": "' + "x" * 3_000_000 + '"}', "3,000,000 characters, more than"),
        ('{"question": ' + "1" * 5_000 + "}", "not JSON: Exceeds the limit"),
        ("[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        ('{"question": "half \\ud83d"}', "field `question` holds half of a surrogate pair"),
        ('{"\\ud83d": "half"}', "there is no field `question`; the fields are: ?"),
        ('{"question": "nul \\u0000"}', "field `question` holds a NUL character"),
        ('{"question": "Gut?"}', "duplicate of line 1"),
        ('{"question": " gut?\\n"}', "duplicate of line 1"),
        (b'{"question": "caf\xe9"}', "not UTF-8 at byte 17 of the line; save it as UTF-8"),
    ],
)
def test_a_bad_line_is_kept_with_its_reason_and_the_lines_around_it_go_in(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    source = jsonl(tmp_path, {"question": "Gut?"}, line, {"question": "Auch gut?"})
    (at, said), *more = refused(source)
    assert (at, more) == (2, [])
    assert said.startswith(reason)
    assert asked(source) == ["Gut?", "Auch gut?"]
    assert len(read_questions(source)[1][0].excerpt) <= 200


@given(lines=st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b" ")), max_size=8))
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_no_line_is_ever_lost(
    suffix: str, lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes a file holds: accepted and rejected lines are all its lines, and can be stored."""
    # A file of UTF-16 is refused as a whole.
    assume(not b"".join(lines[:1]).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))
    path = write_lines(tmp_path_factory.getbasetemp() / f"any{suffix}", lines)
    questions, rejected = read_questions(QuestionFile(file=str(path)))
    found = [row.source_line for row in questions] + [row.source_line for row in rejected]
    assert sorted(found) == list(range(1, len(lines) + 1))
    for text in (*(row.question for row in questions), *(bad.reason + bad.excerpt for bad in rejected)):
        text.encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)


@given(rows=st.lists(JSON_VALUES | st.builds(lambda text: {"question": text}, JSON_VALUES), max_size=6))
def test_no_row_of_valid_json_is_ever_lost(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "rows.json").write_text(json.dumps(rows))
    for path in (folder / "rows.json", write_lines(folder / "rows.jsonl", map(json.dumps, rows))):
        questions, rejected = read_questions(QuestionFile(file=str(path)))
        assert len(questions) + len(rejected) == len(rows)
        assert len({normalise_question(row.question) for row in questions}) == len(questions)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json", "csv", "txt"])
def test_every_kind_of_text_file_reads_the_same(
    tmp_path: Path, suffix: str, newline: str, encoding: str
) -> None:
    questions = ["Wie viel ist 1, 2 und 3?", 'She said "two".', "日本?"]
    rows = [{"question": question} for question in questions]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["question"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = {
        "json": json.dumps(rows, indent=1, ensure_ascii=False),
        "csv": table.getvalue(),
        "txt": "\n".join(questions),
    }.get(suffix, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    path = tmp_path / f"q.{suffix}"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    assert asked(QuestionFile(file=str(path))) == questions


def test_parquet_rows_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "q[1].parquet"
    pl.DataFrame({"question": ["a?", None, "b?", "A?"], "n": [1, 2, 3, 4]}).write_parquet(path)
    source = QuestionFile(file=str(path))
    assert asked(source) == ["a?", "b?"]
    assert refused(source) == [
        (2, "field `question` must be text, not NoneType"),
        (4, "duplicate of line 1"),
    ]


def test_a_line_of_plain_text_is_the_question_whatever_field_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("a?\n\nb?\n")
    source = QuestionFile(file=str(path), question_field=["Body", "Question"])
    assert (asked(source), refused(source)) == (["a?", "b?"], [(2, "the question is empty")])


def test_a_csv_row_with_too_many_cells_is_not_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('question,answer\nWhat is 1, 2 and 3?,6\n"Two, then?",2\nonly\n')
    source = EvaluationSection(file=str(path))
    assert asked(source) == ["Two, then?"]
    assert [line for line, _ in refused(source)] == [2, 4]
    assert "more cells than the header names" in refused(source)[0][1]


def test_an_enormous_csv_cell_is_a_rejected_row(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("question\na?\n" + "x" * 400_000 + "\nb?\n")
    assert asked(QuestionFile(file=str(path))) == ["a?", "b?"]
    assert refused(QuestionFile(file=str(path)))[0][1].startswith("400,000 characters")


def test_several_fields_make_one_question(tmp_path: Path) -> None:
    write_lines(tmp_path / "q.jsonl", [{"Body": "Ann has 2.", "Question": "How many?"}, {"Body": "Ann."}])
    source = QuestionFile(file=str(tmp_path / "q.jsonl"), question_field=["Body", "Question"])
    assert asked(source) == ["Ann has 2. How many?"]
    assert refused(source) == [(2, "there is no field `Question`; the fields are: Body")]


@pytest.mark.parametrize(
    ("rows", "lines"), [("0:2", [1, 2]), ("2:", [3, 4]), (":1", [1]), ("3:9", [4]), (":", [1, 2, 3, 4])]
)
def test_rows_are_counted_from_zero_and_the_last_is_left_out(
    tmp_path: Path, rows: str, lines: list[int]
) -> None:
    path = write_lines(tmp_path / "q.jsonl", [{"question": f"{n}?"} for n in range(4)])
    questions, _ = read_questions(QuestionFile(file=str(path), rows=rows))
    assert [question.source_line for question in questions] == lines


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.jsonl", None, "there is no file .*gone.jsonl; give an existing file"),
        ("q.xlsx", b"", "this file format is not supported; use one of .jsonl, .ndjson, .json, .csv"),
        ("q.json", b"[1, 2", "q.json is not JSON"),
        ("q.json", b"", "q.json is not JSON"),
        ("q.json", b"[" * 100_000, "q.json is not JSON"),
        ("q.json", b"[" + b"1" * 5_000 + b"]", "q.json is not JSON"),
        ("q.json", b'{"question": "a?"}', "must contain a JSON array of objects, not one dict"),
        ("q.csv", b"question\ncaf\xe9\n", r"q.csv is not UTF-8 \(line 2\); save it as UTF-8"),
        ("q.parquet", b"", "q.parquet is not Parquet"),
        ("q.parquet", b"question\na?\n", "q.parquet is not Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_named(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedFileError, match=said):
        read_questions(QuestionFile(file=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", 'question;answer\n"How many, in all?";1,5\nAnd "b"?;2\n'),
        (
            "q.json",
            '{"version": 1, "data": [{"question": "How many, in all?"}, {"question": "And \\"b\\"?"}]}',
        ),
        (
            "q.json",
            '{"rows": [{"question": "How many, in all?"}, {"question": "And \\"b\\"?"}], "tags": ["x"]}',
        ),
    ],
)
def test_tables_as_spreadsheets_and_servers_write_them_are_read(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    found, rejected = read_questions(QuestionFile(file=str(tmp_path / name)))
    assert ([one.question for one in found], rejected) == (["How many, in all?", 'And "b"?'], [])


@pytest.mark.parametrize(
    "content", ['{"instances": [{"question": "a?"}]}', '{"data": [], "rows": []}', '"a?"']
)
def test_an_object_that_is_no_list_of_rows_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(
        SeedFileError, match=r"write the rows as `\[…\]`, one object a line .* `data`, `rows`"
    ):
        read_questions(QuestionFile(file=str(tmp_path / "q.json")))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").mkdir()
    with pytest.raises(SeedFileError, match=r"q\.jsonl: there is no file to read; supported are \.jsonl"):
        read_questions(QuestionFile(file=str(tmp_path / "q.jsonl")))


def test_an_empty_file_holds_no_question(tmp_path: Path) -> None:
    for name in ("q.jsonl", "q.csv", "q.txt"):
        (tmp_path / name).touch()
        assert read_questions(QuestionFile(file=str(tmp_path / name))) == ([], [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.tsv", "q.txt", "q.jsonl.gz"])
def test_a_file_in_utf_16_is_named_with_the_remedy(tmp_path: Path, name: str, encoding: str) -> None:
    text = '{"question": "a?"}\n'.encode(encoding)
    if encoding == "utf-16-be":
        text = b"\xfe\xff" + text
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(SeedFileError, match="is UTF-16; save it as UTF-8"):
        read_questions(QuestionFile(file=str(tmp_path / name)))


def test_a_file_in_utf_16_without_a_mark_is_refused_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("a?\n".encode("utf-16-le"))
    assert "if the file is UTF-16, save it as UTF-8" in refused(QuestionFile(file=str(path)))[0][1]


def test_true_answers_are_read_for_evaluation_and_only_there(tmp_path: Path) -> None:
    rows = [
        {"question": "1 + 1?", "answer": "... so\n#### 2", "level": 1},
        {"question": "2 + 2?", "answer": 4.0, "level": "easy"},
        {"question": "Who?", "answer": ""},
    ]
    path = write_lines(tmp_path / "q.jsonl", rows)
    questions, rejected = read_questions(EvaluationSection(file=str(path), difficulty_field="level"))
    assert [(q.answer, q.difficulty) for q in questions] == [("2", "1"), ("4", "easy")]
    assert [bad.reason for bad in rejected] == ["no answer can be read from field `answer`: ''"]
    assert {question.answer for question in read_questions(QuestionFile(file=str(path)))[0]} == {None}


def test_a_solution_with_a_box_has_the_answer_of_the_box_or_none(tmp_path: Path) -> None:
    solutions = [
        r"So $\boxed{3+4i}$.",
        r"We get $\boxed{\left(1, 2\right)}$ in the end.",
        r"Thus \boxed{\text{not enough}} is what we know.",
        r"So $\boxed{",
        "3+4i",
        "The Eiffel Tower",
    ]
    rows = [{"question": f"{at}?", "answer": solution} for at, solution in enumerate(solutions)]
    questions, rejected = read_questions(EvaluationSection(file=str(write_lines(tmp_path / "q.jsonl", rows))))
    assert [one.answer for one in questions] == ["3 + 4i", "(1, 2)", "3 + 4i", "eiffel tower"]
    assert [bad.source_line for bad in rejected] == [3, 4]
    assert all("no answer can be read from field `answer`" in bad.reason for bad in rejected)


def test_nan_is_a_missing_value_in_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": NaN, "answer": 1}\n{"question": "1?", "answer": NaN}\n')
    (tmp_path / "q.json").write_text('[{"question": NaN, "answer": 1}, {"question": "1?", "answer": NaN}]')
    (tmp_path / "q.csv").write_text("question,answer\nNaN,1\n1?,nan\n")
    pl.DataFrame({"question": ["1?", "2?"], "answer": [float("nan")] * 2}).write_parquet(
        tmp_path / "q.parquet"
    )
    for name in ("q.jsonl", "q.json", "q.csv", "q.parquet"):
        questions, rejected = read_questions(EvaluationSection(file=str(tmp_path / name)))
        assert questions == [] and len(rejected) == 2, name
        assert all("is NaN, which stands for a missing value" in bad.reason for bad in rejected)


def test_true_answers_follow_the_conventions_of_the_experiment(tmp_path: Path) -> None:
    section = EvaluationSection(
        file=str(write_lines(tmp_path / "q.jsonl", [{"question": "?", "answer": "1,5"}]))
    )
    assert read_questions(section)[0][0].answer == "1, 5"
    assert read_questions(section, Conventions(decimal="comma"))[0][0].answer == "1.5"


def test_the_answers_of_gsm8k_are_what_stands_after_the_hashes(shared_data: Path) -> None:
    path = shared_data / "gsm8k" / "test.jsonl"
    questions, rejected = read_questions(EvaluationSection(file=str(path)))
    lines = path.read_text().splitlines()
    truth = [json.loads(lines[q.source_line - 1])["answer"].split("####")[1] for q in questions]
    assert [question.answer for question in questions] == [canonical_answer(text) for text in truth]
    assert rejected == []
