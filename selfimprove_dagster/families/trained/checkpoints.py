"""What every stage that trains a model shares: where it starts, where it writes, what it stores and shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from selfimprove_dagster.assets.factory import image
from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, Parent
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.stage import Stage
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.progress import ProgressReport

if TYPE_CHECKING:
    from selfimprove_dagster.training.settings import TrainingOutcome

OnLog = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainingStage:
    """One training of one stage: its activity, the model it starts from, and the dataset it reads."""

    stage: Stage[Any]
    activity: Activity
    base: Champion
    base_id: str
    dataset: Manifest

    @classmethod
    def begin(
        cls,
        stage: Stage[Any],
        dataset: Manifest,
        base: Champion,
        parameters: Mapping[str, Any],
        inputs: Sequence[Manifest] = (),
        about: Mapping[str, Any] | None = None,
    ) -> TrainingStage:
        """`parameters` are all settings that shape the outcome; `inputs` are read besides the dataset, and
        `about` is told besides.
        """
        base_id = base.identity
        activity = stage.activity(
            inputs=[dataset, *inputs],
            parameters={**parameters, "dtype": stage.experiment.model.dtype},
            model_id=base_id,
            about={"model_path": base.path, **(about or {})},
        )
        return cls(stage, activity, base, base_id, dataset)

    @property
    def output(self) -> Path:
        """The folder of the trained model."""
        method, name = self.stage.schema.name.split("/")
        experiment, iteration = self.stage.experiment.name, self.stage.iteration
        kind = method if name == "fine_tuned_checkpoint" else f"{method}-{name}"
        return self.stage.home.checkpoint(experiment, iteration, kind, self.activity.id)

    @contextmanager
    def progress(self, steps: int) -> Iterator[OnLog]:
        """What a trainer is to call with the entries of its log."""
        with (
            file_system_errors(self.output),
            ProgressReport(self.stage.schema.name, steps, "steps", self.stage.log) as report,
        ):
            yield lambda entry: report.advance(
                int(entry["step"]) - report.done, int(entry["tokens"]) - report.tokens
            )
            report.found(steps - report.done)

    def store(
        self,
        outcome: TrainingOutcome,
        parents: Sequence[Parent] = (),
        measures: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Commit the row of the trained model; `parents` come after its dataset and its base."""
        from selfimprove_dagster.language_model.weights import weights_hash

        log = [{key: entry.get(key) for key in ("step", "loss", "learning_rate")} for entry in outcome.log]
        draft = Draft(
            content={
                "model_id": weights_hash(outcome.path),
                "base_model_id": self.base_id,
                "dataset_activity_id": self.dataset.activity.id,
                "examples": outcome.examples,
                "steps": outcome.steps,
            },
            parents=[
                Parent(self.dataset.activity.id, "trained_on"),
                Parent(self.base_id, "initialised_from"),
                *parents,
            ],
            measures={
                "path": str(outcome.path),
                "tokens": outcome.tokens,
                "seconds": outcome.seconds,
                "first_loss": outcome.first_loss,
                "final_loss": outcome.final_loss,
                "log": log,
                **(measures or {}),
            },
        )
        spent = {"trained_tokens": outcome.tokens, "model_seconds": outcome.seconds}
        return self.stage.store(self.activity, [draft], spent)

    def result(
        self, manifest: Manifest, outcome: TrainingOutcome, metadata: Mapping[str, Any] | None = None
    ) -> dg.MaterializeResult:
        """What Dagster shows of it."""
        return self.stage.result(
            manifest,
            preview=["model_id", "base_model_id", "examples", "steps", "first_loss", "final_loss"],
            metadata={
                "started_from": self.base.name,
                "examples": outcome.examples,
                "final_loss": outcome.final_loss,
                "training_tokens_per_second": round(outcome.tokens / max(outcome.seconds, 1e-9), 1),
                "checkpoint": dg.MetadataValue.path(str(outcome.path)),
                "lineage": self.stage.lineage_page,
                "loss_curve": image((outcome.path / "loss.png").read_bytes()),
                **(metadata or {}),
            },
        )


def fine_tuned(
    stage: Stage[Any],
    trainer: TrainerResource,
    dataset: Manifest,
    base: Champion,
    examples: Iterable[tuple[str, str]],
    name: str = "training",
) -> dg.MaterializeResult:
    """`base` fine-tuned on (prompt, completion) examples, by the section `name` of the experiment."""
    from selfimprove_dagster.training.tokenising import tokenise_examples

    section = getattr(stage.experiment, name)
    training = TrainingStage.begin(stage, dataset, base, {name: section.model_dump()})
    with training.progress(section.steps) as on_log:
        outcome = trainer.fine_tune(
            stage.experiment,
            base.path,
            tokenise_examples(base.path, examples),
            training.output,
            seed=stage.experiment.seed + stage.iteration,
            on_log=on_log,
            section=section,
        )
    return training.result(training.store(outcome), outcome)


def trained_model(stage: Stage[Any], table: Table) -> Champion | None:
    """The model that an earlier stage of this iteration trained; None where it trained none."""
    _, trained = stage.read(table)
    if trained.is_empty():
        return None
    path, model_id = trained.select("path", "model_id").row(0)
    return Champion(path, model_id, iteration=stage.iteration)


def starting_model(stage: Stage[Any]) -> Champion:
    """The model that the experiment's training starts from."""
    experiment = stage.experiment
    return stage.champion if experiment.training.start_from == "champion" else Champion(experiment.model.path)
