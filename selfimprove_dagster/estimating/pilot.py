"""Run the stages of an iteration on a few of their items, in a folder of its own, and measure them.

A stage runs as in an iteration, with the experiment's own settings, except for this: of the rows that a model works on
a few are sampled, models take an exam on a few of its questions, and trainings end after a few steps. The rows of a
table are expected to be as many times more in an iteration as those that they are made from; a stage for which this is
wrong declares `Stage.grows`.
"""

from __future__ import annotations

import io
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.addresses import CHECKPOINTS
from selfimprove_dagster.errors import ExperimentError, SelfImproveError
from selfimprove_dagster.estimating.forecast import Range, StageForecast
from selfimprove_dagster.estimating.measuring import USUAL, Batch, Effort, Peaks, Piece, Took, grow, highest
from selfimprove_dagster.estimating.substitutes import CountingModels, FewSteps
from selfimprove_dagster.evaluation.exam import (
    Exam,
    Examinee,
    Part,
    judge_answers,
    rows_of_part,
    write_answers,
)
from selfimprove_dagster.experiment.base import GREEDY, Experiment, TrainingExperiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.host import own_name, was_left
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, PartitionWriter, Spent
from selfimprove_dagster.lake.records import Activity, build_records
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.language_model.paid import PAID
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.method import Stage
from selfimprove_dagster.seeds.files import Question
from selfimprove_dagster.stage import OpensModels, StageContext
from selfimprove_dagster.work.budget import UNLIMITED, Allowance
from selfimprove_dagster.work.memory import peak_memory, reset_peak_memory
from selfimprove_dagster.work.shards import Rows, StoredRows, Work
from selfimprove_dagster.work.spec import Spec

Say = Callable[[str], None]

_MORE = 8
"""By which factor a pilot has more items if the first one left no example."""


@dataclass(frozen=True)
class _Made:
    """A partition of the pilot: its rows are expected `factor` times in an iteration, in `files` files."""

    factor: float
    files: int


@dataclass
class _Measured:
    """What a stage of the pilot took, besides the trainings."""

    pieces: list[Piece] = field(default_factory=list)
    scale: float | None = None
    """The factor of what is made from items that the stage has at hand."""
    entered: dict[str, float] = field(default_factory=dict)
    """By activity: the factor of the items that it works on."""
    seen: Peaks = field(default_factory=dict)
    """The peaks of memory so far."""


class _Silent:
    """Takes the lines of a stage."""

    def info(self, line: str) -> None:
        """Report nothing."""

    warning = info


class _Counted:
    """Takes the progress of a batch, as a `ProgressReport` does."""

    def __init__(self) -> None:
        self.tokens = 0
        self.done = 0

    def advance(self, units: int, tokens: int = 0) -> None:
        """Count units and tokens."""
        self.done += units
        self.tokens += tokens


@dataclass
class PilotContext(StageContext[Any]):
    """A stage of a pilot while it runs; `made` are the partitions of all its stages so far, by activity."""

    effort: Effort = USUAL
    sampled_by: str = ""
    made: dict[str, _Made] = field(default_factory=dict)
    measured: _Measured = field(default_factory=_Measured)

    def sample(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return some of the items, evenly spaced."""
        count = min(self.effort.items, len(items))
        chosen = [items[at * len(items) // count] for at in range(count)]
        self.measured.scale = len(items) / max(len(chosen), 1)
        return chosen

    @property
    def allowance(self) -> Allowance:
        """Return no limit: a pilot counts towards no budget."""
        return UNLIMITED

    def activity(self, **given: Any) -> Activity:
        """Return the activity of the stage; a training on its inputs has as many times more rows as they have."""
        activity = super().activity(**given)
        if isinstance(self.trainer, FewSteps):
            known = (self.made[one].factor for one in activity.inputs if one in self.made)
            self.trainer.factor = max(known, default=1.0)
        return activity

    def factor(self, activity: Activity) -> float:
        """Return how many times more items an activity has in an iteration than it finds in the pilot."""
        if isinstance(self.trainer, FewSteps) and self.trainer.trainings:
            return self.trainer.trainings[-1].scale
        if self.measured.scale is not None:
            return self.measured.scale
        return max((self.made[one].factor for one in activity.inputs if one in self.made), default=1.0)

    def _in_shards(
        self,
        writer: PartitionWriter,
        items: Sequence[Any],
        function: Spec,
        opened: Any,
        *,
        beside: Activity | None = None,
        size: int,
        together: str = "",
        record: Callable[[int, Any], pl.DataFrame] | None = None,
        **how: Any,
    ) -> Spent:
        """Make all shards where no model works, and else those of some rows."""
        factor, scale = self.factor(writer.activity), 1.0
        if opened is not None and isinstance(items, StoredRows) and len(items):
            groups = _groups(items, together or self.sampled_by)
            most = max(round(size * len(groups) / len(items)), 1)
            work: Work[Any] = self._worker(writer, function, opened, beside)
            batches = grow(len(groups), most, self._batches(writer, items, groups, work, record), self.effort)
            scale = len(groups) / sum(one.items for one in batches)
            files = len(groups) * factor / most
            largest = min(most, len(groups) * factor, batches[-1].most)
            piece = Piece(len(groups) * factor, batches, largest)
            spent = writer.spent
        else:
            more: dict[str, Any] = {**how, "size": size, "together": together, "record": record}
            with self._timed() as measured:
                spent = super()._in_shards(writer, items, function, opened, beside=beside, **more)
            piece = Piece(factor, [Batch(1, measured(spent.tokens))])
            files = len(items) * factor / size
        self.measured.pieces.append(piece)
        for activity in (writer.activity, *([beside] if beside else [])):
            self.measured.entered[activity.id] = factor
            self.made[activity.id] = _Made(factor * scale, max(math.ceil(files), 1))
        return spent

    def _batches(
        self,
        writer: PartitionWriter,
        items: StoredRows,
        groups: Sequence[slice],
        work: Callable[[Any, Any], Any],
        record: Callable[[int, Any], pl.DataFrame] | None,
    ) -> Callable[[slice], Took]:
        """Return a function that makes a shard of the next groups of rows, in random order."""
        order = random.Random(self.experiment.seed).sample(range(len(groups)), len(groups))

        def batch(part: slice) -> Took:
            number, report = len(writer.committed_shards), _Counted()
            rows = Rows(pl.concat([items[groups[at]].frame for at in sorted(order[part])]))
            with self._timed() as measured:
                made = work(rows, report)
                frame = (
                    record(number, made) if record else build_records(writer.schema, made, writer.activity)
                )
            took = measured(report.tokens)
            writer.write_shard(number, frame, spent=Spent(report.tokens, round(took.seconds, 3)))
            return took

        return batch

    def _answers(self, writer: PartitionWriter, exam: Exam, examinees: Sequence[Examinee]) -> Spent:
        """Write the answers of all models to some of the questions in each mode, which are the same for all."""
        modes: dict[str, list[Part]] = {}
        for part in exam.parts:
            modes.setdefault(part.mode, []).append(part)
        taken: list[Part] = []
        for number, examinee in enumerate(examinees):
            known = exam.remembered(self.lake, self.table, self.iteration, examinee.model_id)
            with ExitStack() as stack:
                model = None if known is not None else stack.enter_context(self.open_model(examinee.path))
                sit = partial(self._sit, writer, exam, examinee, model, known or [])
                if number == 0:
                    done = [one for parts in modes.values() for one in self._sample_of(parts, sit)]
                    taken = [part for part, _ in done]
                else:
                    done = [(part, sit(part)) for part in taken]
            if model is not None:
                for mode, parts in modes.items():
                    self._add_exam(parts, [(part, took) for part, took in done if part.mode == mode])
        if exam.judge is not None:
            with self._timed() as measured:
                judged = judge_answers(writer, exam.judge, examinees, taken, self.log)
            asked, sampled = (_questions(parts, GREEDY) for parts in (exam.parts, taken))
            self.measured.pieces.append(Piece(asked, [Batch(max(sampled, 1), measured(judged.tokens))]))
        factor = _questions(exam.parts) / max(_questions(taken), 1)
        self.made[writer.activity.id] = _Made(factor, len(examinees) * len(exam.parts))
        return writer.spent

    def _sit(
        self,
        writer: PartitionWriter,
        exam: Exam,
        examinee: Examinee,
        model: LanguageModel | None,
        known: Sequence[dict[str, Any]],
        part: Part,
    ) -> Took:
        """Write the answers to a part, by a model or as they are known."""
        shard, report = len(writer.committed_shards), _Counted()
        if model is None:
            write_answers(writer, shard, examinee, rows_of_part(known, part), Spent())
            return Took()
        with self._timed() as measured:
            answers = exam.sit_part(model, part, report.advance)
        took = measured(report.tokens)
        write_answers(writer, shard, examinee, answers, Spent(report.tokens, round(took.seconds, 3)))
        return took

    def _sample_of(self, parts: Sequence[Part], sit: Callable[[Part], Took]) -> list[tuple[Part, Took]]:
        """Let a model answer some of the questions of a mode, in growing batches, which it returns."""
        count, done = _questions(parts), []
        order = random.Random(self.experiment.seed).sample(range(count), count)

        def some(chosen: slice) -> Took:
            part = _part(parts, sorted(order[chosen]))
            done.append((part, sit(part)))
            return done[-1][1]

        grow(count, max(len(part.questions) for part in parts), some, self.effort)
        return done

    def _add_exam(self, parts: Sequence[Part], done: Sequence[tuple[Part, Took]]) -> None:
        """Add what a model's answers to some of the questions of a mode took."""
        if batches := [Batch(len(part.questions), took) for part, took in done]:
            largest = min(max(len(part.questions) for part in parts), batches[-1].most)
            self.measured.pieces.append(Piece(_questions(parts), batches, largest))

    @contextmanager
    def _timed(self) -> Iterator[Callable[[float], Took]]:
        """Measure work inside; the function returns what it took, given its tokens."""
        self.measured.seen = highest(self.measured.seen, peak_memory())
        reset_peak_memory()
        models = self.language_model
        assert isinstance(models, CountingModels)
        models.fullness = 0.0
        begun, paid = time.monotonic(), models.money
        found = Took()

        def took(tokens: float) -> Took:
            return replace(found, tokens=tokens)

        yield took
        money = None if models.money is None else models.money - (paid or 0.0)
        found = Took(0.0, time.monotonic() - begun, money, peak_memory(), models.fullness)


def _groups(items: StoredRows, together: str) -> list[slice]:
    """Return the slices of the rows that come into one shard."""
    if not together:
        return [slice(at, at + 1) for at in range(len(items))]
    ends = items.ends(together)
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _questions(parts: Sequence[Part], mode: str = "") -> int:
    """Return the number of questions in all parts, or in those of a mode."""
    return sum(len(part.questions) for part in parts if part.mode == mode or not mode)


def _part(parts: Sequence[Part], chosen: Sequence[int]) -> Part:
    """Return a part with the chosen ones of the questions of all parts of a mode."""
    questions: list[Question] = [one for part in parts for one in part.questions]
    paths = sum(part.paths for part in parts) / max(len(questions), 1)
    return Part(parts[0].mode, [questions[at] for at in chosen], round(paths * len(chosen)))


@dataclass(frozen=True)
class PilotStage:
    """The forecast of a stage, and the activities of its tables in the pilot."""

    forecast: StageForecast
    activities: Sequence[Activity]


def run_pilot(
    home: Home,
    experiment: Experiment,
    iteration: int,
    models: OpensModels,
    trainer: Any,
    say: Say,
    effort: Effort = USUAL,
) -> list[PilotStage]:
    """Run the stages of an iteration on a few items in a temporary folder, and return the forecast of each.

    Where no example is left to train on, the pilot runs again with more items. `say` takes a line per stage. Raises
    ExperimentError if a stage fails in the pilot.
    """
    with PAID.unsettled():
        found = _attempt(home, experiment, iteration, models, trainer, say, effort, with_examples=True)
        if found is None:
            say("no example is left to train on: the pilot runs again with more items")
            found = _attempt(home, experiment, iteration, models, trainer, say, effort * _MORE)
    assert found is not None
    return found


def _attempt(
    home: Home,
    experiment: Experiment,
    iteration: int,
    models: OpensModels,
    trainer: Any,
    say: Say,
    effort: Effort,
    with_examples: bool = False,
) -> list[PilotStage] | None:
    """Run the stages; None if the dataset of the method must be `with_examples`, and is empty."""
    order, method = registry.pipeline_order(), registry.method(experiment.method)
    stages = sorted(method.stages, key=lambda one: order[one.table.name])
    made: dict[str, _Made] = {}
    found: list[PilotStage] = []
    with scratch_home(home, experiment, iteration) as scratch:
        for number, stage in enumerate(stages, start=1):
            say(f"pilot: {stage.name}, {number} of {len(stages)}")
            context = PilotContext(
                home=scratch,
                table=stage.table,
                experiment=experiment,
                iteration=iteration,
                code_version=method.code_version(stage),
                language_model=CountingModels(models),
                trainer=FewSteps(trainer),
                reporter=_Silent(),
                effort=effort,
                sampled_by=stage.sampled_by,
                made=made,
            )
            try:
                found.append(_after(found, _run(stage, context)))
            except SelfImproveError as error:
                raise ExperimentError(
                    f"the pilot of experiment {experiment.name} stopped in {stage.table.name}, which a run may do as "
                    f"well: {error}"
                ) from error
            made_dataset = stage.table == method.dataset
            if (
                with_examples
                and made_dataset
                and not context.lake.manifest(stage.table.name, context.partition).rows
            ):
                return None
    return found


def _run(stage: Stage, context: PilotContext) -> PilotStage:
    """Run a stage, and return its forecast."""
    reset_peak_memory()
    begun = time.monotonic()
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # its progress is not that of a run
        stage.run(context)
    seconds = time.monotonic() - begun
    measured, trainings = context.measured, context.trainer.trainings
    manifests = [context.lake.manifest(table.name, context.partition) for table in stage.writes]
    own = manifests[-1].activity.id
    if stage.grows is not None and own in context.made:
        factor = stage.grows(context, measured.entered[own])
        context.made[own] = replace(context.made[own], factor=factor)
    tokens = sum((piece.tokens for piece in measured.pieces), Range(0, 0))
    time_of = Range(seconds, seconds)
    for piece in measured.pieces:
        done = piece.took.seconds
        time_of += piece.seconds + Range(-done, -done)
    for training in trainings:
        tokens += Range(training.tokens, training.tokens)
        time_of += training.more_seconds
    peaks = highest(measured.seen, peak_memory(), *(piece.peaks for piece in measured.pieces))
    money = [one.money for one in (*measured.pieces, *trainings) if one.money is not None]
    forecast = StageForecast(
        stage.name,
        tokens,
        Range(max(time_of.low, 0.0), max(time_of.high, 0.0)),
        sum(_bytes(context.lake, one, context.made) for one in manifests)
        + (sum(training.kept for training in trainings) if _keeps_model(context.experiment, stage) else 0.0),
        generates=not trainings,
        scratch=max((training.scratch for training in trainings), default=0.0),
        memory=peaks["peak_memory"],
        gpu_memory=peaks.get("peak_gpu_memory"),
        at_least=any(piece.is_cut and not piece.is_extrapolated for piece in measured.pieces),
        money=sum(money) if money else None,
    )
    return PilotStage(forecast, [one.activity for one in manifests])


def _after(before: Sequence[PilotStage], stage: PilotStage) -> PilotStage:
    """Return a stage with at least the peak of the stages before it, as the process of an iteration reports it."""
    memory = max((one.forecast.memory or 0.0 for one in (*before[-1:], stage)), default=0.0)
    return replace(stage, forecast=replace(stage.forecast, memory=memory))


def _keeps_model(experiment: Experiment, stage: Stage) -> bool:
    """Return whether the weights that a stage trains stay at the end of the iteration; see `checkpoints.pruning`."""
    if not isinstance(experiment, TrainingExperiment) or experiment.checkpoints.keep == "all":
        return True
    stages = registry.method(experiment.method).stages
    training = [one.name for one in stages if any(table.holds_model for table in one.writes)]
    return stage.name == training[-1]


def _bytes(lake: Lake, manifest: Manifest, made: Mapping[str, _Made]) -> float:
    """Return the bytes of a table in an iteration: so many per row, and so many per file.

    Both follow from two files, of all rows of the pilot and of half of them.
    """
    expected = made.get(manifest.activity.id, _Made(1.0, len(manifest.files)))
    if expected.factor == 1.0 or manifest.rows < 2:
        return manifest.bytes * expected.factor
    rows = lake.read_whole(manifest)
    half = len(rows) // 2
    some, all_rows = (_size(rows.head(count)) for count in (half, len(rows)))
    per_row = max(all_rows - some, 0) / (len(rows) - half)
    per_file = max(all_rows - per_row * len(rows), 0.0)
    return per_row * len(rows) * expected.factor + per_file * expected.files


def _size(rows: pl.DataFrame) -> int:
    """Return the bytes of a file of the lake with these rows."""
    file = io.BytesIO()
    rows.write_parquet(file, compression="zstd")
    return len(file.getvalue())


@contextmanager
def scratch_home(home: Home, experiment: Experiment, iteration: int) -> Iterator[Home]:
    """A home in a temporary folder beside another, whose earlier partitions it reads through links.

    Partitions of the experiment's method from `iteration` on are not there. The folder is deleted at the end; those
    that a killed process left are deleted at the beginning.
    """
    beside = home.root.parent if home.root.parent.is_dir() else Path(tempfile.gettempdir())
    name = f".{home.root.name}-pilot-"
    for left in beside.glob(f"{name}*"):
        if was_left(left.name.removeprefix(name)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{name}{own_name()}-", dir=beside, ignore_cleanup_errors=True
    ) as folder:
        root = Path(folder)
        if home.lake.store.address:
            home.lake.model_at(champion_before(home.lake, experiment, iteration).path)
        _link_partitions(home.lake, root / "lake", experiment, iteration)
        _link_checkpoints(home.root, root, experiment, iteration)
        _link_indexes(home.root, root)
        yield replace(home, root=root)


def _link_partitions(lake: Lake, target: Path, experiment: Experiment, iteration: int) -> None:
    for manifest in lake.manifests():
        own = manifest.experiment == experiment.name and manifest.table.startswith(f"{experiment.method}/")
        if own and manifest.iteration >= iteration:
            continue
        lake.store.bring(manifest.directory / file.name for file in manifest.files)
        link = target / manifest.directory.relative_to(lake.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(manifest.directory, target_is_directory=True)
    lake.ledger.all_withdrawn()
    if lake.ledger.folder.is_dir():
        shutil.copytree(lake.ledger.folder, Lake(target).ledger.folder)


def _link_checkpoints(home: Path, target: Path, experiment: Experiment, iteration: int) -> None:
    """Link the trained models of a home, but for those that the pilot is to train itself."""
    own = re.compile(rf"(?P<iteration>\d+)-{re.escape(experiment.method)}-.*")
    for folder in (home / CHECKPOINTS).glob("*/*"):
        name = own.fullmatch(folder.name)
        if folder.parent.name == experiment.name and name and int(name["iteration"]) >= iteration:
            continue
        link = target / folder.relative_to(home)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder, target_is_directory=True)


_OWN = ("lake", "checkpoints", "inbox", "dagster")
"""The folders of a home that a pilot has for itself, or does without."""


def _link_indexes(home: Path, target: Path) -> None:
    """Link what other folders of a home hold, such as indexes of tools; new files of these belong to the pilot."""
    for folder in home.iterdir() if home.is_dir() else ():
        if folder.is_dir() and folder.name not in _OWN:
            (target / folder.name).mkdir()
            for child in folder.iterdir():
                (target / folder.name / child.name).symlink_to(child)
