"""What every stage that trains a model shares: where it starts, where it writes, what it stores and shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, Parent
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.stage import Folder, Picture, Result, StageContext
from selfimprove_dagster.table import Table
from selfimprove_dagster.words import count
from selfimprove_dagster.work.progress import ProgressReport, per_second

if TYPE_CHECKING:
    from selfimprove_dagster.training.settings import TrainingOutcome

OnLog = Callable[[dict[str, float]], None]

Outcome = TypeVar("Outcome", bound="TrainingOutcome")


@dataclass(frozen=True)
class TrainingStage:
    """One training of one stage: its activity, the model it starts from, and the dataset it reads."""

    context: StageContext[Any]
    activity: Activity
    base: Champion
    base_id: str
    dataset: Manifest

    @classmethod
    def begin(
        cls,
        context: StageContext[Any],
        dataset: Manifest,
        base: Champion,
        parameters: Mapping[str, Any],
        inputs: Sequence[Manifest] = (),
        about: Mapping[str, Any] | None = None,
    ) -> TrainingStage:
        """`parameters` are all settings that shape the outcome; `inputs` are read in addition to the
        dataset, and `about` is recorded as well.
        """
        base_id = base.identity
        activity = context.activity(
            inputs=[dataset, *inputs],
            parameters={**parameters, "dtype": context.experiment.model.dtype},
            model_id=base_id,
            about={"model_path": context.lake.address_of(base.path), **(about or {})},
        )
        return cls(context, activity, base, base_id, dataset)

    @property
    def output(self) -> Path:
        """The folder of the trained model."""
        method, name = self.context.table.name.split("/")
        experiment, iteration = self.context.experiment.name, self.context.iteration
        kind = method if name == "fine_tuned_checkpoint" else f"{method}-{name}"
        return self.context.home.checkpoint(experiment, iteration, kind, self.activity.id)

    def train(
        self,
        how: Callable[..., Outcome],
        section: Any,
        kind: type[Any],
        rows: Iterable[Any],
        **more: Any,
    ) -> Outcome:
        """Train by a method of the trainer, as the section says, on rows of the dataclass `kind`.

        The rows are in a file beside the trained model as long as it is trained. `more` is handed to the method.
        """
        from selfimprove_dagster.training.rows import write_rows

        context, file = self.context, self.output.with_name(f"{self.output.name}.rows")
        with self._progress(section.steps) as on_log:
            try:
                write_rows(file, kind, rows)
                return how(
                    context.experiment,
                    section,
                    self.base.path,
                    file,
                    self.output,
                    seed=context.experiment.seed + context.iteration,
                    on_log=on_log,
                    **more,
                )
            finally:
                file.unlink(missing_ok=True)

    @contextmanager
    def _progress(self, steps: int) -> Iterator[OnLog]:
        """What a trainer is to call with the entries of its log."""
        with (
            file_system_errors(self.output),
            ProgressReport(self.context.table.name, steps, "steps", self.context.log) as report,
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
        ids: Callable[[], Sequence[str]] | None = None,
        unmeasured: Sequence[tuple[str, str]] = (),
    ) -> Manifest:
        """Commit the row of the trained model; `parents` come after its dataset and its base.

        `ids` returns the ids of the rows that it was trained on, in their order, by default all of the dataset: those
        that were left out are named. `unmeasured` are held-out rows that it could not be measured on, by id, with their
        problems.
        """
        from selfimprove_dagster.language_model.weights import model_id

        named: list[tuple[str, str]] = []
        if outcome.left_out:
            known = ids() if ids else self.context.lake.read_columns(self.dataset, ["id"])["id"].to_list()
            named = [(known[index], problem) for index, problem in outcome.left_out]
        left_out = [*named, *unmeasured]
        if left_out:
            self.context.warn(
                f"{count(len(left_out), 'example')} left out, the first {': '.join(left_out[0])}"
            )
        log = [{key: entry.get(key) for key in ("step", "loss", "learning_rate")} for entry in outcome.log]
        draft = Draft(
            content={
                "model_id": model_id(outcome.path),
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
                "path": self.context.lake.address_of(outcome.path),
                "tokens": outcome.tokens,
                "seconds": outcome.seconds,
                "first_loss": outcome.first_loss,
                "final_loss": outcome.final_loss,
                "log": log,
                "left_out": [{"id": id, "problem": problem} for id, problem in left_out],
                **(measures or {}),
            },
        )
        paid = {"money": money} if (money := outcome.log[-1].get("money")) else {}
        spent = {"trained_tokens": outcome.tokens, "model_seconds": outcome.seconds, **paid}
        return self.context.store(self.activity, [draft], spent)

    def result(
        self, manifest: Manifest, outcome: TrainingOutcome, metadata: Mapping[str, Any] | None = None
    ) -> Result:
        """What Dagster shows of it."""
        rate = per_second(outcome.tokens, outcome.seconds)
        return self.context.result(
            manifest,
            preview=["model_id", "base_model_id", "examples", "steps", "first_loss", "final_loss"],
            metadata={
                "started_from": self.base.name,
                "examples": outcome.examples,
                "final_loss": outcome.final_loss,
                **({} if rate is None else {"training_tokens_per_second": rate}),
                "checkpoint": Folder(str(outcome.path)),
                "lineage": self.context.lineage_page,
                "loss_curve": Picture((outcome.path / "loss.png").read_bytes()),
                **(metadata or {}),
            },
        )


def fine_tuned(
    context: StageContext[Any],
    dataset: Manifest,
    base: Champion,
    examples: Iterable[tuple[str, str]],
    name: str = "training",
    prompting: Prompting | None = None,
) -> Result:
    """`base` fine-tuned on (prompt, completion) examples, by the section `name` of the experiment.

    `prompting` is the form of the prompts, by default that in which the experiment's model is asked. The examples are
    read once, as they are tokenised: `rows_of` gives those of a table of any size.
    """
    from selfimprove_dagster.training.supervised import TokenisedExample
    from selfimprove_dagster.training.tokenising import tokenise_examples

    section = getattr(context.experiment, name)
    training = TrainingStage.begin(context, dataset, base, {name: section.model_dump()})
    shown = tokenise_examples(base.path, examples, prompting or context.prompts.prompting)
    outcome = training.train(context.trainer.fine_tune, section, TokenisedExample, shown)
    return training.result(training.store(outcome), outcome)


def rows_of(context: StageContext[Any], dataset: Manifest, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Some columns of the rows of a dataset, read file by file."""
    for rows in context.batches(dataset, *columns):
        yield from rows.iter_rows()


def trained_model(context: StageContext[Any], table: Table) -> Champion | None:
    """The model that an earlier stage of this iteration trained; None where it trained none."""
    _, trained = context.small(table)
    if trained.is_empty():
        return None
    path, model_id = trained.select("path", "model_id").row(0)
    return Champion(context.lake.folder_at(path), model_id, iteration=context.iteration)


def starting_model(context: StageContext[Any]) -> Champion:
    """The model that the experiment's training starts from."""
    experiment = context.experiment
    return (
        context.champion if experiment.training.start_from == "champion" else Champion(experiment.model.path)
    )
