"""Budgets in the middle of an iteration: what is done is kept, and a higher budget goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kit import killing
from kit.models import FakeLanguageModel
from kit.small_lake import activity_of, make_experiment, seed_draft, store
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import BudgetSpent
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Spent
from selfimprove_dagster.loop.rules import Continue, Stop, decide_next
from selfimprove_dagster.methods.lmsi.sampling import generate_paths
from selfimprove_dagster.methods.lmsi.tables import EVALUATION, RAW_GENERATIONS
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.work.budget import Allowance

RAW = RAW_GENERATIONS
FIVE = pl.DataFrame({"id": [f"q:{n}" for n in range(5)], "question": [f"{n}?" for n in range(5)]})


def draw(
    lake: Lake, experiment: Experiment, model: FakeLanguageModel, allowance: Allowance
) -> tuple[Spent, Sequence[str]]:
    """The stage of generation, 2 questions a shard with 3 paths of 2 tokens; what it took, and the ids."""
    with lake.writer(RAW, activity_of(RAW)) as writer:
        spent = generate_paths(
            writer,
            model,  # type: ignore[arg-type]
            FIVE,
            experiment,
            allowance=allowance,
        )
        return spent, lake.read_ungated(writer.commit(vars(spent)))["id"].to_list()


def with_budget(experiment: Experiment, **budget: Any) -> Experiment:
    return experiment.model_copy(update={"budget": BudgetSection(**budget)})


def test_tokens_stop_generation_between_shards_and_a_higher_budget_goes_on(tmp_path: Path) -> None:
    lake, experiment = Lake(tmp_path / "lake"), make_experiment(tmp_path)
    poor, model = with_budget(experiment, tokens=24), FakeLanguageModel()
    with pytest.raises(BudgetSpent) as stopped:
        draw(lake, poor, model, Allowance.of(lake, poor, RAW.name, 0))
    assert str(stopped.value) == (
        "token budget spent: 24 of 24 tokens; lmsi/raw_generations: 12 of 15 paths are finished and kept; "
        "raise budget.tokens in the experiment file and run again to resume"
    )
    assert model.calls == [2, 2] and not lake.manifests()
    again = FakeLanguageModel()
    with pytest.raises(BudgetSpent):
        draw(lake, poor, again, Allowance.of(lake, poor, RAW.name, 0))
    assert again.calls == []
    rich = with_budget(experiment, tokens=25)
    spent, ids = draw(lake, rich, again, Allowance.of(lake, rich, RAW.name, 0))
    assert again.calls == [1] and spent.tokens == 30, "all shards count, whichever attempt drew them"
    _, undisturbed = draw(
        Lake(tmp_path / "other"), experiment, FakeLanguageModel(), Allowance(BudgetSection(), Spent())
    )
    assert ids == undisturbed


def test_what_other_stages_took_counts_and_the_stage_itself_does_not(tmp_path: Path) -> None:
    lake, experiment = Lake(tmp_path / "lake"), make_experiment(tmp_path)
    store(lake, RAW, [], about={"tokens": 1_000, "model_seconds": 5.0})
    store(lake, EVALUATION, [], about={"tokens": 10, "model_seconds": 2.0})
    store(lake, RAW, [], iteration=1, about={"tokens": 100, "model_seconds": 1.0})
    assert Allowance.of(lake, experiment, RAW.name, 0).before == Spent(110, 3.0)
    assert Allowance.of(lake, experiment, RAW.name, 2).before == Spent(1_110, 8.0)


def test_model_seconds_stop_a_stage_too(tmp_path: Path) -> None:
    allowance = Allowance(BudgetSection(model_seconds=60), Spent(0, 40.0))
    allowance.check(Spent(10**9, 19.9), "x: 1 of 2 paths")
    with pytest.raises(BudgetSpent, match=r"^model time spent: 60\.0 of 60\.0 seconds; x: 1 of 2 paths are "):
        allowance.check(Spent(0, 20.0), "x: 1 of 2 paths")


def test_the_loop_stops_with_the_reason_while_an_unfinished_iteration_has_spent_the_budget(
    tmp_path: Path,
) -> None:
    lake, experiment = Lake(tmp_path / "lake"), make_experiment(tmp_path)
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    poor = with_budget(experiment, tokens=24)
    with pytest.raises(BudgetSpent):
        draw(lake, poor, FakeLanguageModel(), Allowance.of(lake, poor, RAW.name, 0))
    step = decide_next(lake, poor)
    assert isinstance(step, Stop)
    assert step.reason == (
        "token budget spent: 24 of 24 tokens during iteration 0; "
        "raise budget.tokens in the experiment file and run again to resume"
    )
    assert decide_next(lake, with_budget(experiment, tokens=25)) == Continue(0, after="start", method="lmsi")


@pytest.mark.slow
@pytest.mark.rotates
def test_a_run_stops_with_its_reason_and_goes_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killing.new_home(tmp_path)
    home = Home(root=folder / "home", experiments=folder / "experiments")
    for name, value in {
        "SELFIMPROVE_HOME": home.root,
        "SELFIMPROVE_EXPERIMENTS": home.experiments,
        "DAGSTER_HOME": home.dagster,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("selfimprove_dagster.methods.lmsi.exam.PART_PATHS", 8)
    file = home.experiments / "small.yaml"

    def run_with(budget: dict[str, int]) -> str:
        file.write_text(
            yaml.safe_dump({**killing.PLANS["lmsi"].experiment, "budget": {"iterations": 1, **budget}})
        )
        done = CliRunner().invoke(app, ["run", "small"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def shards(stage: str) -> dict[str, int]:
        found = home.lake.root.glob(f"lmsi/{stage}/*/*/part-*")
        return {path.name: path.stat().st_mtime_ns for path in found}

    stopped = run_with({"tokens": 4_000})
    assert "stopped: token budget spent" in stopped
    assert "of 192 paths are finished and kept; raise budget.tokens" in stopped
    drawn = shards("raw_generations")
    assert 0 < len(drawn) < 6
    stopped = run_with({"tokens": 12_000})
    assert "lmsi/evaluation" in stopped and "of 144 answers are finished and kept" in stopped
    assert drawn.items() <= shards("raw_generations").items()
    sat = shards("evaluation")
    assert 0 < len(sat) < 18
    assert "iteration budget spent" in run_with({})
    assert sat.items() <= shards("evaluation").items()
    tokens = [one.activity.about["tokens"] for one in home.lake.manifests() if "tokens" in one.activity.about]
    assert sum(tokens) > 12_000, "what earlier attempts drew is in the account"
