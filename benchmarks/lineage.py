"""Lineage over ten million edges: opening, walking up and down, with the index and without it.

    python benchmarks/lineage.py [--questions 1750] [--iterations 10] [--records 200] [--lake FOLDER]

A lake of LMSI's shape is made first: for each question of an iteration 32 paths of 8 demonstrations, a vote
of 32, 32 perplexities, two decisions a path and 16 examples; ids are random, text and tokens are the same in
every row, so that they take the time of reading and little disk. Every measurement is a process of its own,
whose peak of memory is written beside it. `whole_trace` is the answer that a person sees, from the id
(opening the lineage included) to the tree with its rows. Records are drawn over all tables in equal parts,
without the demonstrations, whose descendants are nearly all rows: they are measured as the worst case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lineage.index import FOLDER
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    PERPLEXITY_SCORES,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import PARENT, Table

RESULTS = Path(__file__).parent / "results" / "lineage.json"
PATHS, SHOWN, EXAMPLES, SHARD_QUESTIONS = 32, 8, 16, 64
EXPERIMENT = "large"
BASE = "b2:" + "0" * 32
SENTENCE = "There are 12 apples and 7 pears, which makes 19 in all; 4 are eaten, so 15 are left over."
NAIVE = """
WITH RECURSIVE walk(id) AS (SELECT ? UNION SELECT {there} FROM edges JOIN walk ON {here} = walk.id)
SELECT count(*) FROM walk
"""


# ---- the lake ---------------------------------------------------------------------------------------------


def random_ids(tag: str, count: int, draw: np.random.Generator) -> pl.Series:
    """Ids of the right form: the tag and 32 hex digits."""
    digits = pa.py_buffer(draw.bytes(16 * count).hex().encode())
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int64) * 32)
    return f"{tag}:" + pl.Series(pa.LargeStringArray.from_buffers(count, offsets, digits))


def parents(edges: Sequence[tuple[pl.Series, str]], rows: int) -> pl.Series:
    """The column `parents`: each part gives every row equally many parents (in order) of one role."""
    widths = [len(ids) // rows for ids, _ in edges]
    columns = [
        pl.struct(pl.lit(ids).gather(pl.int_range(rows) * width + k).alias("id"), pl.lit(role).alias("role"))
        for (ids, role), width in zip(edges, widths, strict=True)
        for k in range(width)
    ]
    return pl.select(pl.concat_list(columns)).to_series()


def filler(dtype: pl.DataType) -> pl.Expr:
    """What stands in every row of a column that lineage does not need."""
    if dtype == pl.String:
        return pl.lit(SENTENCE)
    if dtype in (pl.List(pl.Int32), pl.List(pl.Float32)):
        return pl.lit(pl.Series([list(range(40))])).first().cast(dtype)
    if dtype.is_nested():
        return pl.lit(None, dtype)
    return pl.lit(1).cast(dtype)


def commit(
    lake: Lake,
    schema: Table,
    partition: Mapping[str, str],
    ids: pl.Series,
    edges: Sequence[tuple[pl.Series, str]],
    inputs: Sequence[Manifest],
    shard_rows: int = 0,
    model_id: str = BASE,
    **columns: Any,
) -> Manifest:
    """Commit rows with these ids; `edges` as `parents` wants them, `columns` are constants."""
    activity = Activity(
        schema.name, partition, "1", {}, 0, inputs=tuple(one.activity.id for one in inputs), model_id=model_id
    )
    frame = pl.DataFrame({"id": ids}).with_columns(
        parents(edges, len(ids)).alias("parents") if edges else pl.lit([], pl.List(PARENT)).alias("parents"),
        *(filler(dtype).alias(name) for name, dtype in schema.content.items()),
        *(filler(dtype).alias(name) for name, dtype in schema.measures.items()),
        content_hash="b2:" + ids.str.tail(32),
        activity_id=pl.lit(activity.id),
        sample_index=pl.lit(0),
    )
    frame = frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})
    with lake.writer(schema, activity) as writer:
        for shard, first in enumerate(range(0, len(frame), shard_rows or len(frame))):
            writer.write_shard(shard, frame.slice(first, shard_rows or None))
        return writer.commit()


def make_lake(lake: Lake, questions: int, iterations: int) -> None:
    """LMSI's shape: see the module's docstring."""
    draw = np.random.default_rng(0)

    def fresh(schema: Table, count: int) -> pl.Series:
        return random_ids(schema.tag, count, draw)

    batch = {"experiment": EXPERIMENT, "batch": "b"}
    seeds = fresh(SEEDS, questions * iterations)
    imported = commit(lake, SEEDS, batch, seeds, [], [])
    shown = fresh(DEMONSTRATIONS, SHOWN)
    worked = commit(lake, DEMONSTRATIONS, batch, shown, [], [])
    pools: list[Manifest] = []
    champion = BASE
    for iteration in range(iterations):
        at = partition_of(EXPERIMENT, iteration)
        asked = fresh(SEED_POOL, questions)
        used = seeds.slice(iteration * questions, questions)
        pool = commit(lake, SEED_POOL, at, asked, [(used, "seed")], [imported, *pools])
        drawn = fresh(RAW_GENERATIONS, questions * PATHS)
        question_of = asked.gather(np.arange(len(drawn)) // PATHS)
        demonstrations = (shown.gather(np.tile(np.arange(SHOWN), len(drawn))), "demonstration")
        edges = [(question_of, "prompt"), demonstrations]
        paths = commit(
            lake, RAW_GENERATIONS, at, drawn, edges, [pool, worked], SHARD_QUESTIONS * PATHS, champion
        )
        scored = fresh(PERPLEXITY_SCORES, len(drawn))
        scores = commit(lake, PERPLEXITY_SCORES, at, scored, [(drawn, "scored")], [paths])
        ballots = fresh(VOTED_ANSWERS, questions)
        edges = [(asked, "question"), (drawn, "voted_from")]
        votes = commit(lake, VOTED_ANSWERS, at, ballots, edges, [paths, pool])
        decided = fresh(DECISIONS, 2 * len(drawn))
        twice = (drawn.gather(np.arange(len(decided)) // 2), "decided")
        commit(lake, DECISIONS, at, decided, [twice], [paths])
        examples = fresh(FILTERED_DATASET, questions * EXAMPLES)
        kept = np.arange(len(examples))
        edges = [
            (ballots.gather(kept // EXAMPLES), "voted_answer"),
            (drawn.gather(kept // EXAMPLES * PATHS + kept % EXAMPLES), "path"),
            (shown.gather(np.tile(np.arange(SHOWN), len(examples))), "demonstration"),
        ]
        dataset = commit(lake, FILTERED_DATASET, at, examples, edges, [paths, scores, votes, worked])
        trained = fresh(FINE_TUNED_CHECKPOINT, 1)
        model = "b2:" + trained[0][-32:]
        made_of = [
            (pl.Series([dataset.activity.id]), "trained_on"),
            (pl.Series([champion]), "initialised_from"),
        ]
        checkpoint = commit(lake, FINE_TUNED_CHECKPOINT, at, trained, made_of, [dataset], model_id=model)
        promoted = [(trained, "challenger"), (pl.Series([champion]), "champion")]
        commit(lake, PROMOTION, at, fresh(PROMOTION, 1), promoted, [checkpoint], promoted=True)
        pools.append(pool)
        champion = model


# ---- measuring --------------------------------------------------------------------------------------------


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ranked = np.asarray(seconds) * 1000
    return {
        "p50_ms": round(float(np.quantile(ranked, 0.5)), 1),
        "p95_ms": round(float(np.quantile(ranked, 0.95)), 1),
        "max_ms": round(float(ranked.max()), 1),
        "count": len(ranked),
    }


def timed(question: Callable[[], object]) -> float:
    began = time.perf_counter()
    question()
    return time.perf_counter() - began


def drawn_records(lake: Lake, count: int) -> list[str]:
    """Ids over all tables in equal parts, demonstrations aside."""
    draw = random.Random(0)
    by_table: dict[str, list[Manifest]] = {}
    for manifest in lake.manifests():
        if manifest.table != DEMONSTRATIONS.name:
            by_table.setdefault(manifest.table, []).append(manifest)
    records = []
    for at in range(count):
        manifest = draw.choice(list(by_table.values())[at % len(by_table)])
        ids = pl.read_parquet(draw.choice(manifest.paths), columns=["id"], hive_partitioning=False)["id"]
        records.append(ids[draw.randrange(len(ids))])
    return records


def forget_pages(folder: Path) -> None:
    """Take the files out of the page cache, so that the next reader goes to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def build_index(lake: Lake, _: list[str]) -> dict[str, Any]:
    shutil.rmtree(lake.root / FOLDER, ignore_errors=True)
    began = time.perf_counter()
    edges = Lineage(lake).snapshot.edges
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (lake.root / FOLDER).iterdir())
    return {
        "edges": edges,
        "seconds": round(seconds, 2),
        "edges_per_second": round(edges / seconds),
        "megabytes": round(size / 1e6),
    }


def open_cold(lake: Lake, _: list[str]) -> dict[str, Any]:
    forget_pages(lake.root)
    return {"seconds": round(timed(lambda: Lineage(lake)), 3)}


def open_warm(lake: Lake, _: list[str]) -> dict[str, Any]:
    return quantiles([timed(lambda: Lineage(lake)) for _ in range(10)])


def with_index(lake: Lake, records: list[str]) -> dict[str, Any]:
    lineage = Lineage(lake)
    return {
        "ancestors": quantiles([timed(lambda one=one: lineage.ancestors([one])) for one in records]),
        "descendants": quantiles([timed(lambda one=one: lineage.descendants([one])) for one in records]),
        "find": quantiles([timed(lambda one=one: lineage.find(one[:16])) for one in records]),
    }


def whole_trace(lake: Lake, records: list[str]) -> dict[str, Any]:
    return quantiles([timed(lambda one=one: trace(lake, one)) for one in records])


def without_index(lake: Lake, records: list[str]) -> dict[str, Any]:
    """Each walk opens the lineage anew: nothing that an earlier one read is at hand."""

    def walk(one: str, way: str) -> None:
        getattr(Lineage(lake, use_index=False), way)([one])

    return {
        way: quantiles([timed(lambda one=one, way=way: walk(one, way)) for one in records])
        for way in ("ancestors", "descendants")
    }


def naive_query(lake: Lake, records: list[str]) -> dict[str, Any]:
    """The recursive query that one would write, over the view of edges: three records."""
    ways = {"ancestors": ("child", "parent"), "descendants": ("parent", "child")}

    def walk(one: str, here: str, there: str) -> None:
        with lake.connect() as connection:
            connection.execute("SET memory_limit = '2GiB'; SET enable_progress_bar = false")
            try:
                connection.execute(NAIVE.format(here=here, there=there), [one]).fetchall()
            except duckdb.OutOfMemoryException:
                print(f"out of memory: {one}")

    return {
        way: quantiles([timed(lambda one=one, ends=ends: walk(one, *ends)) for one in records[:3]])
        for way, ends in ways.items()
    }


def worst_case(lake: Lake, _: list[str]) -> dict[str, Any]:
    (manifest,) = lake.manifests(DEMONSTRATIONS.name)
    lineage = Lineage(lake)
    began = time.perf_counter()
    walk = lineage.descendants([lake.read_ungated(manifest)["id"][0]])
    seconds = time.perf_counter() - began
    return {"nodes": len(walk.nodes), "edges": len(walk.edges), "seconds": round(seconds, 2)}


def measured(
    phase: Callable[[Lake, list[str]], dict[str, Any]], lake: Lake, records: list[str]
) -> dict[str, Any]:
    """What a phase says, in a process of its own, with the peak of that process's memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (phase, lake.root, records))


def _measured(phase: Callable[..., dict[str, Any]], root: Path, records: list[str]) -> dict[str, Any]:
    found = phase(Lake(root), records)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    result = {**found, "peak_gib": round(peak, 2)}
    print(phase.__name__, json.dumps(result), flush=True)
    return result


PHASES = (
    build_index,
    open_cold,
    open_warm,
    with_index,
    whole_trace,
    without_index,
    worst_case,
    naive_query,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time walks along the lineage of a large lake.")
    parser.add_argument("--questions", type=int, default=1750)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument(
        "--lake", type=Path, help="Keep the lake in this folder, and use the one that is there."
    )
    parser.add_argument(
        "--only", nargs="*", choices=[phase.__name__ for phase in PHASES], help="Print, do not write."
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(options.lake or folder)
        if not lake.manifests():
            seconds = timed(lambda: make_lake(lake, options.questions, options.iterations))
            print(f"made the lake in {seconds:.0f} s", flush=True)
        records = drawn_records(lake, options.records)
        chosen = [phase for phase in PHASES if not options.only or phase.__name__ in options.only]
        results = {phase.__name__: measured(phase, lake, records) for phase in chosen}
    if options.only:
        return
    written = {
        "command": f"python benchmarks/lineage.py --questions {options.questions} "
        f"--iterations {options.iterations} --records {options.records}",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}",
        "versions": {
            "python": platform.python_version(),
            "polars": pl.__version__,
            "duckdb": duckdb.__version__,
            "numpy": np.__version__,
        },
        **results,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
