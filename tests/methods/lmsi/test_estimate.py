"""The forecast of a run against the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.loop.estimate import estimate, estimate_by_the_last
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.work.forecast import Forecast

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forecast(finished_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    """Of the first iteration, made over a lake that is empty."""
    lake = Lake(tmp_path_factory.mktemp("empty") / "lake")
    made = estimate(lake, finished_home.experiment("small"), 0, TrainerResource().fine_tune)
    assert not lake.root.exists()
    return made


def of_first_iteration(home: Home, stage: str) -> dict[str, float]:
    manifest = home.lake.manifest(f"lmsi/{stage}", {"experiment": "small", "iteration": "000"})
    return {**manifest.activity.about, "bytes": manifest.bytes}


def test_tokens_are_forecast_within_three_tenths(forecast: Forecast, finished_home: Home) -> None:
    generation, training, evaluation = forecast.stages
    for stage, name in ((generation, "raw_generations"), (evaluation, "evaluation")):
        actual = of_first_iteration(finished_home, name)["tokens"]
        assert 0.7 * actual < (stage.tokens.low + stage.tokens.high) / 2 < 1.3 * actual, name
    actual = of_first_iteration(finished_home, "fine_tuned_checkpoint")["trained_tokens"]
    assert 0.7 * actual < training.tokens.low < 1.3 * actual


def test_disk_is_forecast_within_a_factor_of_two(forecast: Forecast, finished_home: Home) -> None:
    lake = [one for one in finished_home.lake.manifests("lmsi/*", "small") if one.iteration == 0]
    checkpoint = next((finished_home.root / "checkpoints" / "small").glob("000-*"))
    actual = sum(one.bytes for one in lake) + sum(file.stat().st_size for file in checkpoint.iterdir())
    assert actual / 2 < forecast.total.bytes < actual * 2
    in_lake = sum(one.bytes for one in lake if one.table != "lmsi/evaluation")
    assert in_lake / 2 < forecast.stages[0].bytes < in_lake * 2


def test_the_budget_says_how_many_iterations_fit(forecast: Forecast, finished_home: Home) -> None:
    assert (forecast.iterations, forecast.limited_by) == (2, "budget.iterations")
    assert 0 < forecast.total.seconds.low <= forecast.total.seconds.high
    experiment = finished_home.experiment("small")
    budget = experiment.budget.model_copy(update={"iterations": 9, "tokens": 60_000})
    tight = experiment.model_copy(update={"budget": budget})
    again = estimate(finished_home.lake, tight, 2, TrainerResource().fine_tune)
    assert again.limited_by == "budget.tokens" and 1 <= again.iterations <= 4
    assert again.stages[2].tokens.high < forecast.stages[2].tokens.high, "the champion is remembered"


def test_the_command_prints_the_forecast_and_writes_nothing(
    finished_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(finished_home.experiments))
    shown = CliRunner().invoke(app, ["run", "small", "--estimate"], catch_exceptions=False)
    assert shown.exit_code == 0
    for word in ("generation", "training", "evaluation", "budget.iterations allows 2 more", "16 questions"):
        assert word in shown.output
    assert not (tmp_path / "home").exists()


def test_without_a_pilot_an_iteration_takes_what_the_last_one_took(finished_home: Home) -> None:
    experiment = finished_home.experiment("small")
    forecast = estimate_by_the_last(finished_home.lake, experiment, 2, TrainerResource().fine_tune)
    last = [one for one in finished_home.lake.manifests("lmsi/*", "small") if one.iteration == 1]
    assert {stage.stage for stage in forecast.stages} == {one.table.split("/")[1] for one in last}
    assert forecast.total.tokens.high == sum(one.activity.about.get("tokens", 0) for one in last) > 0
    assert forecast.total.seconds.low > 0 and forecast.total.bytes == sum(one.bytes for one in last)
    assert "iteration 1 of small" in forecast.assumed[0]
