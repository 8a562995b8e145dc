"""A pilot of a training that counts in epochs: its steps follow from the rows of the real iteration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from selfimprove_dagster.estimating.substitutes import STEPS, FewSteps
from selfimprove_dagster.experiment.sections import TrainingSection
from selfimprove_dagster.training.rows import RowFile, write_rows
from selfimprove_dagster.training.supervised import TokenisedExample


class OneTraining:
    """Trains nothing, and keeps the section that it was given."""

    def __init__(self) -> None:
        self.section: Any = None

    def fine_tune(
        self, experiment: Any, section: Any, base: Any, rows: Path, output: Path, **more: Any
    ) -> Any:
        self.section, self.more = section, more
        log = [{"step": float(step), "seconds": float(step)} for step in range(1, section.steps + 1)]
        return SimpleNamespace(log=log, tokens=60, examples=len(RowFile(rows, TokenisedExample)))


def test_epochs_are_scaled_by_the_rows(tmp_path: Path) -> None:
    trainer = OneTraining()
    few = FewSteps(trainer, factor=4.0)
    section = TrainingSection.model_validate(
        {
            "start_from": "base",
            "epochs": 3,
            "learning_rate": 1e-3,
            "batch_size": 8,
            "schedule": "cosine",
            "validation": {"share": 0.25},
            "watch": ["wandb"],
        }
    )
    write_rows(tmp_path / "rows", TokenisedExample, [TokenisedExample([1], [2])] * 100)
    few.fine_tune(None, section, "base", tmp_path / "rows", tmp_path / "model", watch="somewhere")
    assert (trainer.section.steps, trainer.section.epochs, trainer.section.validation) == (STEPS, None, None)
    assert "watch" not in trainer.more and trainer.section.watch == (), "a pilot is shown nowhere"
    (training,) = few.trainings
    assert training.steps == 113 == section.steps_of(400), (
        "three times the 300 that are not held out, by eight"
    )
    assert training.tokens == 60 * training.steps / STEPS
