"""A training's loss and throughput while it runs: in the state of the experiment, and in Dagster."""

import time
from pathlib import Path

import dagster as dg
import pytest
from kit.homes import make_home
from kit.training_stage import Lines, run_stage, small_training

from selfimprove_dagster.assets.factory import _observe
from selfimprove_dagster.work.attempts import Attempt, Recorder
from selfimprove_dagster.work.progress import Progress, ProgressReport, watched


def test_progress_says_the_loss_and_the_throughput() -> None:
    seen: list[Progress] = []
    lines: list[str] = []
    with watched(seen.append), ProgressReport("training", 10, "steps", lines.append) as report:
        report.expect(8)
        report.figures = {"loss": 1.23456}
        report.advance(2, 5_000)
    assert seen[-1].figures == {"loss": 1.23456} and seen[-1].tokens_per_second
    assert str(seen[-1]).startswith("2 of 8 steps, loss 1.235, ") and "tokens/s" in str(seen[-1])
    assert "2 of 8 steps, loss 1.235" in lines[-1]
    with watched(seen.append), ProgressReport("drawing", 2, "rows", lines.append) as report:
        report.advance(1, 100)
    assert seen[-1].tokens_per_second is None, "of trainings only"


@pytest.mark.train
def test_a_training_reports_its_losses(tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = small_training(tmp_path, steps=None, epochs=2.0, validation={"share": 0.25, "every": 2})
    log = Lines()
    with watched(seen.append):
        run_stage(made, log=log)
    losses = [one.figures["loss"] for one in seen if "loss" in one.figures]
    assert len({*losses}) >= 4 and (seen[-1].done, seen[-1].total) == (5, 5)
    assert any("validation_loss" in one.figures for one in seen)
    assert any("steps, loss " in line for line in log.lines)


def test_dagster_observes_a_training(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    observed: list[Progress] = []
    recorder = Recorder(
        home.lake, Attempt("mine", "lmsi", 0), lambda: "", lambda: False, observe=observed.append
    )
    for done in range(1, 6):
        recorder.progressed(
            Progress("lmsi/fine_tuned_checkpoint", done, 9, "steps", figures={"loss": 2.0 - done / 9})
        )
    recorder.progressed(Progress("lmsi/voted_answers", 9, 9, "rows"))
    assert [one.done for one in observed] == [1], (
        "the others come within half a minute, and rows have no loss"
    )
    recorder._observed = time.monotonic() - 31.0
    recorder.progressed(Progress("lmsi/fine_tuned_checkpoint", 6, 9, "steps", figures={"loss": 1.0}))
    assert [one.done for one in observed] == [1, 6]

    @dg.asset(
        key=["lmsi", "fine_tuned_checkpoint"], partitions_def=dg.StaticPartitionsDefinition(["mine-000"])
    )
    def trained(context: dg.AssetExecutionContext) -> None:
        key = dg.AssetKey(["lmsi", "fine_tuned_checkpoint"])
        _observe(context, key, Progress("t", 3, 9, "steps", figures={"loss": 1.5}, tokens_per_second=70.0))

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([trained], partition_key="mine-000", instance=instance).success
        (record,) = instance.fetch_observations(trained.key, limit=5).records
        observation = record.asset_observation
        assert observation is not None and observation.partition == "mine-000"
        shown = {name: one.value for name, one in observation.metadata.items()}
    assert {"steps": 3, "loss": 1.5, "tokens_per_second": 70.0}.items() <= shown.items()
