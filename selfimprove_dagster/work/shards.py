"""Sharded work of a model: committed shard by shard, resumed where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, overload

import polars as pl

from selfimprove_dagster.errors import ModelError, TooManyFailed, TooManyUnanswered
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.partition import PartitionWriter, Spent
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.paid import PAID
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.at_once import in_any_order
from selfimprove_dagster.work.budget import UNLIMITED, Allowance
from selfimprove_dagster.work.progress import OwnReport, ProgressReport
from selfimprove_dagster.work.spec import Spec
from selfimprove_dagster.work.tolerance import ANY_FAILURES, Failures, Tolerance

E = TypeVar("E", bound=Experiment)
Item = TypeVar("Item")

Items = pl.LazyFrame | Sequence[Item]
"""What a stage works on: the rows of a query, each a dictionary, or things that it has at hand."""

Work = Callable[[Sequence[Item], OwnReport], Any]

_ROW_GROUP = 1024
"""Rows that are read together of a query's file."""


class Advancing(Protocol):
    """Counts progress: a ProgressReport, or a part of one."""

    def advance(self, units: int, tokens: int = 0) -> None:
        """Count units that were finished, and tokens that were drawn, since the last call."""


@dataclass(frozen=True)
class Shard(Generic[E, Item]):
    """Some of the items of a stage, and all that the function which works on them needs.

    Everything but the report and what is `opened` (a model, or tools) is plain data, so that another process can be
    handed a shard. `prompts` are the method's, in the form that the model reads. The rows that the function returns
    belong to `activity`; those of a table that is written beside it belong to `beside`. `written` gives the records
    of an earlier shard of the table, by its number.
    """

    items: Sequence[Item]
    experiment: E
    iteration: int
    activity: Activity
    report: Advancing
    opened: Any = None
    prompts: Prompts = field(default_factory=Prompts)
    beside: Activity | None = None
    written: Callable[[int], pl.DataFrame] | None = None

    @property
    def model(self) -> LanguageModel:
        """The model that works on the items. Raises ModelError where the stage opened none."""
        if self.opened is None:
            raise ModelError(f"the stage of {self.activity.table} opened no model to work with")
        model: LanguageModel = self.opened
        return model

    @property
    def frame(self) -> pl.DataFrame:
        """The items as a frame, where they are the rows of a query."""
        if not isinstance(self.items, Rows):
            raise TypeError(f"the items of {self.activity.table} are not the rows of a query")
        return self.items.frame

    @property
    def seeds_from(self) -> tuple[int, int]:
        """What the seeds of the shard's random choices begin with."""
        return self.experiment.seed, self.iteration


def recorded_options(section: ModelSection) -> dict[str, Any]:
    """The engine options kept with the paths: all but a server's address, which may hold a password."""
    return {name: value for name, value in section.engine_options().items() if name != "url"}


class Rows(Sequence[Row]):
    """Rows of a frame, each a dictionary when it is asked for."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __len__(self) -> int:
        return self.frame.height

    def __iter__(self) -> Iterator[Row]:
        return self.frame.iter_rows(named=True)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        return Rows(self.frame[index]) if isinstance(index, slice) else self.frame.row(index, named=True)


class StoredRows(Sequence[Row]):
    """The rows of a query, kept in a file: a slice of them is read when it is asked for."""

    def __init__(self, query: pl.LazyFrame, path: Path) -> None:
        query.sink_parquet(path, row_group_size=_ROW_GROUP)
        self._scanned = pl.scan_parquet(path, hive_partitioning=False, glob=False)
        self._count = int(self._scanned.select(pl.len()).collect().item())

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, int):
            return self[index : index + 1][0]
        start, stop, _ = index.indices(len(self))
        return Rows(self._scanned.slice(start, max(stop - start, 0)).collect())

    def ends(self, column: str) -> list[int]:
        """The numbers of rows after which the value of a column changes, and of all rows."""
        values = self._scanned.select(column).collect()[column]
        changes = (values != values.shift(-1)).fill_null(True).arg_true()
        return [int(one) + 1 for one in changes]


@contextmanager
def stored(items: Items[Item], writer: PartitionWriter) -> Iterator[Sequence[Item]]:
    """Items by number. A query is run once, without holding its rows, into a file beside the partition."""
    if not isinstance(items, pl.LazyFrame):
        yield items
        return
    path = temporary_path(writer.directory / "items")
    try:
        yield cast(Sequence[Item], StoredRows(items, path))
    finally:
        path.unlink(missing_ok=True)


def in_shards(
    writer: PartitionWriter,
    items: Sequence[Item],
    work: Work[Item],
    *,
    size: int,
    unit: str,
    log: Callable[[str], None],
    each: Callable[[Item], int] | int = 1,
    together: str = "",
    timed: bool = True,
    allowance: Allowance = UNLIMITED,
    tolerance: Tolerance = ANY_FAILURES,
    record: Callable[[int, Any], pl.DataFrame] | None = None,
    at_once: int = 1,
) -> Spent:
    """Write what `work` makes of the items, `size` of them a shard; `work` reports `each` units of an item.

    Items are taken shard by shard, `at_once` of them at a time, so that they may be the rows of a large table.
    Neighbouring rows that are equal in
    the column `together` come into one shard. Work that reports no progress counts as done with its shard.

    `record` makes records of what `work` returned for a shard, by its number; without it these are the drafts.

    Shards that an earlier attempt left are not made again. Returns what all of them took, whichever attempt made
    them; with `timed` False, as where no model works, a shard does not record it. Raises BudgetSpent before a shard
    that `allowance` has nothing for, and TooManyFailed once more rows have failed than `tolerance` allows for all units
    together. The last shard is kept then, too, unless a server failed, which may answer when the stage is resumed.
    """
    parts = _parts(items, size, together)
    done, spent = writer.committed_shards, writer.spent
    if isinstance(each, int):
        units = [each * (part.stop - part.start) for part in parts]
    else:
        units = [sum(map(each, items[part])) for part in parts]
    # Without items there is one shard without rows.
    finished, expected = sum(units[index] for index in done) if units else 0, sum(units)
    failures = Failures(tolerance, writer.schema)
    for index in sorted(done) if failures.are_possible else ():
        failures.add(writer.read_shard(index))
    with ProgressReport(writer.schema.name, expected, unit, log, finished) as report:
        report.kept = finished

        def finished_share() -> float:
            return min(report.done / max(expected, 1), 1.0)

        def check(kept: str) -> None:
            failures.check(finished_share(), kept)

        def left() -> Iterator[int]:
            for index in range(len(parts)):
                if index not in done:
                    allowance.check(spent, report.so_far)
                    yield index

        def make(index: int) -> tuple[Any, Spent, int, str]:
            own, started, kept = OwnReport(report), time.monotonic(), report.so_far
            PAID.begin()
            paid = PAID.money
            made = work(items[parts[index]], own)
            if not own.done:  # work on columns reports nothing on its way
                own.advance(units[index])
            seconds = round(time.monotonic() - started, 3)
            return made, Spent(own.tokens, seconds, round(PAID.money - paid, 9)), own.done, kept

        check(report.so_far)
        for index, (made, took, counted, kept) in in_any_order(make, left(), at_once):
            rows = record(index, made) if record else build_records(writer.schema, made, writer.activity)
            failures.add(rows)
            if failures.may_pass(rows, finished_share()):
                try:
                    check(kept)
                except TooManyFailed as error:
                    raise TooManyUnanswered(str(error)) from None
            writer.write_shard(index, rows, spent=took if timed else None)
            PAID.settle()
            finished += counted
            report.kept = finished
            spent += took
            check(report.so_far)
        failures.check(1.0, report.so_far)
    if not parts:
        nothing = record(0, ([], [])) if record else build_records(writer.schema, [], writer.activity)
        writer.write_shard(0, nothing, overwrite=True)
    return spent


def _parts(items: Sequence[Any], size: int, together: str) -> list[slice]:
    """Slices of about `size` items; none ends between two rows that are equal in the column `together`."""
    if not together:
        return [slice(start, min(start + size, len(items))) for start in range(0, len(items), size)]
    if not isinstance(items, StoredRows):
        raise TypeError(f"only rows of a query can be kept together by {together}")
    parts: list[slice] = []
    start = 0
    for end in items.ends(together):
        if end - start >= size or end == len(items):
            parts.append(slice(start, end))
            start = end
    return parts


@dataclass(frozen=True)
class Request:
    """Completions to draw: the prompt, what their records say besides, and what these were made from.

    The completions' seeds follow from `key`. `token_ids` are the prompt's where encoding its text would not
    give them.
    """

    key: str
    prompt: str
    content: Mapping[str, Any]
    parents: Sequence[Parent]
    token_ids: Sequence[int] | None = None
    samples: int = 1


def completer(
    model: LanguageModel,
    parameters: SamplingParameters,
    seeds_from: Sequence[str | int],
    read: Callable[[Generation], Mapping[str, Any]] = lambda drawn: {},
) -> Callable[[Sequence[Request], Advancing], list[Draft]]:
    """Work for `in_shards`: draws the completions of requests; `read` adds columns that follow from one."""

    def draw(shard: Sequence[Request], report: Advancing) -> list[Draft]:
        encoded = iter(model.encode_prompts([one.prompt for one in shard if not one.token_ids]))
        prompts = [request.token_ids or next(encoded) for request in shard]
        seeds = [
            [
                seed_of(*seeds_from, request.key, *([sample] if sample else []))
                for sample in range(request.samples)
            ]
            for request in shard
        ]
        drawn = model.generate(prompts, seeds, parameters, progress=report.advance)
        return [
            Draft(
                content={
                    **request.content,
                    "prompt": request.prompt,
                    "prompt_token_ids": ids,
                    "token_ids": path.token_ids,
                    "text": path.text,
                    "finish_reason": path.finish_reason,
                    "seed": seed,
                    **added,
                },
                parents=list(request.parents),
                measures={name: one for name, one in path.measures.items() if name not in added},
                sample_index=sample,
            )
            for request, ids, own_seeds, paths in zip(shard, prompts, seeds, drawn, strict=True)
            for sample, (seed, path) in enumerate(zip(own_seeds, paths, strict=True))
            for added in (read(path),)
        ]

    return draw


def draw_completions(
    shard: Shard[E, Any],
    *,
    ask: Mapping[str, Any],
    sampling: Mapping[str, Any],
    read: Mapping[str, Any] | None,
) -> list[Draft]:
    """The completions that a shard's items ask for.

    `ask` is the spec of a function that makes requests of the shard, and `read` that of one that adds columns to each
    completion.
    """
    requests = [*Spec(**ask).call(shard)]
    added = Spec(**read).call if read else lambda drawn: {}
    draw = completer(shard.model, sampling_of(sampling), shard.seeds_from, added)
    return draw(requests, shard.report)


def sampling_of(fields: Mapping[str, Any]) -> SamplingParameters:
    """Sampling parameters from plain data, as `dataclasses.asdict` gives them."""
    structure = Structure(**fields["structure"]) if fields["structure"] else None
    return SamplingParameters(**{**fields, "stop": tuple(fields["stop"]), "structure": structure})
