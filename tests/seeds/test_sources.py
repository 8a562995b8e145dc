"""Sources of several files, compressed files, tables with tabs, fields within fields; and the answers of seeds."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.small_lake import make_experiment, write_lines

from selfimprove_dagster.errors import MethodError, SeedFileError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home import imports
from selfimprove_dagster.home.imports import answers_of, import_seeds, pool
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.methods import lmsi
from selfimprove_dagster.registry import method
from selfimprove_dagster.rows import Place, read_rows, value_at
from selfimprove_dagster.seeds.files import read_questions, source_checksum
from selfimprove_dagster.seeds.settings import QuestionFile
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEED_ANSWERS, SEEDS


def places(path: Path) -> list[tuple[str, str, int]]:
    found, rejected = read_questions(QuestionFile(file=str(path)))
    assert rejected == []
    return [(one.question, one.source_file, one.source_line) for one in found]


def zstd(path: Path, data: bytes) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(data)


def gzipped(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data[:5]) + gzip.compress(data[5:]))  # as `cat a.gz b.gz` makes it


LINES = b'{"question": "a?"}\n{"question": "b?"}\n'


@pytest.mark.parametrize(("suffix", "write"), [("gz", gzipped), ("zst", zstd)])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("q.jsonl", LINES),
        ("q.json", b'[{"question": "a?"}, {"question": "b?"}]'),
        ("q.csv", b"question\na?\nb?\n"),
        ("q.tsv", b"question\tn\na?\t1\nb?\t2\n"),
        ("q.txt", b"a?\nb?\n"),
    ],
)
def test_a_compressed_file_is_read_like_any_other(
    tmp_path: Path, name: str, data: bytes, suffix: str, write: Callable[[Path, bytes], None]
) -> None:
    (tmp_path / name).write_bytes(data)
    write(tmp_path / f"{name}.{suffix}", data)
    plain, packed = places(tmp_path / name), places(tmp_path / f"{name}.{suffix}")
    assert [one[0] for one in plain] == ["a?", "b?"]
    assert packed == [(text, f"{name}.{suffix}", line) for text, _, line in plain]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("q.jsonl.gz", LINES, "is not gzip, or is cut off"),
        ("q.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "is not gzip, or is cut off"),
        ("q.jsonl.zst", LINES, "is not Zstandard, or is cut off"),
        ("q.parquet.gz", LINES, "this file format is not supported"),
        ("q.gz", LINES, "this file format is not supported"),
    ],
)
def test_a_broken_compressed_file_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SeedFileError, match=said):
        places(tmp_path / name)


def test_a_tsv_file_may_hold_commas_and_quoted_tabs(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text('question\tanswer\n1, 2 or 3?\t2\n"a\tb?"\t1\nx?\ty\tz\n')
    found, (bad,) = read_questions(QuestionFile(file=str(tmp_path / "q.tsv")))
    assert [one.question for one in found] == ["1, 2 or 3?", "a\tb?"]
    assert bad.source_line == 4 and "put text that holds tabs in double quotes" in bad.reason


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    (folder / "more").mkdir(parents=True)
    write_lines(folder / "part-0.jsonl", [{"question": "a?"}, {"question": "b?"}])
    gzipped(folder / "part-1.jsonl.gz", LINES + b'{"question": "c?"}\nbad\n')
    pl.DataFrame({"question": ["d?"]}).write_parquet(folder / "more" / "x.parquet")
    (folder / "README.md").write_text("Not data.")
    (folder / ".part-2.jsonl").write_text('{"question": "hidden?"}\n')
    return folder


def test_a_folder_is_read_file_by_file(shards: Path) -> None:
    found, rejected = read_questions(QuestionFile(file=str(shards)))
    assert [(one.question, one.source_file, one.source_line) for one in found] == [
        ("d?", "more/x.parquet", 1),
        ("a?", "part-0.jsonl", 1),
        ("b?", "part-0.jsonl", 2),
        ("c?", "part-1.jsonl.gz", 3),
    ]
    assert [(bad.source_line, bad.reason[:36]) for bad in rejected] == [
        (1, "duplicate of part-0.jsonl, line 1"),
        (2, "duplicate of part-0.jsonl, line 2"),
        (4, "not JSON: Expecting value: line 1 co"),
    ]
    assert {bad.source_file for bad in rejected} == {"part-1.jsonl.gz"}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("part-*", ["part-0.jsonl", "part-1.jsonl.gz"]),
        ("part-[0].jsonl", ["part-0.jsonl"]),
        ("**/*.parquet", ["more/x.parquet"]),
    ],
)
def test_a_pattern_is_read_file_by_file(shards: Path, pattern: str, names: list[str]) -> None:
    assert list(dict.fromkeys(place.file for place, _ in read_rows(shards / pattern))) == names


def test_a_source_without_files_is_named(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(SeedFileError, match=r"\*\.csv: there is no file to read; supported are \.jsonl"):
        places(shards / "*.csv")
    (tmp_path / "none").mkdir()
    with pytest.raises(SeedFileError, match="there is no file to read"):
        places(tmp_path / "none")


def test_rows_are_counted_over_all_files(shards: Path) -> None:
    found, _ = read_questions(QuestionFile(file=str(shards), rows="1:3"))
    assert [one.question for one in found] == ["a?", "b?"]


def test_what_a_source_holds_gives_its_checksum(shards: Path) -> None:
    before = source_checksum(shards)
    assert before == source_checksum(shards) and before != source_checksum(shards / "part-*")
    (shards / "part-0.jsonl").write_text('{"question": "z?"}\n')
    assert source_checksum(shards) != before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a.b.0.c", 1),
        ("a.b.-1.c", 2),
        ("a.b.2.c", None),
        ("a.x.y", None),
        ("a.b.x", None),
        ("d.e", "whole"),
        ("text.0", None),
    ],
)
def test_a_field_may_be_within_others(field: str, value: Any) -> None:
    row = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d.e": "whole", "d": {"e": "part"}, "text": "abc"}
    assert value_at(row, field) == value


def test_questions_and_answers_are_read_from_fields_within_others(tmp_path: Path) -> None:
    row = {"data": [{"q": "a?", "answers": {"text": ["4"]}}]}
    path = write_lines(tmp_path / "q.jsonl", [row, {"data": []}])
    pl.DataFrame([row]).write_parquet(tmp_path / "q.parquet")
    for name in (path, tmp_path / "q.parquet"):
        source = QuestionFile(file=str(name), question_field="data.0.q", answer_field="data.0.answers.text.0")
        found, _ = read_questions(source)
        assert [(one.question, one.answer) for one in found] == [("a?", "4")]
    source = QuestionFile(file=str(path), question_field="data.0.q")
    assert [bad.reason for bad in read_questions(source)[1]] == [
        "there is no field `data.0.q`; the fields are: data"
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(JSON, max_size=6), indent=st.none() | st.integers(0, 2))
def test_a_json_array_is_read_value_by_value(
    rows: list[Any], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize("text", ["[1 2]", "[1,]", "[,1]", "[1", "[1]]", "[1] x", '["a', "", "{}", "3"])
def test_a_broken_json_array_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(SeedFileError, match=r"q\.json (is not JSON|must contain a JSON array)"):
        list(read_rows(tmp_path / "q.json"))


@pytest.mark.parametrize("name", ["q.json", "q.jsonl", "q.csv", "q.jsonl.gz", "q.parquet"])
def test_a_large_file_is_not_held_in_memory(tmp_path: Path, name: str) -> None:
    rows = [{"question": f"{number} " + "x" * 500} for number in range(60_000)]
    path = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame(rows).write_parquet(path, row_group_size=5_000)
    elif name.endswith("csv"):
        pl.DataFrame(rows).write_csv(path)
    else:
        data = "\n".join(map(json.dumps, rows)) if "jsonl" in name else json.dumps(rows)
        path.write_bytes(gzip.compress(data.encode(), 1) if name.endswith("gz") else data.encode())
    count = len(rows)
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 15 * 2**20, f"{peak / 2**20:.0f} MiB for a file of 30"


def test_places_are_named_in_the_lake_and_parts_are_written_one_by_one(
    lake: Lake, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "ROWS_OF_A_PART", 2)
    experiment = make_experiment(shards.parent, seeds={"file": "shards", "licence": "MIT"})
    manifest, accepted, rejected = import_seeds(lake, experiment, experiment.seeds)
    assert (accepted, rejected, len(manifest.files)) == (4, 3, 4)
    rows = lake.read(SEEDS.name, manifest.partition)
    assert [*zip(rows["source_file"], rows["source_line"], strict=True)][:2] == [
        ("more/x.parquet", 1),
        ("part-0.jsonl", 1),
    ]
    assert manifest.activity.parameters["file"] == "shards"


def test_the_size_of_parts_changes_no_id(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(shards.parent, seeds={"file": "shards"})
    ids = []
    for size in (1, 3, 100):
        monkeypatch.setattr(imports, "ROWS_OF_A_PART", size)
        lake = Lake(tmp_path / f"lake-{size}")
        manifest, *_ = import_seeds(lake, experiment, experiment.seeds)
        ids.append(lake.read_ungated(manifest)["id"].to_list())
    assert ids[0] == ids[1] == ids[2]


def test_an_import_that_is_cut_off_leaves_nothing_and_can_be_repeated(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "ROWS_OF_A_PART", 2)
    (tmp_path / "seeds.json").write_text('[{"question": "a?"}, {"question": "b?"}, {"question": "c?"}, {')
    experiment = make_experiment(tmp_path, seeds={"file": "seeds.json"})
    with pytest.raises(SeedFileError, match=r"seeds\.json is not JSON"):
        import_seeds(lake, experiment, experiment.seeds)
    assert lake.manifests(SEEDS.name) == [] and lake.manifests(REJECTED_SEEDS.name) == []

    write_lines(tmp_path / "seeds.jsonl", [{"question": f"{number}?"} for number in range(5)])
    experiment = make_experiment(tmp_path)
    written = []
    build = imports.build_records

    def killed(*args: Any) -> pl.DataFrame:
        written.append(1)
        if len(written) == 4:
            raise KeyboardInterrupt
        return build(*args)

    monkeypatch.setattr(imports, "build_records", killed)
    with pytest.raises(KeyboardInterrupt):
        import_seeds(lake, experiment, experiment.seeds)
    assert lake.manifests(SEEDS.name) == []
    monkeypatch.setattr(imports, "build_records", build)
    manifest, accepted, _ = import_seeds(lake, experiment, experiment.seeds)
    other = Lake(tmp_path / "other")
    whole, *_ = import_seeds(other, experiment, experiment.seeds)
    assert accepted == 5 and lake.read_ungated(manifest).equals(other.read_ungated(whole))


# ---- true answers -------------------------------------------------------------------------------------


def answered(folder: Path, **seeds: Any) -> Experiment:
    write_lines(
        folder / "seeds.jsonl",
        [
            {"question": "1 + 1?", "answer": "#### 2"},
            {"question": "2 + 2?"},
            {"question": "3 + 3?", "answer": 6},
        ],
    )
    return make_experiment(folder, seeds={"file": "seeds.jsonl", **seeds})


def test_true_answers_are_children_of_their_seeds(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = answered(tmp_path, answer_field="answer")
    manifest, accepted, rejected = import_seeds(lake, experiment, experiment.seeds)
    assert (accepted, rejected) == (2, 1)
    seeds = lake.read(SEEDS.name, manifest.partition)
    answers = lake.read(SEED_ANSWERS.name, manifest.partition)
    assert answers["answer"].to_list() == ["#### 2", "6"]
    assert answers["parents"].to_list() == [[{"id": id, "role": "seed"}] for id in seeds["id"]]
    learns = method("lmsi").seeds
    monkeypatch.setattr(
        imports,
        "seeds_of",
        lambda _: imports.Seeds(learns.kind, learns_from_answers=True) if learns else None,
    )
    assert answers_of(lake, experiment).rows() == [(seeds["id"][0], "#### 2"), (seeds["id"][1], "6")]


def test_a_method_that_must_not_see_true_answers_cannot(lake: Lake, tmp_path: Path) -> None:
    experiment = answered(tmp_path, answer_field="answer")
    import_seeds(lake, experiment, experiment.seeds)
    with pytest.raises(MethodError, match="lmsi does not learn from true answers, and cannot read them"):
        answers_of(lake, experiment)
    chosen = pool(lake, experiment, 0).chosen
    assert not any("answer" in name for name in chosen.columns)
    assert not any("#### 2" in str(value) for row in chosen.rows() for value in row)
    for file in Path(str(lmsi.__file__)).parent.glob("*.py"):
        assert "SEED_ANSWERS" not in file.read_text() and "seeds/answers" not in file.read_text(), file


def test_without_the_setting_no_answer_is_read(lake: Lake, tmp_path: Path) -> None:
    experiment = answered(tmp_path)
    manifest, accepted, _ = import_seeds(lake, experiment, experiment.seeds)
    assert accepted == 3 and lake.manifests(SEED_ANSWERS.name) == []
    assert "answer_field" not in manifest.activity.parameters
    assert "answer_field" not in experiment.model_dump()["seeds"]


def test_the_place_of_a_row_is_its_file_and_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"x": 1}])
    assert list(read_rows(path)) == [(Place("a.jsonl", 1), {"x": 1})]


# ---- what is held out ---------------------------------------------------------------------------------

QUOTED = "Nina has twelve apples and gives five of them to Tom and two to Greta"


def contaminated(folder: Path, **settings: Any) -> Experiment:
    write_lines(folder / "heldout.jsonl", [{"question": "What is “x”, Zoë?", "answer": "1"}])
    write_lines(folder / "bench.jsonl", [{"id": 1, "q": {"stem": f"{QUOTED}. How many?"}, "yes": "yes"}])
    write_lines(
        folder / "seeds.jsonl",
        [
            {"question": "What's new?"},
            {"question": 'what is "x" zoe\u0308'},
            {"question": f"Think: {QUOTED.upper()}!"},
            {"question": "yes"},
        ],
    )
    return make_experiment(folder, **settings)


def test_seeds_that_are_held_out_are_rejected_with_what_they_are_near_to(lake: Lake, tmp_path: Path) -> None:
    experiment = contaminated(tmp_path, decontamination={"benchmarks": [{"file": "bench.jsonl"}]})
    manifest, accepted, rejected = import_seeds(lake, experiment, experiment.seeds)
    assert (accepted, rejected) == (2, 2)
    assert lake.read(SEEDS.name, manifest.partition)["question"].to_list() == ["What's new?", "yes"]
    bad = lake.read(REJECTED_SEEDS.name, manifest.partition)
    assert bad["source_line"].to_list() == [2, 3]
    assert bad["reason"][0] == "the same text as heldout.jsonl, line 1, which is held out for evaluation"
    assert (
        bad["reason"][1].startswith("has “nina has twelve apples")
        and "bench.jsonl, line 1" in bad["reason"][1]
    )
    assert manifest.activity.parameters["decontamination"]["words"] == 13
    named = contaminated(
        tmp_path, decontamination={"words": 0, "benchmarks": [{"file": "bench.jsonl", "fields": ["yes"]}]}
    )
    _, _, rejected = import_seeds(Lake(tmp_path / "other"), named, named.seeds)
    assert rejected == 2, "`yes`, as its field is named, and the equal text"


def test_nothing_is_compared_or_recorded_without_the_setting(lake: Lake, tmp_path: Path) -> None:
    experiment = contaminated(tmp_path)
    manifest, accepted, _ = import_seeds(lake, experiment, experiment.seeds)
    assert accepted == 4 and "decontamination" not in manifest.activity.parameters
    assert "decontamination" not in experiment.model_dump()


def test_a_benchmark_without_the_named_field_blames_the_setting(lake: Lake, tmp_path: Path) -> None:
    experiment = contaminated(
        tmp_path, decontamination={"benchmarks": [{"file": "bench.jsonl", "fields": ["question"]}]}
    )
    said = r"decontamination\.benchmarks: .*bench\.jsonl has no field `question`; its fields are id, q, yes: correct"
    with pytest.raises(SeedFileError, match=said):
        import_seeds(lake, experiment, experiment.seeds)


def test_a_later_benchmark_line_without_the_named_field_is_named(lake: Lake, tmp_path: Path) -> None:
    experiment = contaminated(
        tmp_path, decontamination={"benchmarks": [{"file": "bench.jsonl", "fields": ["question"]}]}
    )
    write_lines(tmp_path / "bench.jsonl", [{"question": "a b c d e"}, {"id": 2}])
    with pytest.raises(SeedFileError, match=r"bench\.jsonl, line 2: there is no field `question`"):
        import_seeds(lake, experiment, experiment.seeds)
