"""What every stage that trains a model shares: where it starts, where it writes, what it stores and shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfimprove_dagster.families.trained.forgetting import (
    mixed_in,
    mixed_measures,
    perplexities,
    recorded,
)
from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, Parent
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.seeds.general import GeneralExample, left_out, sample_general
from selfimprove_dagster.stage import Folder, Picture, Result, StageContext
from selfimprove_dagster.table import HELD_OUT, PERPLEXITIES, TRAINED_ON, Table
from selfimprove_dagster.words import count
from selfimprove_dagster.work.progress import ProgressReport, per_second

if TYPE_CHECKING:
    from selfimprove_dagster.training.settings import TrainingOutcome
    from selfimprove_dagster.training.watching import WatchSettings

_LIVE = ("loss", "validation_loss", "reward")
"""What people see of the log while a model is trained, besides the throughput."""

_FEW_HELD_OUT = 10
"""Below this number of held-out examples, a warning says that their loss means little."""

Outcome = TypeVar("Outcome", bound="TrainingOutcome")


@dataclass(frozen=True)
class TrainingStage:
    """One training of one stage: its activity, the model it starts from, and the dataset it reads."""

    context: StageContext[Any]
    activity: Activity
    base: Champion
    base_id: str
    dataset: Manifest
    earlier: Sequence[Manifest] = ()

    @classmethod
    def begin(
        cls,
        context: StageContext[Any],
        dataset: Manifest,
        base: Champion,
        parameters: Mapping[str, Any],
        inputs: Sequence[Manifest] = (),
        about: Mapping[str, Any] | None = None,
        earlier: Sequence[Manifest] = (),
    ) -> TrainingStage:
        """`parameters` are all settings that shape the outcome; `inputs` are read in addition to the
        dataset, and `about` is recorded as well. The datasets of `earlier` iterations are trained on, too.
        """
        base_id = base.identity
        activity = context.activity(
            inputs=[dataset, *earlier, *inputs],
            parameters={**parameters, "dtype": context.experiment.model.dtype},
            model_id=base_id,
            about={"model_path": context.lake.address_of(base.path), **(about or {})},
        )
        return cls(context, activity, base, base_id, dataset, earlier)

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
        with (
            file_system_errors(self.output),
            ProgressReport(context.table.name, section.steps or 0, "steps", context.log) as report,
        ):

            def on_log(entry: dict[str, float]) -> None:
                report.expect(int(entry["steps"]))
                report.figures = {name: entry[name] for name in _LIVE if name in entry}
                report.advance(int(entry["step"]) - report.done, int(entry["tokens"]) - report.tokens)

            try:
                write_rows(file, kind, rows)
                outcome = how(
                    context.experiment,
                    section,
                    self.base.path,
                    file,
                    self.output,
                    seed=context.experiment.seed + context.iteration,
                    on_log=on_log,
                    **({"watch": self._watch(section)} if section.watch else {}),
                    **more,
                )
            finally:
                file.unlink(missing_ok=True)
            report.expect(outcome.steps)
            report.found(outcome.steps - report.done)
        context.lake.store.publish_folder(self.output)
        return outcome

    def _watch(self, section: Any) -> WatchSettings:
        """Where people watch the training."""
        from selfimprove_dagster.training.watching import WatchSettings

        experiment, stage = self.context.experiment.name, self.context.table.name.replace("/", ".")
        activity = self.activity.id.removeprefix("act:")[:8]
        run = f"{experiment}/{self.context.iteration:03d}/{stage}/{activity}"
        return WatchSettings(section.watch, experiment, run, str(self.context.home.root / "watch"))

    def store(
        self,
        outcome: TrainingOutcome,
        parents: Sequence[Parent] = (),
        measures: Mapping[str, Any] | None = None,
        ids: Callable[[], Sequence[str]] | None = None,
        unmeasured: Sequence[tuple[str, str]] = (),
    ) -> Manifest:
        """Commit the row of the trained model; `parents` come after its dataset and its base.

        `ids` returns the ids of the rows that it was trained on, in their order, by default all of the datasets: those
        that were left out are named. `unmeasured` are held-out rows that it could not be measured on, by id, with their
        problems.
        """
        from selfimprove_dagster.language_model.weights import model_id

        identity = model_id(outcome.path)
        known: Sequence[str] = ()
        if outcome.left_out or outcome.held_out:
            known = ids() if ids else self.ids
        named = [(known[index], problem) for index, problem in outcome.left_out]
        left_out = [*named, *unmeasured]
        if left_out:
            self.context.warn(
                f"{count(len(left_out), 'example')} left out, the first {': '.join(left_out[0])}"
            )
        log = [{key: entry.get(key) for key in ("step", "loss", "learning_rate")} for entry in outcome.log]
        draft = Draft(
            content={
                "model_id": identity,
                "base_model_id": self.base_id,
                "dataset_activity_id": self.dataset.activity.id,
                "examples": outcome.examples,
                "steps": outcome.steps,
            },
            parents=[
                *(Parent(one.activity.id, TRAINED_ON) for one in (self.dataset, *self.earlier)),
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
                **self._validated(outcome, known),
                **perplexities(self.context, outcome.path, identity),
                **(measures or {}),
            },
        )
        paid = {"money": money} if (money := outcome.log[-1].get("money")) else {}
        spent = {"trained_tokens": outcome.tokens, "model_seconds": outcome.seconds, **paid}
        return self.context.store(self.activity, [draft], spent)

    @property
    def ids(self) -> list[str]:
        """The ids of all rows of the datasets, in their order."""
        manifests = (self.dataset, *self.earlier)
        return [id for one in manifests for id in self.context.lake.read_columns(one, ["id"])["id"]]

    def _validated(self, outcome: TrainingOutcome, known: Sequence[str]) -> dict[str, Any]:
        """The measures of a training that held examples out."""
        if not outcome.held_out:
            return {}
        steps = "" if outcome.kept_step is None else f"; the weights of step {outcome.kept_step:,} are kept"
        self.context.log(
            f"{count(len(outcome.held_out), 'example')} held out to measure the loss, {outcome.steps:,} steps "
            f"trained{steps}"
        )
        if len(outcome.held_out) < _FEW_HELD_OUT:
            self.context.warn(
                f"the loss on {count(len(outcome.held_out), 'held-out example')} says little of others; raise "
                "validation.share"
            )
        return {
            HELD_OUT: [known[index] for index in outcome.held_out],
            "validation": [{"step": int(step), "loss": loss} for step, loss in outcome.validation_losses],
            "kept_step": outcome.kept_step,
        }

    def _shown_perplexities(self, manifest: Manifest) -> dict[str, float]:
        """What Dagster shows of the perplexities of the experiment's plain text, by role."""
        if PERPLEXITIES not in self.context.table.measures:
            return {}
        measured = self.context.lake.read_columns(manifest, [PERPLEXITIES])[PERPLEXITIES].to_list()[0]
        return {f"{one['role']}_perplexity": one["perplexity"] for one in measured or ()}

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
                **_shown_validation(outcome),
                **self._shown_perplexities(manifest),
                **({} if rate is None else {"training_tokens_per_second": rate}),
                "checkpoint": Folder(str(outcome.path)),
                "lineage": self.context.lineage_page,
                "loss_curve": Picture((outcome.path / "loss.png").read_bytes()),
                **(metadata or {}),
            },
        )


def _shown_validation(outcome: TrainingOutcome) -> dict[str, Any]:
    """What Dagster shows of the examples that a training held out."""
    if not outcome.held_out:
        return {}
    losses = dict(outcome.validation_losses)
    step = outcome.steps if outcome.kept_step is None else outcome.kept_step
    return {
        "held_out_examples": len(outcome.held_out),
        "steps": outcome.steps,
        "kept_step": step,
        "validation_loss": losses[step],
    }


def fine_tuned(
    context: StageContext[Any],
    dataset: Table,
    base: Champion,
    columns: Sequence[str] = ("prompt", "completion", "question"),
    name: str = "training",
    prompting: Prompting | None = None,
) -> Result:
    """`base` fine-tuned on the dataset by the section `name` of the experiment.

    `columns` are those of prompt, completion and question; the examples of one question are held out together, where
    any are. `prompting` is the form of the prompts, by default that in which the experiment's model is asked. The
    examples are read once, as they are tokenised.
    """
    from selfimprove_dagster.training.supervised import TokenisedExample
    from selfimprove_dagster.training.tokenising import tokenise_examples, tokenise_general

    section = getattr(context.experiment, name)
    manifest, *earlier = datasets(context, dataset, section)
    training = TrainingStage.begin(context, manifest, base, {name: recorded(section)}, earlier=earlier)
    form = prompting or context.prompts.prompting
    examples = (row for one in (manifest, *earlier) for row in rows_of(context, one, *columns))
    rows = tokenise_examples(base.path, examples, form)
    general: Sequence[GeneralExample] = ()
    if mix := getattr(section, "mix", None):
        wanted = mixed_in(section, sum(context.lake.live_rows(one) for one in (manifest, *earlier)))
        general, rejected = sample_general(
            Path(mix.file), wanted, seed_of("mix", context.experiment.seed, context.iteration), form.chat
        )
        if rejected:
            context.warn(f"training.mix.file: {left_out(Path(mix.file), rejected)}")
        rows = chain(rows, tokenise_general(base.path, general, form))
    outcome = training.train(context.trainer.fine_tune, section, TokenisedExample, rows)
    ids = (
        None if not general else lambda: [*training.ids, *(f"{one.file}, line {one.line}" for one in general)]
    )
    stored = training.store(
        outcome, ids=ids, measures=mixed_measures(section, outcome, general, len(training.ids))
    )
    return training.result(stored, outcome, {"general_examples": len(outcome.mixed)} if general else {})


def datasets(context: StageContext[Any], dataset: Table, section: Any) -> list[Manifest]:
    """This iteration's partition of a dataset, and after it those of earlier iterations where all are trained on."""
    manifest, _ = context.scan(dataset)
    if not section.accumulate:
        return [manifest]
    so_far, _ = context.so_far(dataset)
    return [manifest, *(one for one in so_far if one.iteration != manifest.iteration)]


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
