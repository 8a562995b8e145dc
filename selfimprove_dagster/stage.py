"""What a stage is handed while it runs, and what it gives back. Knows no Dagster.

A stage is a function from a `StageContext` to a `Result`. The context knows the experiment, the iteration and the
lake, opens models, and builds the activity that the stage's rows belong to. The result names what was committed and
what a person sees of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.drawing import recorded_sampling
from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.evaluation.exam import Exam, Examinee, examine
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, PartitionWriter, Spent, partition_of
from selfimprove_dagster.lake.records import Activity, Drafts, build_records, content_hash, parents_of
from selfimprove_dagster.language_model.base import LanguageModel, Scores, placement
from selfimprove_dagster.lineage.failures import seed_places
from selfimprove_dagster.loop.champion import NEWEST, Champion, champion_before
from selfimprove_dagster.method import Grows, Stage, Use
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.budget import Allowance
from selfimprove_dagster.work.memory import peak_memory
from selfimprove_dagster.work.progress import OwnReport, per_second
from selfimprove_dagster.work.shards import (
    Item,
    Items,
    Shard,
    Work,
    draw_completions,
    in_shards,
    recorded_options,
    stored,
)
from selfimprove_dagster.work.spec import Spec
from selfimprove_dagster.work.tolerance import ANY_FAILURES, Tolerance

E = TypeVar("E", bound=Experiment)

PREVIEW_ROWS = 5

SMALL = 100_000
"""Rows of a table that a stage may hold whole."""

ROWS_A_SHARD = 10_000
"""Rows of a shard that no model works on."""


@dataclass(frozen=True)
class Markdown:
    """Metadata that is shown as formatted text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """Metadata that is shown as a picture, in PNG."""

    png: bytes


@dataclass(frozen=True)
class Link:
    """Metadata that is shown as a link."""

    url: str


@dataclass(frozen=True)
class Folder:
    """Metadata that is shown as the path of a folder."""

    path: str


@dataclass(frozen=True)
class Result:
    """What a stage committed to one of its tables, and what a person sees of it.

    `preview` names the columns of the sample rows. `metadata` values are plain data, or one of `Markdown`, `Picture`,
    `Link` and `Folder`.
    """

    table: Table
    manifest: Manifest
    preview: Sequence[str]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class OpensModels(Protocol):
    """Opens language models with the engine and options of an experiment."""

    def open(
        self, section: ModelSection, path: str | Path | None = None, scores: Scores = False
    ) -> AbstractContextManager[LanguageModel]:
        """The model at `path` (default: the section's own), closed on leaving."""

    def options(self, section: ModelSection, path: str | Path | None = None) -> dict[str, Any]:
        """The arguments of `open_language_model`, besides the path, with which another process opens it."""


class OneModel:
    """Opens models in turn, and keeps one open at a time."""

    def __init__(self, models: OpensModels) -> None:
        self._models = models
        self._stack = ExitStack()
        self._open: tuple[Any, LanguageModel] | None = None

    def __enter__(self) -> OneModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, section: ModelSection, path: str | None, scores: Scores = False) -> LanguageModel:
        """The model at `path`; the one that was open before is closed unless it is the same."""
        wanted = (section, path, scores)
        if self._open is None or self._open[0] != wanted:
            self._stack.close()
            self._open = (wanted, self._stack.enter_context(self._models.open(section, path, scores)))
        return self._open[1]


class Log(Protocol):
    """Takes the lines that a stage reports."""

    def info(self, line: str) -> None:
        """Report progress."""

    def warning(self, line: str) -> None:
        """Report what a person should look at."""


def number(value: Any) -> float:
    """A value as a plot takes it: five decimals, NaN for None."""
    return round(float(value), 5) if value is not None else float("nan")


def page_url(path: str) -> str:
    """The address of a lineage page, under $SELFIMPROVE_PAGES_URL."""
    return os.environ.get("SELFIMPROVE_PAGES_URL", "http://127.0.0.1:3001").rstrip("/") + path


def preview_records(lake: Lake, manifest: Manifest) -> str:
    """The first rows of a partition by id, as a markdown list: the page of each, and how to trace it."""
    ids = lake.read_columns(manifest, ["id"], PREVIEW_ROWS)["id"]
    return "\n".join(
        f"- [`{id}`]({page_url(f'/records/{id}')}): `selfimprove lineage trace {id}`" for id in ids
    )


@dataclass
class StageContext(Generic[E]):
    """One stage of one iteration of an experiment of the kind E, while it runs."""

    home: Home
    table: Table
    experiment: E
    iteration: int
    code_version: str
    language_model: OpensModels
    trainer: Any
    reporter: Log
    run_id: str = ""
    _started: float = field(default_factory=time.monotonic)
    _left_out: dict[str, pl.DataFrame] = field(default_factory=dict)

    def beside(self, table: Table) -> StageContext[E]:
        """This stage, writing another of its tables."""
        return replace(self, table=table)

    @property
    def lake(self) -> Lake:
        return self.home.lake

    @property
    def partition(self) -> dict[str, str]:
        return partition_of(self.experiment.name, self.iteration)

    @property
    def champion(self) -> Champion:
        """The model that this iteration starts from; where another experiment is measured, its newest."""
        if measured := self.experiment.measures:
            return champion_before(self.lake, self.home.experiment(measured), NEWEST)
        return champion_before(self.lake, self.experiment, self.iteration)

    @property
    def generator(self) -> Champion:
        """The model that this iteration generates with."""
        if teacher := self.experiment.teacher:
            return Champion(teacher.path, section=teacher)
        return (
            self.champion if self.experiment.drawn_by == "champion" else Champion(self.experiment.model.path)
        )

    @property
    def scorer(self) -> Champion:
        """The model under which texts are probable: the generator, or the base model where another generates."""
        return self.generator if self.experiment.teacher is None else Champion(self.experiment.model.path)

    @property
    def allowance(self) -> Allowance:
        """What the experiment's budget leaves to this stage."""
        return Allowance.of(self.lake, self.experiment, self.table.name, self.iteration)

    @cached_property
    def prompts(self) -> Prompts:
        """The method's prompts, in the form that the experiment's model reads."""
        return registry.prompts(self.experiment)

    @cached_property
    def generator_prompts(self) -> Prompts:
        """The method's prompts, in the form that the generator reads."""
        return registry.prompts(self.experiment, self.experiment.teacher)

    def _asking(self, opened: Any) -> Prompts:
        """The prompts in the form that what is opened reads: the experiment's model, or another that judges."""
        prompting = getattr(opened, "prompting", None)
        return replace(self.prompts, prompting=prompting) if prompting else self.prompts

    def log(self, line: str) -> None:
        """Report one line of progress."""
        self.reporter.info(line)

    def warn(self, line: str) -> None:
        """Report one line that a person should look at."""
        self.reporter.warning(line)

    def scan(self, table: Table) -> tuple[Manifest, pl.LazyFrame]:
        """This iteration's rows of an earlier stage, unread: for tables that grow with the seeds.

        Give a query of them to `map`, `work` or `complete`, which take its rows shard by shard. Raises GateClosed
        when the table's last blocking check failed.
        """
        manifest = self.lake.manifest(table.name, self.partition)
        # Before the rows are read: what is withdrawn in between is not claimed to have been left out.
        self._left_out[manifest.activity.id] = self.lake.ledger.withdrawn(manifest.activity.id)
        return manifest, _with_later(table, self.lake.scan(table.name, self.partition))

    def small(self, table: Table) -> tuple[Manifest, pl.DataFrame]:
        """This iteration's rows of an earlier stage, whole: for tables that stay small, such as checkpoints.

        Raises GateClosed as `scan` does, and MethodError for more than `SMALL` rows.
        """
        manifest, rows = self.scan(table)
        if manifest.rows > SMALL:
            raise MethodError(
                f"{table.name} has {manifest.rows:,} rows, and a stage reads tables of up to {SMALL:,} whole: read it "
                "by `scan`, and hand its rows to `map`"
            )
        return manifest, rows.collect()

    def measure(self, manifest: Manifest, **measures: pl.Expr) -> dict[str, Any]:
        """Figures over the rows of a partition, for the metadata of a result; fractions to five decimals."""
        row = self.lake.scan_ungated(manifest).select(**measures).collect().row(0, named=True)
        return {name: value if isinstance(value, int | str) else number(value) for name, value in row.items()}

    def dropped(self, decisions: Manifest) -> dict[str, int]:
        """How many candidates each rule dropped, for the metadata of a result."""
        rows = self.lake.scan_ungated(decisions).filter(~pl.col("kept"))
        counts = rows.group_by("rule").len().sort("len", "rule", descending=[True, False]).collect()
        return {f"dropped_by_{rule}": count for rule, count in counts.iter_rows()}

    def batches(self, manifest: Manifest, *columns: str) -> Iterator[pl.DataFrame]:
        """Some columns of the rows of a partition, some rows at a time."""
        yield from self.lake.scan_ungated(manifest).select(columns).collect_batches(maintain_order=True)

    def activity(
        self,
        *,
        inputs: Sequence[Manifest],
        parameters: Mapping[str, Any],
        model_id: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Activity:
        """The activity of this materialisation.

        Inputs without their withdrawn rows are other inputs: they add a parameter, and `about` says which
        revocations were heeded.
        """
        about = {"dagster_run_id": self.run_id, "settings": self.experiment.settings_hash, **(about or {})}
        left_out = pl.concat(
            [
                self._left_out.get(manifest.activity.id, self.lake.ledger.withdrawn(manifest.activity.id))
                for manifest in inputs
            ]
            or [self.lake.ledger.withdrawn("")]
        )
        if not left_out.is_empty():
            withdrawn = content_hash({"ids": left_out["id"].unique().sort().to_list()})
            parameters = {**parameters, "withdrawn": withdrawn}
            about["revocations"] = left_out["revocation"].unique().sort().to_list()
        return Activity(
            table=self.table.name,
            partition=self.partition,
            code_version=self.code_version,
            parameters={**self.prompts.parameters, **parameters},
            seed=self.experiment.seed,
            inputs=tuple(manifest.activity.id for manifest in inputs),
            model_id=model_id,
            about=about,
        )

    def so_far(self, *tables: Table) -> tuple[list[Manifest], list[pl.LazyFrame]]:
        """The rows of tables in this and all earlier iterations of the experiment, unread, and their partitions.

        Raises GateClosed as `scan` does.
        """
        manifests: list[Manifest] = []
        frames = []
        for table in tables:
            found = [
                manifest
                for manifest in self.lake.manifests(table.name, self.experiment.name)
                if manifest.iteration <= self.iteration
            ]
            for manifest in found:
                self._left_out[manifest.activity.id] = self.lake.ledger.withdrawn(manifest.activity.id)
            rows = [_with_later(table, self.lake.scan(table.name, one.partition)) for one in found]
            frames.append(pl.concat([pl.LazyFrame(schema=table.polars), *rows], how="diagonal"))
            manifests += found
        return manifests, frames

    def drawing(
        self,
        model: LanguageModel,
        inputs: Sequence[Manifest],
        parameters: Mapping[str, Any],
        by: Champion | None = None,
    ) -> Activity:
        """The activity of a stage in which the generator, or `by`, works, open as `model`."""
        generator = by or self.generator
        suggested = getattr(model, "suggested_sampling", {})
        if suggested:
            settings = ", ".join(f"{name} {value}" for name, value in suggested.items())
            self.log(
                f"the model's generation_config.json suggests {settings}; the experiment's settings are used"
            )
        return self.activity(
            inputs=inputs,
            parameters={**self._asking(model).parameters, **parameters, "engine": model.engine},
            model_id=model.model_id,
            about={
                "model_path": self.lake.address_of(generator.path),
                "champion": generator.name,
                "engine_options": recorded_options(generator.section or self.experiment.model),
                **({"suggested_sampling": suggested} if suggested else {}),
                **placement(model),
            },
        )

    def map(
        self,
        items: Items[Item],
        function: Spec,
        activity: Activity,
        *,
        size: int = ROWS_A_SHARD,
        unit: str = "rows",
        each: Callable[[Item], int] | int = 1,
        together: str = "",
        opened: Any = None,
    ) -> tuple[Manifest, Spent]:
        """Make the table shard by shard: the committed partition, and what all shards took.

        `items` are the rows of a query, which are read shard by shard, or a sequence. `function` is called with a
        `Shard` of `size` items and its own arguments, and returns the rows: drafts, or a frame of them as
        `build_records` takes it. `each` says how many units of progress an item counts for; `opened` is the model, or
        the tools, that work. Neighbouring rows that are equal in the column `together` come into one shard. Shards
        that an earlier attempt left are not made again.
        """
        with self.lake.writer(self.table, activity) as writer, stored(items, writer) as rows:
            spent = self._in_shards(
                writer,
                rows,
                function,
                opened,
                size=size,
                unit=unit,
                each=each,
                together=together,
            )
            return writer.commit({**self._used(), **_counted(spent, opened)}), spent

    def map_together(
        self,
        items: Items[Item],
        function: Spec,
        activity: Activity,
        beside: tuple[Table, Activity],
        *,
        size: int = ROWS_A_SHARD,
        unit: str = "rows",
        each: Callable[[Item], int] | int = 1,
        together: str = "",
        opened: Any = None,
    ) -> tuple[Manifest, Manifest, Spent]:
        """Make the table, and the one `beside` it, shard by shard, where rows of each descend from the other's.

        `function` returns the rows beside and the table's own. Those beside are written first, so that a shard of
        the table is there only with what it descends from. Returns the partition beside, the table's own, and what
        all shards took.
        """
        table, other = beside
        with (
            self.lake.writer(table, other) as beside_writer,
            self.lake.writer(self.table, activity) as writer,
            stored(items, writer) as parts,
        ):

            def record(index: int, made: tuple[Drafts, Drafts]) -> pl.DataFrame:
                rows, own = made
                beside_writer.write_shard(index, build_records(table, rows, other), overwrite=True)
                return build_records(self.table, own, activity)

            spent = self._in_shards(
                writer,
                parts,
                function,
                opened,
                beside=other,
                size=size,
                unit=unit,
                each=each,
                together=together,
                record=record,
            )
            first = beside_writer.commit({"seconds": 0.0})
            return first, writer.commit({**self._used(), **_counted(spent, opened)}), spent

    def _in_shards(
        self,
        writer: PartitionWriter,
        items: Sequence[Item],
        function: Spec,
        opened: Any,
        *,
        beside: Activity | None = None,
        size: int,
        **how: Any,
    ) -> Spent:
        """Hand the items to a function shard by shard; `how` are further arguments of `in_shards`."""
        return in_shards(
            writer,
            items,
            self._worker(writer, function, opened, beside),
            timed=opened is not None,
            log=self.log,
            allowance=self.allowance,
            size=size,
            at_once=getattr(opened, "at_once", 1),
            tolerance=ANY_FAILURES
            if opened is None  # its rows only carry problems of the rows that they are made from
            else Tolerance(self.experiment.tolerance.failed_share, lambda rows: seed_places(self.lake, rows)),
            **how,
        )

    def _worker(
        self, writer: PartitionWriter, function: Spec, opened: Any, beside: Activity | None
    ) -> Work[Item]:
        """Return the function that makes the rows of a shard, as `in_shards` calls it."""
        call, activity = function.call, writer.activity

        def work(part: Sequence[Item], report: OwnReport) -> Any:
            return call(
                Shard(
                    part,
                    self.experiment,
                    self.iteration,
                    activity,
                    report,
                    opened,
                    self._asking(opened),
                    beside,
                    writer.read_shard,
                )
            )

        return work

    def sample(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return those of the items that this stage works on: all of them, except in a pilot, which takes a few.

        A stage calls it for items that it has at hand, such as held-out questions. Those of a query are sampled by
        `map`.
        """
        return items

    def examine(
        self, exam: Exam, examinees: Sequence[Examinee], activity: Activity
    ) -> tuple[Manifest, Spent]:
        """Let models take an exam: the committed answers, and what they took."""
        with self.lake.writer(self.table, activity) as writer:
            spent = self._answers(writer, exam, examinees)
            return writer.commit({**self._used(), **spent.recorded}), spent

    def _answers(self, writer: PartitionWriter, exam: Exam, examinees: Sequence[Examinee]) -> Spent:
        """Write the answers of all models, and return what they took."""
        return examine(
            writer,
            exam,
            examinees,
            remembered=partial(exam.remembered, self.lake, self.table, self.iteration),
            open_model=self.open_model,
            log=self.log,
            allowance=self.allowance,
        )

    def open_model(
        self, path: str, section: ModelSection | None = None
    ) -> AbstractContextManager[LanguageModel]:
        """Open the model at `path` as a section says, by default the section of the experiment's model."""
        return self.language_model.open(section or self.experiment.model, path)

    def work(
        self,
        inputs: Sequence[Manifest],
        settings: Mapping[str, Any],
        items: Items[Item],
        function: Spec,
        *,
        size: int,
        unit: str = "completions",
        each: Callable[[Item], int] | int = 1,
        together: str = "",
        by: Champion | None = None,
    ) -> tuple[Manifest, dict[str, Any]]:
        """Let the generator, or the model `by`, work on all items, as `map` does.

        Returns the partition and the metadata of the work.
        """
        by = by or self.generator
        section, scores = self.experiment.model, self.experiment.scores
        if by.section is not None:  # the texts are scored by `scorer`
            section, scores = by.section, "options" if scores else False
        with self.language_model.open(section, by.path, scores) as model:
            activity = self.drawing(model, inputs, settings, by)
            manifest, spent = self.map(
                items,
                function,
                activity,
                size=size,
                unit=unit,
                each=each,
                together=together,
                opened=model,
            )
        return manifest, self.drawn_metadata(activity, spent)

    def complete(
        self,
        inputs: Sequence[Manifest],
        settings: Mapping[str, Any],
        items: Items[Item],
        ask: Spec,
        *,
        size: int,
        each: Callable[[Item], int] | int = 1,
        read: Spec | None = None,
        by: Champion | None = None,
    ) -> tuple[Manifest, dict[str, Any]]:
        """Let a model draw what items ask for, as the settings say.

        `ask` makes the `Request`s of a `Shard` of `size` items, `each` of them so many completions. `read` adds
        columns that follow from a completion. Returns the partition and the metadata of the work.
        """
        function = Spec.of(
            draw_completions,
            ask=ask.to_json(),
            sampling=asdict(recorded_sampling(self.table, settings, self.generator_prompts)),
            read=read.to_json() if read else None,
        )
        return self.work(inputs, settings, items, function, size=size, each=each, by=by)

    def drawn_metadata(self, activity: Activity, spent: Spent) -> dict[str, Any]:
        """What Dagster shows of a stage in which a model worked."""
        speed = per_second(spent.tokens, spent.model_seconds)
        return {
            "champion": activity.about["champion"],
            "model_id": activity.model_id,
            "engine": activity.parameters["engine"],
            "tokens": spent.tokens,
            **({} if speed is None else {"tokens_per_second": speed}),
            **({"suggested_sampling": one} if (one := activity.about.get("suggested_sampling")) else {}),
        }

    def store(
        self,
        activity: Activity,
        drafts: Drafts,
        about: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write and commit a whole small table at once: drafts, or a frame of them as `build_records` takes it."""
        records = build_records(self.table, drafts, activity)
        with self.lake.writer(self.table, activity) as writer:
            writer.write_shard(0, records, overwrite=True)
            return writer.commit({**self._used(), **(about or {})})

    def _used(self) -> dict[str, float]:
        """Return the seconds of the stage so far, and the peak of this process's memory in bytes."""
        return {"seconds": self.seconds, **peak_memory()}

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return round(time.monotonic() - self._started, 3)

    @property
    def lineage_page(self) -> Link:
        """Link to the lineage page of this iteration."""
        return Link(page_url(f"/experiments/{self.experiment.turn_name}/{self.iteration}"))

    def preview_records(self, manifest: Manifest) -> Markdown:
        """The first rows by id: the page of each, and the command that traces it."""
        return Markdown(preview_records(self.lake, manifest))

    def result(
        self, manifest: Manifest, preview: Sequence[str], metadata: Mapping[str, Any] | None = None
    ) -> Result:
        """What this stage gives back for its table; `preview` names the columns of the sample rows.

        The catalog is made anew, so that whoever opens it finds the rows that were just committed.
        """
        self.lake.refresh_catalog()
        return Result(
            self.table,
            manifest,
            preview,
            {"iteration": self.iteration, "seconds": self.seconds, **(metadata or {})},
        )

    def deciding(self, table: Table, inputs: Sequence[Manifest], decides: str) -> Activity:
        """The activity of the decisions that explain a table; `decides` is the activity that makes that table."""
        return self.beside(table).activity(inputs=inputs, parameters={"decides": decides})

    def store_decisions(
        self, table: Table, decisions: pl.DataFrame, inputs: Sequence[Manifest], decides: str
    ) -> None:
        """Commit the decisions that `decision_drafts` takes before the table whose making they explain; `decides` is
        that table's activity."""
        activity = self.deciding(table, inputs, decides)
        self.beside(table).store(activity, decision_drafts(decisions, self.table))


def _with_later(table: Table, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return rows of a table with its `later` measures, which are null where an earlier version wrote the rows."""
    if not table.later:
        return rows
    absent = sorted(table.later.difference(rows.collect_schema().names()))
    return rows.with_columns(pl.lit(None, table.polars[name]).alias(name) for name in absent)


def _counted(spent: Spent, opened: Any) -> dict[str, Any]:
    """What a partition says that it took; nothing where nothing was opened to work."""
    return {} if opened is None else spent.recorded


def decision_drafts(decisions: pl.DataFrame, table: Table) -> pl.DataFrame:
    """A frame of drafts of the decisions on what becomes a row of `table`.

    `decisions` has the columns candidate_id, rule, kept, reason, nearest_id, score and threshold.
    """
    return decisions.select(
        *("candidate_id", "rule", "kept", "reason", "nearest_id", "score", "threshold"),
        stage=pl.lit(table.name),
        parents=parents_of(candidate_id="decided"),
    )


def stage(
    *writes: Table,
    after: Sequence[str] = (),
    description: str | Sequence[str],
    version: str = "1",
    uses: Sequence[Use] = (),
    kinds: Sequence[str] = ("parquet", "polars"),
    grows: Grows | None = None,
    sampled_by: str = "",
) -> Callable[[Callable[[StageContext[E]], Result | Sequence[Result]]], Stage]:
    """Decorator that makes a function a `Stage`; the arguments are its fields."""

    def declare(run: Callable[[StageContext[E]], Result | Sequence[Result]]) -> Stage:
        return Stage(
            writes,
            run,
            tuple(after),
            description,
            version,
            frozenset(uses),
            frozenset(kinds),
            grows,
            sampled_by,
        )

    return declare
