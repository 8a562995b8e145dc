"""Exchange reviews as files: export the queue, import labels, write comparisons for preference learning."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ReviewError
from selfimprove_dagster.lake.disk import file_checksum, write_atomically
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.review.queue import (
    Review,
    checked,
    find_items,
    labels,
    last_iteration,
    moment,
    now,
    review_queue,
    store_batch,
    unknown_item,
)
from selfimprove_dagster.review.tools import TOOLS, file_content, labels_of
from selfimprove_dagster.rows import Place, Rejected, Unreadable, file_name, read_rows, rejection, text_field
from selfimprove_dagster.shared_tables import REVIEW_LABELS
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import readable

_COLUMNS = ("item_id", "table", "prompt", "option_a", "option_b", "uncertainty", "reason")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet."""


SPREADSHEET = "csv"
"""The format of files that people fill in."""

FORMATS = (SPREADSHEET, *TOOLS)


def export_queue(
    lake: Lake,
    experiment: str,
    folder: Path,
    iteration: int | None = None,
    count: int | None = None,
    layout: str = SPREADSHEET,
) -> int:
    """Write the queue, without reviewed items, to files in `folder`, and return its length.

    The format `csv` is review.csv and review.jsonl, in which reviewers fill in the fields `label` (a, b, both or
    neither) and, optionally, `note`. The CSV file is for spreadsheets: control characters are removed from its texts,
    and formulas are prefixed with a quote. The other formats are those of `review.tools`. Existing files are never
    overwritten, as they may hold a person's work. Raises ReviewError.
    """
    if layout not in FORMATS:
        raise ReviewError(f"there is no review format {layout!r}; use one of {', '.join(FORMATS)}")
    number = last_iteration(lake, experiment) if iteration is None else iteration
    reviewed = labels(lake, experiment)["item_id"].to_list()
    rows = [
        {name: row[name] for name in _COLUMNS}
        for row in review_queue(lake, experiment, number, count, leave_out=reviewed).iter_rows(named=True)
    ]
    files = TOOLS[layout](rows) if layout in TOOLS else _spreadsheet(rows)
    for name in files:
        if (folder / name).exists():
            raise ReviewError(f"{folder / name} exists and may hold a person's labels; choose another folder")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, file_content(content))
    return len(rows)


def _spreadsheet(rows: list[Row]) -> dict[str, str]:
    """Return the files that people fill in, as text by name."""
    open_rows = [{**row, "label": "", "note": ""} for row in rows]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*_COLUMNS, "label", "note"])
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in open_rows)
    lines = "".join(json.dumps(row) + "\n" for row in open_rows)
    return {"review.csv": table.getvalue(), "review.jsonl": lines}


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = readable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


@dataclass(frozen=True)
class ImportedReviews:
    """The result of an import; `known` lines were imported before, `open` lines have no label yet."""

    accepted: int
    known: int
    open: int
    rejected: list[Rejected]


def import_reviews(lake: Lake, experiment: str, file: Path, by: str = "") -> ImportedReviews:
    """Store the labels of a file, in any format that seeds may have. Importing a file twice stores it once.

    Records of Argilla and tasks of Label Studio are recognised (see `review.tools`). Of other rows it reads `item_id`,
    `label`, `note`, and, if present, `by` and `at` (ISO 8601), which take precedence over the argument and the current
    time. The shown texts are taken from the lake. Rejected lines are returned with file, line and reason; all others
    are stored. Raises SeedFileError if the file cannot be read.
    """
    lines = [*_answers(file)]
    ids = {
        str(row["item_id"]).strip() for _, _, row in lines if isinstance(row, Mapping) and row.get("item_id")
    }
    items = find_items(lake, experiment, ids)
    reviews, rejected, left_open, time = [], [], 0, now()
    for at, number, row in lines:
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.reason)
            review = _review(row, number, by, time)
            if review is None:
                left_open += 1
                continue
            if review.item_id not in items:
                raise ValueError(unknown_item(review.item_id, experiment))
            reviews.append(checked(review))
        except (ValueError, ReviewError) as error:
            rejected.append(rejection(at, row, ValueError(str(error))))
    source = {"file": file_name(file), "checksum": file_checksum(file), "by": by.strip()}
    same = {name: source[name] for name in ("checksum", "by")}
    earlier = [
        manifest
        for manifest in lake.manifests(REVIEW_LABELS.name, experiment)
        if same.items() <= manifest.activity.parameters.items()
    ]
    stored = {place for manifest in earlier for place in lake.read_whole(manifest)["sample_index"]}
    fresh = [review for review in reviews if review.place not in stored]
    if fresh:
        batch = f"{content_hash(same).removeprefix('b2:')[:12]}-{len(earlier)}"
        store_batch(lake, experiment, batch, items, fresh, source)
    return ImportedReviews(len(fresh), len(reviews) - len(fresh), left_open, rejected)


def _answers(file: Path) -> Iterator[tuple[Place, int, Any]]:
    """Yield place, number and row of each answer.

    The first answer of a line has the number of the line; further ones, of a tool's record, follow the last line.
    """
    rows = [*read_rows(file)]
    further = rows[-1][0].line if rows else 0
    for at, row in rows:
        try:
            found: Sequence[Any] = labels_of(row) or [row]
        except (KeyError, TypeError, AttributeError) as error:
            wrong = f"not in the form in which the tool exports labels ({type(error).__name__}: {error})"
            found = [Unreadable(wrong, str(row))]
        for index, one in enumerate(found):
            further += index > 0
            yield at, further if index else at.line, one


def _review(row: Any, number: int, by: str, time: str) -> Review | None:
    """Return the answer of a line, None if there is none yet. Raises ValueError."""
    item, label = text_field(row, "item_id"), _optional(row, "label")
    if not label:
        return None
    given = _optional(row, "at")
    try:
        at = moment(datetime.fromisoformat(given)) if given else time
    except (ValueError, OverflowError):
        raise ValueError(
            f"field `at` must be a time such as 2025-01-31T12:00:00+00:00, not {given!r:.60}"
        ) from None
    return Review(item, label, _optional(row, "by") or by, at, _optional(row, "note"), number)


def _optional(row: Row, field: str) -> str:
    return "" if row.get(field) is None else text_field(row, field)


def write_comparisons(lake: Lake, experiment: str, file: Path) -> int:
    """Write the pairs with a human preference as JSON Lines, for the `seeds.file` of an experiment.

    The fields are prompt, chosen, rejected, by, at, item_id. Returns the number of pairs. Raises ReviewError
    if the file exists or there is nothing to write.
    """
    if file.exists():
        raise ReviewError(f"{file} exists; choose another file")
    decided = labels(lake, experiment).filter(pl.col("label").is_in(["first", "second"]))
    if decided.is_empty():
        raise ReviewError(
            f"experiment {experiment} has no labels with a preference yet; review some pairs first"
        )
    rows = [
        {
            "prompt": row["prompt"],
            "chosen": row[row["label"]],
            "rejected": row["second" if row["label"] == "first" else "first"],
            **{name: row[name] for name in ("by", "at", "item_id")},
        }
        for row in decided.iter_rows(named=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(rows)
