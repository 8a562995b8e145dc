"""The memory of stages, checks, lineage and `verify` on a large iteration.

    python benchmarks/bounded_memory.py                      a million paths
    python benchmarks/bounded_memory.py --paths 2500000 --only verify
    python benchmarks/bounded_memory.py --paths 50000 --home FOLDER

The iteration is one of LMSI. Its questions and its sampled paths (32 a question, of about 60 tokens, with ids, hashes
and log-probabilities as the pipeline writes them) are made up; all that follows is made of them by the stages
themselves: perplexities, votes, decisions, examples. Every step has a process of its own, whose peak of resident memory
is stated, imports included:

- each stage, as a run starts it, and the checks of its table;
- `index`: the lineage index of all partitions, and the ancestry of one example;
- `verify`: all ids, hashes, parents and checksums of the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bounded_memory.md"
SAMPLES, SHARD_QUESTIONS, TOKENS = 32, 64, 60
EXPERIMENT: dict[str, Any] = {
    "name": "large",
    "method": "lmsi",
    "model": {"path": "embedded", "device": "cpu"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": {"file": "embedded", "rows": ":40", "majority_questions": 0},
    "sampling": {"questions": 1, "paths": SAMPLES, "shard_questions": SHARD_QUESTIONS},
}
STAGES = ("perplexity_scores", "voted_answers", "filtered_dataset")
STEPS = (*STAGES, "index", "verify")


class _Silent:
    def info(self, line: str) -> None:
        pass

    warning = info


def home_in(folder: Path) -> Any:
    """The home in a folder, with the experiment."""
    import yaml

    from selfimprove_dagster.home.home import Home

    experiments = folder / "experiments"
    experiments.mkdir(parents=True, exist_ok=True)
    (experiments / "large.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return Home(root=folder, experiments=experiments)


def make(folder: Path, paths: int) -> None:
    """Store made-up seeds, questions and paths."""
    import numpy as np
    import polars as pl

    from selfimprove_dagster.lake.lake import Lake
    from selfimprove_dagster.lake.partition import partition_of
    from selfimprove_dagster.lake.records import Activity, build_records, parents_of
    from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL
    from selfimprove_dagster.shared_tables import SEEDS
    from selfimprove_dagster.table import Table

    lake: Lake = home_in(folder).lake
    draw, chooser = np.random.default_rng(0), random.Random(0)
    questions = paths // SAMPLES
    asked = [
        f"Ann has {chooser.randrange(2, 900)} apples and buys {at} more. How many has she?"
        for at in range(questions)
    ]
    where = {"source_file": "made_up.jsonl", "licence": "Apache-2.0"}

    def commit(table: Table, partition: dict[str, str], frames: Any, inputs: Sequence[str]) -> Activity:
        activity = Activity(
            table.name, partition, "1", {}, 0, inputs=tuple(inputs), model_id="b2:" + "0" * 32
        )
        with lake.writer(table, activity) as writer:
            for shard, frame in enumerate(frames):
                columns = {
                    name: pl.lit(where.get(name), dtype)
                    for name, dtype in table.polars.items()
                    if name not in frame.columns
                    and name not in ("id", "content_hash", "activity_id", "sample_index")
                }
                frame = frame.with_columns(**columns)
                frame = frame.with_columns(pl.col(n).cast(table.polars[n]) for n in frame.columns)
                writer.write_shard(shard, build_records(table, frame, activity))
            writer.commit()
        return activity

    rows = pl.DataFrame({"question": asked, "source_line": range(1, questions + 1)})
    none = pl.lit([], SEEDS.polars["parents"]).alias("parents")
    imported = commit(SEEDS, {"experiment": "large", "batch": "b"}, [rows.with_columns(none)], [])
    here = partition_of("large", 0)
    (seeds,) = lake.manifests(SEEDS.name)
    pool = lake.read_columns(seeds, ["id", "question", "source_line"])
    pooled = commit(SEED_POOL, here, [pool.with_columns(parents_of(id="seed")).drop("id")], [imported.id])
    chosen = lake.read_columns(lake.manifest(SEED_POOL.name, here), ["id", "question"])

    def drawn() -> Any:
        for first in range(0, questions, SHARD_QUESTIONS):
            part = chosen.slice(first, SHARD_QUESTIONS)
            count = len(part) * SAMPLES
            right = draw.random(count) < 0.55
            answers = np.where(
                right, np.repeat(np.arange(len(part)) + first, SAMPLES), draw.integers(0, 900, count)
            )
            texts = [
                f"She has {draw.integers(900)} and then gets more, which makes {one}. The answer is {one}."
                for one in answers
            ]
            numbers = pl.Series(draw.integers(0, 30_000, (count, TOKENS)).tolist(), dtype=pl.List(pl.Int32))
            logs = pl.Series((-draw.random((count, TOKENS))).tolist(), dtype=pl.List(pl.Float32))
            yield pl.DataFrame(
                {
                    "question_id": np.repeat(part["id"].to_numpy(), SAMPLES),
                    "prompt": np.repeat(part["question"].to_numpy(), SAMPLES),
                    "sample_index": np.tile(np.arange(SAMPLES, dtype=np.int32), len(part)),
                    "seed": draw.integers(0, 2**31, count),
                }
            ).with_columns(
                parents_of(question_id="question"),
                prompt_format=pl.lit("few_shot_cot"),
                text=pl.Series(texts),
                prompt_token_ids=numbers,
                token_ids=numbers,
                logprobs=logs,
                finish_reason=pl.lit("stop"),
            )

    commit(RAW_GENERATIONS, here, drawn(), [pooled.id])


def stage(folder: Path, name: str) -> dict[str, Any]:
    """Run one stage and the checks of its table."""
    from selfimprove_dagster import registry
    from selfimprove_dagster.quality.suites import run_suite
    from selfimprove_dagster.resources.language_model import LanguageModelResource
    from selfimprove_dagster.resources.trainer import TrainerResource
    from selfimprove_dagster.stage import StageContext
    from selfimprove_dagster.work.memory import peak_memory

    home = home_in(folder)
    (found,) = [one for one in registry.method("lmsi").stages if one.name == name]
    experiment = home.experiment("large")
    context: Any = StageContext(
        home=home,
        table=found.table,
        experiment=experiment,
        iteration=0,
        code_version=found.version,
        language_model=LanguageModelResource(),
        trainer=TrainerResource(),
        reporter=_Silent(),
    )
    result = found.run(context)
    results = result if isinstance(result, tuple | list) else [result]
    rows, peak = sum(one.manifest.rows for one in results), peak_memory()["peak_memory"]
    outcomes = run_suite(found.table.name, home.lake, experiment, 0)
    return {
        "rows": rows,
        "peak": peak,
        "with checks": peak_memory()["peak_memory"],
        "failed": [one.name for one in outcomes if not one.passed],
    }


def index(folder: Path) -> dict[str, Any]:
    """Build the lineage index, and walk up from one example."""
    from selfimprove_dagster.lineage.walk import Lineage
    from selfimprove_dagster.work.memory import peak_memory

    lake = home_in(folder).lake
    (examples,) = lake.manifests("lmsi/filtered_dataset")
    one = lake.read_columns(examples, ["id"], 1)["id"][0]
    rows = sum(manifest.rows for manifest in lake.manifests())
    found = Lineage(lake).ancestors([one])
    return {"rows": rows, "peak": peak_memory()["peak_memory"], "found": len(found.nodes)}


def verify(folder: Path) -> dict[str, Any]:
    """Verify the whole lake."""
    from selfimprove_dagster.lineage.verify import verify as check
    from selfimprove_dagster.work.memory import peak_memory

    report = check(home_in(folder).lake)
    findings = [str(one) for one in report.findings[:5]]
    return {"rows": report.rows, "peak": peak_memory()["peak_memory"], "findings": findings}


def one_step(folder: Path, step: str) -> dict[str, Any]:
    """What one step says, made in this process."""
    began, clock = time.monotonic(), time.process_time()
    said = index(folder) if step == "index" else verify(folder) if step == "verify" else stage(folder, step)
    return {
        **said,
        "seconds": time.monotonic() - began,
        "processor": time.process_time() - clock,
    }


def main() -> None:
    """Measure the steps, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", type=int, default=1_000_000)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=STEPS,
        default=STEPS,
        help="these steps; stages also run if they have not",
    )
    parser.add_argument("--home", type=Path, help="keep the home in this folder, and use what is there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        step, file = asked.one
        said: dict[str, Any] = {}
        if step == "make":
            make(asked.home, asked.paths)
        else:
            said = one_step(asked.home, step)
        Path(file).write_text(json.dumps(said))
        sys.stdout.flush()
        os._exit(0)
    lines = [
        "# Memory on a large iteration",
        "",
        f"`python benchmarks/bounded_memory.py --paths {asked.paths}`: an iteration of LMSI, {asked.paths:,} paths.",
        "",
        "| step | rows | peak | with checks | seconds | CPU seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    with ExitStack() as stack:
        folder = asked.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = os.getloadavg()[0]

        def run(step: str) -> dict[str, Any]:
            with tempfile.NamedTemporaryFile(suffix=".json") as out:
                command = [sys.executable, __file__, "--home", str(folder), "--paths", str(asked.paths)]
                subprocess.run([*command, "--one", step, out.name], check=True)
                found: dict[str, Any] = json.loads(Path(out.name).read_text())
            return found

        if not (folder / "lake" / "lmsi" / "raw_generations").is_dir():
            run("make")
        for step in STEPS:
            done = any((folder / "lake" / "lmsi" / step).glob("*/*/manifest.json"))
            if step not in asked.only and (done or step not in STAGES):
                continue
            found = run(step)
            checked = f"{found['with checks'] / 2**20:,.0f} MiB" if "with checks" in found else ""
            line = (
                f"| {step} | {found['rows']:,} | {found['peak'] / 2**20:,.0f} MiB | {checked} "
                f"| {found['seconds']:.0f} | {found['processor']:.0f} |"
            )
            print(
                line,
                {key: found[key] for key in ("failed", "findings", "found") if found.get(key)},
                flush=True,
            )
            lines.append(line)
    versions = ", ".join(f"{name} {version(name)}" for name in ("polars", "pyarrow", "duckdb"))
    lines += [
        "",
        f"{os.cpu_count()} cores; Python {platform.python_version()}, {versions}; load average {load:.1f}.",
        "",
    ]
    asked.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
