"""The forecast of an iteration against the iteration, on the embedded models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit.homes import environment_of, make_home
from kit.judging_home import run
from kit.sampling import chosen_methods
from kit.small_lake import SMALL_EXPERIMENT
from pins.small_experiments import EXPERIMENTS

from selfimprove_dagster import registry
from selfimprove_dagster.estimating.estimate import estimate
from selfimprove_dagster.estimating.forecast import Forecast
from selfimprove_dagster.estimating.measuring import Effort
from selfimprove_dagster.estimating.pilot import scratch_home
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.host import own_name
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.resources import LanguageModelResource, TrainerResource

pytestmark = pytest.mark.slow

# Its ten examples differ in length, and two batches of them have 368 to 568 tokens.
LONGER = {"toolformer": {"training": {"steps": 12, "batch_size": 4}}}
OF_METHOD = {settings["method"]: name for name, settings in EXPERIMENTS.items()}


def forecast_of(home: Home, name: str, effort: Effort) -> Forecast:
    said: list[str] = []
    models, trainer = LanguageModelResource(), TrainerResource()
    return estimate(home, home.experiment(name), 0, models, trainer, said.append, effort)


def files_of(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


def tables_of(home: Home) -> dict[str, float]:
    """The files of all tables; other tests that share the home write an index beside them."""
    return {name: time for name, time in files_of(home.lake.root / "lmsi").items() if Path(name).is_file()}


@pytest.mark.matrix
@pytest.mark.parametrize("method", chosen_methods(registry.methods()))
def test_tokens_are_forecast_within_a_quarter(method: str, tmp_path: Path) -> None:
    """Of the first iteration, from a pilot of a part of its items."""
    name = OF_METHOD[method]
    wanted = ["people", name] if EXPERIMENTS[name].get("seeds", {}).get("experiment") else [name]
    settings = {one: EXPERIMENTS[one] | LONGER.get(method, {}) for one in wanted}
    home = make_home(tmp_path, *({**settings[one], "name": one} for one in wanted))
    if len(wanted) > 1:
        run(home, wanted[0])
    before = files_of(tmp_path)
    forecast = forecast_of(home, name, Effort(10, seconds=600.0))
    assert files_of(tmp_path) == before, "a pilot writes nothing"

    run(home, name)
    assert [one.stage for one in forecast.stages] == [one.name for one in registry.method(method).stages]
    for trained in (False, True):
        said = sum(one.tokens.middle for one in forecast.stages if one.generates is not trained)
        did = tokens_of(home, method, name, "trained_tokens" if trained else "tokens")
        assert said == pytest.approx(did, rel=0.25), "trained on" if trained else "generated"
    did = sum(one.bytes for one in home.lake.manifests(f"{method}/*", name))
    models = sum(file.stat().st_size for file in (home.root / "checkpoints" / name).rglob("*.*"))
    assert (did + models) / 1.5 < forecast.total.bytes < 1.5 * (did + models)
    assert forecast.total.memory is not None and forecast.total.memory > 100e6


def tokens_of(home: Home, method: str, name: str, kind: str) -> int:
    tables = registry.method(method).tables
    made = (home.lake.manifest(table, partition_of(name, 0)).activity.about for table in tables)
    return sum(int(about.get(kind, 0)) for about in made)


def test_finished_stages_with_the_same_settings_need_no_pilot(finished_home: Home) -> None:
    experiment = finished_home.experiment("small")

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pilot ran")

    class Nothing:
        open = options = fail

    found = estimate(finished_home, experiment, 2, Nothing(), Nothing(), fail)
    last = [one for one in finished_home.lake.manifests("lmsi/*", "small") if one.iteration == 1]
    assert found.total.tokens.low == sum(one.activity.about.get("tokens", 0) for one in last) > 0
    assert found.total.memory == max(one.activity.about.get("peak_memory", 0) for one in last)
    checkpoint = next((finished_home.root / "checkpoints" / "small").glob("001-*"))
    weights = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert found.total.bytes == sum(one.bytes for one in last) + weights
    assert "every stage: as much as in iteration 1, which had the same settings" in found.assumed
    assert (found.iterations, found.limited_by) == (0, "budget.iterations")


def test_a_pilot_measures_what_changed_settings_affect(finished_home: Home) -> None:
    """Sampling is as in the last iteration; training and what follows are not."""
    experiment = finished_home.experiment("small")
    training = experiment.training.model_copy(update={"steps": 8})  # type: ignore[attr-defined]
    changed = experiment.model_copy(update={"training": training})
    before = tables_of(finished_home)
    found = estimate(finished_home, changed, 2, LanguageModelResource(), TrainerResource(), lambda line: None)
    assert tables_of(finished_home) == before
    generations = finished_home.lake.manifest("lmsi/raw_generations", partition_of("small", 1))
    by_stage = {one.stage: one for one in found.stages}
    assert by_stage["raw_generations"].tokens.low == generations.activity.about["tokens"]
    trained = finished_home.lake.manifest("lmsi/fine_tuned_checkpoint", partition_of("small", 1))
    said = by_stage["fine_tuned_checkpoint"].tokens.middle
    assert said == pytest.approx(2 * trained.activity.about["trained_tokens"], rel=0.25)
    known = next(line for line in found.assumed if "which had the same settings" in line)
    assert "raw_generations" in known and "fine_tuned_checkpoint" not in known


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    home = make_home(tmp_path, SMALL_EXPERIMENT)
    before = files_of(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "selfimprove_dagster.cli", "run", "small", "--estimate"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment_of(home)}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "pilot: raw_generations" in line:
                assert [*tmp_path.glob(".home-pilot-*")], "there is a folder to delete"
                process.send_signal(signal.SIGINT)
                break
        assert process.wait(timeout=120) != 0
    assert files_of(tmp_path) == before


def test_a_pilot_deletes_the_folders_of_killed_ones(tmp_path: Path) -> None:
    home = make_home(tmp_path, SMALL_EXPERIMENT)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, gone = f"{own_name()}-abc", f"{dead.pid}@1.00.0123abcd-abc"
    left, elsewhere, others = (
        tmp_path / f".home-pilot-{name}"
        for name in (f"{ours.split('.')[0]}.{gone}", f"elsewhere.{gone}", ours)
    )
    for folder in (left, elsewhere, others):
        (folder / "lake").mkdir(parents=True)
    with scratch_home(home, home.experiment("small"), 0) as scratch:
        assert scratch.root.parent == tmp_path and scratch.root != home.root
        assert not left.exists() and others.exists() and elsewhere.exists()
    assert not scratch.root.exists()
