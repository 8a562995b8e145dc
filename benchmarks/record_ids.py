"""Ids of records computed by columns, against the same ids computed row by row.

    python benchmarks/record_ids.py [--rows 5000] [--rounds 15]

The row-by-row functions below are the recipe as it is documented: `json.dumps` and blake2b for every record.
Both sides are given the same rows of real tables, filled with made-up content, and must end with equal
frames. They run in one process, in turn; the fewest processor seconds of each (all threads) are compared.
`build_records` is measured from drafts, one object per row, and from a frame.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from selfimprove_dagster import registry
from selfimprove_dagster.lake.records import (
    Activity,
    Draft,
    Parent,
    build_records,
    content_hash,
    recompute_ids,
    record_id,
)
from selfimprove_dagster.table import Table

RESULTS = Path(__file__).parent / "results" / "record_ids.md"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Shape:
    """What the rows of a table are filled with: words per text, numbers per list, structs per list."""

    title: str
    table: str
    words: int
    numbers: int = 0
    structs: int = 0
    parents: int = 1


SHAPES = (
    Shape("short content", "lmsi/perplexity_scores", words=1),
    Shape("decisions", "lmsi/decisions", words=3),
    Shape("text and 2 × 200 token ids", "lmsi/raw_generations", words=100, numbers=200),
    Shape("long text (5 × 250 words)", "rlaif/comparisons", words=250, numbers=2),
    Shape("2 × 4 structs, 32 parents", "lmsi/voted_answers", words=2, structs=4, parents=32),
    Shape("4 structs of 6 fields", "toolformer/evaluation", words=10, structs=4),
    Shape("floats in content", "self_instruct/similarity_scores", words=1, structs=10),
)


def build_row_by_row(schema: Table, drafts: Iterable[Draft], activity: Activity) -> pl.DataFrame:
    """`build_records`, one row at a time."""
    activity_id = activity.id
    rows: list[dict[str, Any]] = []
    for draft in drafts:
        digest = content_hash(draft.content)
        rows.append(
            {
                "id": record_id(schema.tag, digest, draft.parents, activity_id, draft.sample_index),
                "content_hash": digest,
                "parents": [{"id": parent.id, "role": parent.role} for parent in draft.parents],
                "activity_id": activity_id,
                "sample_index": draft.sample_index,
                **draft.content,
                **draft.measures,
            }
        )
    arrow = pl.DataFrame(schema=schema.polars).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    columns = [
        pl.Series(name, pa.array([row[name] for row in rows], type=arrow.field(name).type), dtype=dtype)
        for name, dtype in schema.polars.items()
    ]
    return pl.DataFrame(columns)


def recompute_row_by_row(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """`recompute_ids`, one row at a time."""
    ids, hashes = [], []
    for row in frame.iter_rows(named=True):
        digest = content_hash({name: row[name] for name in schema.content})
        parents = [Parent(edge["id"], edge["role"]) for edge in row["parents"]]
        ids.append(record_id(schema.tag, digest, parents, row["activity_id"], row["sample_index"]))
        hashes.append(digest)
    return pl.DataFrame({"id": ids, "content_hash": hashes})


def filled(shape: Shape, count: int) -> list[Draft]:
    """Rows of the shape; one text in eight has characters outside ASCII."""
    chance = random.Random(0)
    words = ["".join(chance.choices(LETTERS, k=chance.randint(2, 9))) for _ in range(5_000)]

    def value(dtype: Any) -> Any:
        if isinstance(dtype, pl.List):
            nested = isinstance(dtype.inner, pl.Struct)
            return [value(dtype.inner) for _ in range(shape.structs if nested else shape.numbers)]
        if isinstance(dtype, pl.Struct):
            return {field.name: value(field.dtype) for field in dtype.fields}
        if dtype == pl.String:
            text = " ".join(chance.choices(words, k=shape.words))
            return f"{text} – “né”\n" if chance.random() < 1 / 8 else text
        if dtype == pl.Boolean:
            return chance.random() < 0.5
        return chance.random() if dtype.is_float() else chance.randrange(50_000)

    schema = registry.tables()[shape.table]
    return [
        Draft(
            {name: value(dtype) for name, dtype in schema.content.items()},
            [Parent(f"p:{chance.getrandbits(128):032x}", "made_from") for _ in range(shape.parents)],
            {name: value(dtype) for name, dtype in schema.measures.items()},
            row,
        )
        for row in range(count)
    ]


def measure(shape: Shape, count: int, rounds: int) -> dict[str, float]:
    """The fewest processor seconds that each way took for the rows."""
    schema, drafts = registry.tables()[shape.table], filled(shape, count)
    activity = Activity(schema.name, {"experiment": "demo", "iteration": "000"}, "1", {}, 0)
    frame = build_row_by_row(schema, drafts, activity)
    columns = frame.drop("id", "content_hash", "activity_id")
    ways: dict[str, Callable[[], pl.DataFrame]] = {
        "build, row by row": lambda: build_row_by_row(schema, drafts, activity),
        "build from drafts": lambda: build_records(schema, drafts, activity),
        "build from a frame": lambda: build_records(schema, columns, activity),
        "recompute, row by row": lambda: recompute_row_by_row(schema, frame),
        "recompute": lambda: recompute_ids(schema, frame),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            made = way()
            best[name] = min(best[name], time.process_time() - began)
            assert made.equals(frame.select(made.columns)), f"{name} gives other ids"
    return best


def main() -> None:
    """Measure all shapes, print the table and write it to the results."""
    parser = argparse.ArgumentParser(description="Time ids by columns against ids row by row.")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    lines = [
        "# Ids of records by columns",
        "",
        f"`python benchmarks/record_ids.py`: {options.rows:,} rows of each table, fewest processor seconds "
        f"(`time.process_time`) of {options.rounds} rounds in one process, all frames asserted equal. "
        "The cells are thousands of rows per CPU-second.",
        "",
        "| content | table | build, row by row | from drafts | from a frame | recompute, row by row "
        "| by columns |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for shape in SHAPES:
        best = measure(shape, options.rows, options.rounds)
        speed = {name: options.rows / seconds / 1_000 for name, seconds in best.items()}
        build, again = speed["build, row by row"], speed["recompute, row by row"]
        cells = (
            shape.title,
            f"`{shape.table}`",
            f"{build:,.1f}",
            *(f"{speed[name]:,.1f} ({speed[name] / build:.1f}×)" for name in list(speed)[1:3]),
            f"{again:,.1f}",
            f"{speed['recompute']:,.1f} ({speed['recompute'] / again:.1f}×)",
        )
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Python {platform.python_version()}, Polars {pl.__version__}, {os.cpu_count()} cores of a machine "
        f"shared with other work, {platform.machine()}, load average {os.getloadavg()[0]:.1f}.",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
