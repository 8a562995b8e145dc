"""Seeds in the lake: imported once a file, and chosen for each iteration."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from kit.homes import entered, make_home
from kit.small_lake import SMALL_EXPERIMENT, make_experiment, seed_draft, store, write_lines
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.home.imports import import_seeds, pool
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.methods.lmsi.sampling import (
    demonstrations,
    import_demonstrations,
    read_demonstrations,
)
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEEDS


def test_an_import_puts_good_and_bad_lines_into_the_lake(lake: Lake, tmp_path: Path) -> None:
    write_lines(tmp_path / "seeds.jsonl", [{"question": "a?"}, "bad", {"question": "b?"}])
    experiment = make_experiment(tmp_path)
    manifest, accepted, rejected = import_seeds(lake, experiment, experiment.seeds)
    assert (accepted, rejected) == (2, 1)
    rows = lake.read(SEEDS.name, manifest.partition)
    assert rows.select("question", "source_file", "source_line", "licence").rows() == [
        ("a?", "seeds.jsonl", 1, "MIT"),
        ("b?", "seeds.jsonl", 3, "MIT"),
    ]
    bad = lake.read(REJECTED_SEEDS.name, manifest.partition).row(0, named=True)
    assert (bad["source_line"], bad["excerpt"]) == (2, "bad")
    assert manifest.activity.parameters["checksum"] == file_checksum(tmp_path / "seeds.jsonl")


def test_the_same_file_is_imported_once(lake: Lake, tmp_path: Path) -> None:
    """Under whatever name it comes again."""
    write_lines(tmp_path / "seeds.jsonl", [{"question": "a?"}, "bad"])
    experiment = make_experiment(tmp_path)
    first = import_seeds(lake, experiment, experiment.seeds)
    (tmp_path / "seeds.jsonl").rename(tmp_path / "again.jsonl")
    again = experiment.seeds.model_copy(update={"file": str(tmp_path / "again.jsonl")})
    assert import_seeds(lake, experiment, again) == first
    assert len(lake.manifests(SEEDS.name)) == 1


def test_the_same_file_is_read_anew_when_the_setting_that_spoilt_it_was_mended(
    lake: Lake, tmp_path: Path
) -> None:
    write_lines(tmp_path / "seeds.jsonl", [{"Body": "a?"}])
    experiment = make_experiment(tmp_path)
    _, accepted, _ = import_seeds(lake, experiment, experiment.seeds)
    assert accepted == 0
    mended = experiment.seeds.model_copy(update={"question_field": "Body"})
    _, accepted, _ = import_seeds(lake, experiment, mended)
    assert accepted == 1


def test_a_question_of_an_earlier_file_is_a_duplicate(lake: Lake, tmp_path: Path) -> None:
    write_lines(tmp_path / "seeds.jsonl", [{"question": "a?"}])
    write_lines(tmp_path / "more.jsonl", [{"question": "b?"}, {"question": "A? "}])
    experiment = make_experiment(tmp_path)
    import_seeds(lake, experiment, experiment.seeds)
    more = experiment.seeds.model_copy(update={"file": str(tmp_path / "more.jsonl")})
    manifest, accepted, rejected = import_seeds(lake, experiment, more)
    assert (accepted, rejected) == (1, 1)
    bad = lake.read(REJECTED_SEEDS.name, manifest.partition).row(0, named=True)
    assert bad["reason"] == "duplicate of a question of seeds.jsonl, imported before"
    assert bad["source_line"] == 2


def test_a_missing_seed_file_is_named(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with pytest.raises(
        SeedFileError, match=r"there is no seed file .*seeds.jsonl; set seeds.file to an existing file"
    ):
        import_seeds(lake, experiment, experiment.seeds)


def test_a_file_name_that_is_no_utf8_does_not_stop_an_import(lake: Lake, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s\udcff.jsonl", [{"question": "a?"}, "bad"])
    experiment = make_experiment(tmp_path)
    source = experiment.seeds.model_copy(update={"file": str(path)})
    manifest, accepted, rejected = import_seeds(lake, experiment, source)
    assert (accepted, rejected) == (1, 1)
    assert lake.read(SEEDS.name, manifest.partition)["source_file"].to_list() == ["s�.jsonl"]


# ---- the questions of an iteration ------------------------------------------------------------------


def with_seeds(lake: Lake, questions: list[str], batch: str = "b") -> None:
    drafts = [seed_draft(question, line) for line, question in enumerate(questions, start=1)]
    store(lake, SEEDS, drafts, partition={"experiment": "demo", "batch": batch})


def commit_pool(lake: Lake, chosen: pl.DataFrame, iteration: int) -> None:
    drafts = [
        Draft({key: row[key] for key in SEED_POOL.content}, [Parent(row["id"], "seed")])
        for row in chosen.iter_rows(named=True)
    ]
    store(lake, SEED_POOL, drafts, iteration=iteration)


def test_questions_that_no_iteration_used_come_first(lake: Lake, tmp_path: Path) -> None:
    with_seeds(lake, [f"{n}?" for n in range(6)])
    experiment = make_experiment(tmp_path)
    first = pool(lake, experiment, 0)
    assert (len(first.chosen), first.size, first.fresh) == (4, 6, 4)
    commit_pool(lake, first.chosen, 0)
    second = pool(lake, experiment, 1)
    assert (len(second.chosen), second.fresh) == (4, 2)
    assert len({*first.chosen["question"], *second.chosen["question"]}) == 6
    assert second.inputs == [
        *first.inputs,
        lake.manifest(SEED_POOL.name, {"experiment": "demo", "iteration": "000"}),
    ]
    again = pool(lake, experiment, 0)
    assert again.chosen.equals(first.chosen), "what came later has no say"


def test_the_choice_follows_from_the_questions_and_not_from_their_order(tmp_path: Path) -> None:
    questions = [f"{n}?" for n in range(30)]
    experiment = make_experiment(tmp_path)
    chosen = []
    for name, order in (("one", questions), ("two", questions[::-1])):
        lake = Lake(tmp_path / name)
        with_seeds(lake, order[:10], "b")
        with_seeds(lake, order[10:], "a")
        chosen.append(pool(lake, experiment, 0).chosen["question"].to_list())
    assert chosen[0] == chosen[1]
    other = make_experiment(tmp_path, seed=1)
    assert pool(lake, other, 0).chosen["question"].to_list() != chosen[0]


def test_no_seeds_at_all_is_an_error_that_says_where_to_look(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with pytest.raises(SeedFileError, match="demo has no imported seeds yet"):
        pool(lake, experiment, 0)
    with_seeds(lake, [])
    with pytest.raises(
        SeedFileError, match="every line of its seed file was rejected; see the table seeds/rej"
    ):
        pool(lake, experiment, 0)


# ---- demonstrations ---------------------------------------------------------------------------------


def worked(*numbers: int) -> list[dict[str, str]]:
    return [{"question": f"{n}?", "reasoning": f"It is {n}.", "answer": str(n)} for n in numbers]


def test_demonstrations_are_imported_once_and_only_for_prompts_that_show_them(
    lake: Lake, tmp_path: Path
) -> None:
    write_lines(tmp_path / "d.jsonl", worked(1, 2, 3))
    experiment = make_experiment(tmp_path, demonstrations={"file": "d.jsonl", "count": 2})
    assert demonstrations(lake, experiment, "zero_shot_cot", "zero_shot_direct") == ([], [])
    shown, inputs = demonstrations(lake, experiment, "few_shot_cot")
    assert [(example.question, example.answer) for example in shown] == [("1?", "1"), ("2?", "2")]
    assert inputs == [import_demonstrations(lake, experiment)]
    assert [example.id for example in shown] == lake.read_ungated(inputs[0])["id"].to_list()


def test_too_few_or_broken_demonstrations_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [*worked(1), {"question": "2?"}])
    assert read_demonstrations(str(path), 0) == []
    assert len(read_demonstrations(str(path), 1)) == 1
    with pytest.raises(
        SeedFileError, match=r"d\.jsonl, line 2: there is no field `reasoning`; .* fix the line"
    ):
        read_demonstrations(str(path), 2)
    write_lines(path, worked(1))
    with pytest.raises(SeedFileError, match=r"holds 1 demonstrations but demonstrations.count asks for 2"):
        read_demonstrations(str(path), 2)


def test_all_rejected_lines_can_be_printed_and_an_import_of_nothing_fails(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**SMALL_EXPERIMENT, "name": "small"})
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    write_lines(bad, [{"text": f"no question {number}"} for number in range(15)])
    write_lines(good, [{"question": "How many?"}, {"question": ""}])
    with entered(home):
        nothing = CliRunner().invoke(app, ["seeds", "import", "small", str(bad)])
        again = CliRunner().invoke(app, ["seeds", "import", "small", str(bad)])
        some = CliRunner().invoke(app, ["seeds", "import", "small", str(good)])
        printed = CliRunner().invoke(app, ["seeds", "rejected", "small"])
    assert [nothing.exit_code, again.exit_code, some.exit_code, printed.exit_code] == [1, 1, 0, 0]
    assert "0 seeds imported, 15 lines rejected" in nothing.output and "seeds inspect" in nothing.output
    assert "… and 5 more, which `selfimprove seeds rejected NAME` prints" in nothing.output
    assert "16 rejected lines of 2 imports" in printed.output
    for number in range(1, 16):
        assert f"bad.jsonl, line {number}: there is no field `question`" in printed.output
    assert "good.jsonl, line 2: the question is empty" in printed.output
