"""The training stage of LMSI over rows that a test wrote, on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.lmsi_iterations import Iterations, build_iterations
from selfimprove_dagster import embedded, registry
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.stage import Result, StageContext


class Lines:
    """Takes the lines of a stage, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)

    warning = info


def small_training(folder: Path, **training: Any) -> Iterations:
    """Two iterations of LMSI on the embedded model, whose training has these settings."""
    made = build_iterations(folder)
    made.set("model", path=str(embedded.BASE_MODEL), device="cpu")
    usual = {"steps": 4, "learning_rate": 1e-3, "batch_size": 4, "start_from": "base"}
    values = {**made.experiment.training.model_dump(), **usual, **training}
    section = type(made.experiment.training).model_validate(values)
    made.experiment = made.experiment.model_copy(update={"training": section})
    return made


def run_stage(
    made: Iterations, table: str = "lmsi/fine_tuned_checkpoint", iteration: int = 1, log: Lines | None = None
) -> Result:
    """Run the stage of a table in an iteration."""
    home = Home(root=made.folder, experiments=made.folder / "experiments")
    (stage,) = [
        stage
        for stage in registry.method(made.experiment.method).stages
        if any(one.name == table for one in stage.writes)
    ]
    context: StageContext[Any] = StageContext(
        home=home,
        table=stage.table,
        experiment=made.experiment,
        iteration=iteration,
        code_version="1",
        language_model=LanguageModelResource(),
        trainer=TrainerResource(),
        reporter=log or Lines(),
    )
    return stage.run(context)
