"""Manage the review queue and store human labels in the lake, with name and time.

Labels are used for calibration, for evaluation and by people. They reach training only through
`write_comparisons`, which writes a file that an experiment must name as its seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ReviewError
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records, content_hash
from selfimprove_dagster.review.uncertainty import ITEM, least_certain
from selfimprove_dagster.shared_tables import REVIEW_LABELS
from selfimprove_dagster.table import Reviewed, Row, Table

CODE_VERSION = "1"
"""Version of stored labels; increased when the same answer would be stored as another record."""


CHOICES = ("a", "b", "both", "neither")


COUNT = 50
"""Default number of items in a queue."""


_LONGEST_NAME = 100


_LONGEST_NOTE = 4_000


@dataclass(frozen=True)
class Review:
    """A person's answer to one item. `at` is ISO 8601 in UTC, so that text order is time order."""

    item_id: str
    label: str
    by: str
    at: str
    note: str = ""
    place: int = 0
    """Position among the answers that are stored together."""


# ---- items -------------------------------------------------------------------------------------------


def review_queue(
    lake: Lake,
    experiment: str,
    iteration: int,
    count: int | None = None,
    leave_out: Collection[str] = (),
) -> pl.DataFrame:
    """Return the least certain items of an iteration, as they are shown.

    The columns are those of `review.uncertainty.ITEM`, table, option_a, option_b, swapped. `count` defaults
    to the size of the iteration's own queue, if it has one. Excluded items are replaced by the next ones.
    """
    items = _items(lake, experiment, iteration)
    items = items.filter(~pl.col("item_id").is_in(list(leave_out)))
    return least_certain(items, queue_length(lake, experiment, iteration) if count is None else count)


def queue_length(lake: Lake, experiment: str, iteration: int) -> int:
    """Return the default number of items in the queue of an iteration."""
    for manifest in lake.manifests("*/review_queue", experiment):
        if manifest.iteration == iteration:
            return lake.live_rows(manifest)
    return COUNT


def last_iteration(lake: Lake, experiment: str) -> int:
    """Return the latest iteration with items to review. Raises ReviewError if there is none."""
    tables = _reviewed()
    found = [manifest.iteration for table in tables for manifest in lake.manifests(table, experiment)]
    if not found:
        raise ReviewError(
            f"experiment {experiment} has nothing to review: none of {', '.join(tables)} is committed; "
            "materialise one of them first"
        )
    return max(found)


def find_items(lake: Lake, experiment: str, ids: Collection[str]) -> dict[str, Row]:
    """Return the items with these ids as they are shown, of any iteration; unknown ids are left out."""
    items = _items(lake, experiment, None, ids)
    return {row["item_id"]: row for row in least_certain(items, len(items)).iter_rows(named=True)}


def _items(
    lake: Lake, experiment: str, iteration: int | None, ids: Collection[str] | None = None
) -> pl.DataFrame:
    """Return all items of one or every iteration, even if checks failed, as people review doubtful data."""
    found = [pl.DataFrame(schema={**ITEM, "table": pl.String})]
    for table, reviewed in _reviewed().items():
        for manifest in lake.manifests(table, experiment):
            if iteration in (None, manifest.iteration):
                items = reviewed.items(lake, manifest)
                found.append(items.with_columns(pl.lit(table).alias("table")))
    items = pl.concat(found)
    return items if ids is None else items.filter(pl.col("item_id").is_in(list(ids)))


def _reviewed() -> dict[str, Reviewed]:
    """Return the tables that people review, by name."""
    return {name: table.reviewed for name, table in registry.tables().items() if table.reviewed}


# ---- labels ------------------------------------------------------------------------------------------


def reviewer(name: str) -> str:
    """Return a reviewer's name as it is stored. Raises ReviewError if it is invalid."""
    name = name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ReviewError(
            f"give the name of the reviewer: 1 to {_LONGEST_NAME} printable characters, not {name[:40]!r}"
        )
    return name


def now() -> str:
    """Return the current time in the format of labels."""
    return moment(datetime.now(UTC))


def moment(time: datetime) -> str:
    """Return a time in the format of labels; a time without a zone is assumed to be UTC."""
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.isoformat(timespec="microseconds")


def checked(review: Review) -> Review:
    """Return the review with normalised fields. Raises ReviewError that names an invalid field."""
    label = review.label.strip().lower()
    if label not in CHOICES:
        raise ReviewError(f"the label {review.label[:40]!r} is not one of {', '.join(CHOICES)}")
    if len(review.note) > _LONGEST_NOTE:
        raise ReviewError(f"the note has {len(review.note):,} characters, more than {_LONGEST_NOTE:,}")
    return replace(review, label=label, by=reviewer(review.by), note=review.note.strip())


def store_review(lake: Lake, experiment: str, review: Review) -> Manifest:
    """Store one answer durably, as its own batch. Raises ReviewError for an unknown item or label."""
    review = checked(review)
    items = find_items(lake, experiment, [review.item_id])
    if review.item_id not in items:
        raise ReviewError(unknown_item(review.item_id, experiment))
    batch = "one-" + content_hash(vars(review)).removeprefix("b2:")[:12]
    return store_batch(lake, experiment, batch, items, [review], {})


def unknown_item(item: str, experiment: str) -> str:
    """Return the reason why a label of the item cannot be stored."""
    return (
        f"experiment {experiment} has no item {item[:80]!r} to review; it may have been revoked or "
        "materialised again: export the queue again"
    )


def store_batch(
    lake: Lake,
    experiment: str,
    batch: str,
    items: dict[str, Row],
    reviews: Sequence[Review],
    parameters: Row,
) -> Manifest:
    """Commit checked reviews of known items as one batch."""
    named = [items[review.item_id] for review in reviews]
    activity = Activity(
        REVIEW_LABELS.name,
        {"experiment": experiment, "batch": batch},
        CODE_VERSION,
        parameters,
        seed=0,
        inputs=tuple(sorted({item["activity_id"] for item in named})),
    )
    shown = ("item_id", "table", "prompt", "option_a", "option_b", "swapped")
    drafts = [
        Draft(
            {
                **{name: item[name] for name in shown},
                **{name: getattr(review, name) for name in ("label", "by", "at", "note")},
            },
            [Parent(record, "reviewed") for record in item["records"]],
            sample_index=review.place,
        )
        for item, review in zip(named, reviews, strict=True)
    ]
    return lake.write(REVIEW_LABELS, activity, build_records(REVIEW_LABELS, drafts, activity))


def labels(lake: Lake, experiment: str) -> pl.DataFrame:
    """Return the latest label of each person for each item, in terms of the record, oldest first.

    The columns are item_id, table, prompt, first, second, label (first, second, both or neither), by, at,
    note. Training never reads them.
    """
    frames = [_empty(REVIEW_LABELS).with_columns(pl.lit("").alias("committed_at"))]
    for manifest in lake.manifests(REVIEW_LABELS.name, experiment):
        rows = lake.read_ungated(manifest)
        frames.append(rows.with_columns(pl.lit(manifest.committed_at).alias("committed_at")))
    said = pl.concat(frames).sort("at", "committed_at", "sample_index")
    last = said.unique(["item_id", "by"], keep="last", maintain_order=True)
    first = pl.when(pl.col("label") == "a").then(~pl.col("swapped")).otherwise("swapped")
    return last.select(
        *("item_id", "table", "prompt"),
        pl.when("swapped").then("option_b").otherwise("option_a").alias("first"),
        pl.when("swapped").then("option_a").otherwise("option_b").alias("second"),
        pl.when(pl.col("label").is_in(["a", "b"]))
        .then(pl.when(first).then(pl.lit("first")).otherwise(pl.lit("second")))
        .otherwise("label")
        .alias("label"),
        *("by", "at", "note"),
    )


def _empty(schema: Table) -> pl.DataFrame:
    return pl.DataFrame(schema=schema.polars)


# ---- progress ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviewStatus:
    """The progress of the review of an iteration's queue, and the labels of all iterations.

    `agreement` counts, by table, how often people preferred the same option as the pipeline, among labels
    with a preference. `option_a` counts how often they preferred the option shown first, which indicates a
    position bias.
    """

    iteration: int
    queued: int
    waiting: int
    reviewed: int
    by: list[tuple[str, int]]
    agreement: dict[str, Accuracy]
    option_a: Accuracy


def review_status(
    lake: Lake, experiment: str, iteration: int | None = None, count: int | None = None
) -> ReviewStatus:
    """Return the review status. Raises ReviewError if there is nothing to review."""
    number = last_iteration(lake, experiment) if iteration is None else iteration
    queue, said = review_queue(lake, experiment, number, count), labels(lake, experiment)
    known = find_items(lake, experiment, set(said["item_id"]))
    agreed: dict[str, list[bool]] = {}
    stood_first = []
    for row in said.filter(pl.col("label").is_in(["first", "second"])).iter_rows(named=True):
        item = known.get(row["item_id"])
        if item is None:
            continue
        stood_first.append((row["label"] == "first") != item["swapped"])
        if item["probability"] != 0.5:
            preferred = "first" if item["probability"] > 0.5 else "second"
            agreed.setdefault(row["table"], []).append(row["label"] == preferred)
    return ReviewStatus(
        iteration=number,
        queued=len(queue),
        waiting=len(queue.join(said, on="item_id", how="anti")),
        reviewed=said["item_id"].n_unique(),
        by=sorted(said["by"].value_counts().iter_rows(), key=lambda pair: (-pair[1], pair[0])),
        agreement={table: Accuracy(sum(rows), len(rows)) for table, rows in sorted(agreed.items())},
        option_a=Accuracy(sum(stood_first), len(stood_first)),
    )
