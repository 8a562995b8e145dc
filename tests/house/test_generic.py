"""What a method gets that declares nothing but its settings and stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import store
from kit.toy import BEST, TOY, VERSES, SeededToyExperiment, ToyExperiment, seeded_toy, toy

from selfimprove_dagster.cli.status import print_status
from selfimprove_dagster.errors import ExperimentError, MethodError, SeedFileError
from selfimprove_dagster.estimating.estimate import affordable, finished_stages
from selfimprove_dagster.estimating.forecast import Range, StageForecast
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.home.exams import held_out_keys, open_exam
from selfimprove_dagster.home.files import describe_fields, parse_chain, parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file, pool
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.loop.comparison import cells, summarise
from selfimprove_dagster.loop.rules import Continue, Stop, decide_next, finished_iterations
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.method import Method, Yield

__all__ = ["seeded_toy", "toy"]


def experiment(folder: Path, **settings: Any) -> ToyExperiment:
    data = {"name": "mine", "method": "toy", "model": {"path": "org/model"}, **settings}
    read = parse_experiment(data, folder=folder)
    assert isinstance(read, ToyExperiment)
    return read


def test_settings_of_an_unknown_method_are_read_by_its_own_classes(
    toy: Method[ToyExperiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POEMS", "poems")
    (tmp_path / "critic").mkdir()
    read = experiment(
        tmp_path,
        verses={
            "file": "${POEMS}/all.jsonl",
            "files": ["one.txt", "/two.txt"],
            "critics": {"ours": {"path": "critic"}, "theirs": {"path": "org/critic"}},
        },
    )
    assert read.verses.file == f"{tmp_path}/poems/all.jsonl"
    assert read.verses.files == (f"{tmp_path}/one.txt", "/two.txt")
    assert {name: one.path for name, one in read.verses.critics.items()} == {
        "ours": f"{tmp_path}/critic",
        "theirs": "org/critic",
    }
    assert read.model.path == "org/model" and read.measures is None
    assert "verses.file" in {field.name for field in describe_fields("toy")}


def test_embedded_is_a_file_like_any_other_where_a_method_ships_none(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    assert experiment(tmp_path, verses={"file": "embedded"}).verses.file == f"{tmp_path}/embedded"


def test_a_wrong_field_below_a_name_is_answered_with_those_that_exist(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=r"verses\.critics\.ours\.pth: .*; allowed here: path"):
        experiment(tmp_path, verses={"critics": {"ours": {"path": "a/b", "pth": 1}}})


@pytest.mark.parametrize("settings", [{"method": "sonnet"}, {"methods": ["toy", "sonnet"]}])
def test_a_method_that_there_is_not_is_answered_with_those_that_there_are(
    toy: Method[ToyExperiment], tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ExperimentError, match=r"'sonnet' is not one of .*'lmsi'.*'toy'"):
        parse_chain({"name": "mine", "model": {"path": "a/b"}, **settings}, folder=tmp_path)
    with pytest.raises(ExperimentError, match=r"'sonnet' is not one of .*'toy'"):
        describe_fields("sonnet")


def test_an_unknown_method_is_chained_with_a_shipped_one(toy: Method[ToyExperiment], tmp_path: Path) -> None:
    chain = parse_chain(
        {
            "name": "both",
            "methods": ["lmsi", "toy"],
            "model": {"path": "org/model"},
            "lmsi": {"seeds": {"file": "q.jsonl"}, "evaluation": {"file": "e.jsonl"}},
            "toy": {"verses": {"file": "v.jsonl"}},
        },
        folder=tmp_path,
    )
    assert [one.method for one in chain] == ["lmsi", TOY.name]
    assert chain[1].model_dump()["verses"]["file"] == f"{tmp_path}/v.jsonl"


def test_a_method_without_an_exam_says_so_and_holds_nothing_out(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    home, settled = Home(tmp_path, tmp_path), experiment(tmp_path)
    with pytest.raises(ExperimentError, match="experiment mine: the method toy has no held-out evaluation"):
        open_exam(home, settled, lambda path: pytest.fail("no model is needed"))
    assert held_out_keys(settled) == set()


def test_a_method_without_seeds_imports_none_and_starts_at_once(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    lake, settled = Lake(tmp_path / "lake"), experiment(tmp_path)
    with pytest.raises(SeedFileError, match="experiment mine: toy learns from no seeds"):
        import_file(lake, settled)
    assert decide_next(lake, settled) == Continue(0, after="start", method="toy")


def test_seeds_are_imported_and_drawn_as_the_method_declares(
    seeded_toy: Method[SeededToyExperiment], tmp_path: Path
) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "q.jsonl"
    file.write_text('{"question": "Why?"}\n{"question": "How?"}\n{"question": "why?"}\n')
    settled = parse_experiment(
        {"name": "mine", "method": "toy", "model": {"path": "a/b"}, "seeds": {"file": "q.jsonl"}},
        folder=tmp_path,
    )
    before = decide_next(lake, settled)
    assert isinstance(before, Stop) and before.reason.startswith("no seeds were imported")
    manifest, accepted, rejected = import_file(lake, settled)
    assert (manifest.table, accepted, rejected) == ("seeds/accepted", 2, 1)
    assert isinstance(decide_next(lake, settled), Continue)
    drawn = pool(lake, settled, 0)
    assert (len(drawn.chosen), drawn.size) == (1, 2), "the toy asks for one"
    again = tmp_path / "more.jsonl"
    again.write_text('{"question": "When?"}\n')
    assert import_file(lake, settled, again)[1:] == (1, 0)


def written(lake: Lake, name: str = "mine", iteration: int = 0, **about: Any) -> None:
    """An iteration of the toy: three verses, one of them the best."""
    about = {"partition": partition_of(name, iteration), "about": {"seconds": 2.0, "tokens": 30, **about}}
    store(lake, VERSES, [Draft({"text": text}) for text in "abc"], **about)
    store(lake, BEST, [Draft({"text": "b"})], **about)


def test_an_iteration_is_counted_table_by_table(
    toy: Method[ToyExperiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, settled = Lake(tmp_path / "lake"), experiment(tmp_path)
    assert results(lake, settled) == []
    written(lake)
    (result,) = results(lake, settled)
    assert result.counts == {"verses": 3, "best verses": 1} and result.columns == {}
    assert (result.champion, result.challenger, result.promoted, result.ended) == (None, None, None, True)
    print_status(lake, [settled])
    shown = capsys.readouterr().out
    assert "best verses" in shown and "iteration 1 of toy, ready to run" in shown
    assert not any(word in shown for word in ("promoted", "new checkpoint", "vote", "held-out"))


def test_no_yield_is_assumed_of_a_method_that_declares_none(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    lake, settled = Lake(tmp_path / "lake"), experiment(tmp_path, budget={"minimum_yield": 1.0})
    written(lake)
    (finished,) = finished_iterations(lake, settled)
    assert (finished.share, finished.promoted, finished.tokens) == (None, None, 60)
    assert isinstance(decide_next(lake, settled), Continue)


def test_experiments_of_an_unknown_method_are_compared_by_what_they_cost(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    lake, settled = Lake(tmp_path / "lake"), experiment(tmp_path)
    written(lake)
    one = summarise(lake, settled)
    assert (one.iterations, one.promoted, one.before, one.change) == (1, None, None, None)
    assert (one.tokens, one.seconds, one.examples) == (60, 4.0, 1)
    assert cells(one)[:4] == ["mine: toy", "–", "–", "–"]


def test_stages_that_finished_with_the_same_settings_are_forecast_by_what_they_took(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    settled = experiment(tmp_path, budget={"iterations": 9, "tokens": 200})
    written(lake, "other")
    written(lake, iteration=3)
    assert finished_stages(lake, settled) == {}, "neither another experiment nor other settings"
    written(lake, iteration=4, settings=settled.settings_hash)
    found = finished_stages(lake, settled)
    assert {stage: one.iteration for stage, (one,) in found.items()} == {"verses": 4, "best": 4}
    cheaper = settled.model_copy(update={"budget": BudgetSection(iterations=5), "description": "again"})
    assert finished_stages(lake, cheaper) == found
    assert finished_stages(lake, settled.model_copy(update={"seed": 1})) == {}


def test_a_budget_affords_iterations_of_a_size(toy: Method[ToyExperiment], tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    settled = experiment(tmp_path, budget={"iterations": 9, "tokens": 200})
    one = StageForecast("one iteration", Range(50, 60), Range(3, 4), 0)
    assert affordable(lake, settled, one) == (3, "budget.tokens")
    written(lake)
    assert affordable(lake, settled, one) == (2, "budget.tokens"), "60 tokens are spent"
    hours = settled.model_copy(update={"budget": BudgetSection(iterations=9, hours=8 / 3600)})
    assert affordable(lake, hours, one) == (1, "budget.hours")
    priced = {"path": "small-1", "engine": "chat", "prices": {"input": 1.0, "output": 1.0}}
    paid = experiment(tmp_path, model=priced, budget={"iterations": 9, "money": 1.0})
    written(lake, iteration=1, money=0.125)
    assert affordable(lake, paid, replace(one, money=0.3)) == (2, "budget.money"), "0.25 are spent"
    assert affordable(lake, paid, one) == (7, "budget.iterations")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": {"odes": "odes"}}, "counts names odes, which no stage writes"),
        ({"yields": Yield("verses", "odes", ("verses", "odes"))}, "yields names odes"),
        ({"experiment": Experiment}, "ends_with names promotion, which no stage writes"),
    ],
)
def test_a_declaration_that_names_no_stage_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        replace(TOY, **changes).check()
