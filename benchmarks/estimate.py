"""The forecast of `selfimprove run --estimate` against the iteration that follows.

    python benchmarks/estimate.py [EXPERIMENT …] [--processor] [--out FILE.md]

Forecasts and runs the first iteration of shipped experiments, or of those in $SELFIMPROVE_EXPERIMENTS, each in a home
and processes of its own. With `--processor`, the clock of both is the processor time of the process (with one thread),
which hardly depends on what else a machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "estimate.md"
EXPERIMENTS = ("demo", "rlaif", "self_instruct")
Figures = dict[str, dict[str, Any]]


def forecast(name: str) -> Figures:
    """What a forecast says of each stage: the ends of tokens and seconds, bytes, memory."""
    from selfimprove_dagster.cli.estimate import load_like_a_run
    from selfimprove_dagster.estimating.estimate import estimate
    from selfimprove_dagster.home.home import Home
    from selfimprove_dagster.resources import LanguageModelResource, TrainerResource

    load_like_a_run()
    home = Home.from_environment()
    found = estimate(home, home.experiment(name), 0, LanguageModelResource(), TrainerResource(), print)
    return {
        one.stage: {
            "tokens": (one.tokens.low, one.tokens.high),
            "trained": not one.generates,
            "seconds": (one.seconds.low, one.seconds.high),
            "bytes": one.bytes,
            "memory": one.memory,
        }
        for one in found.stages
    }


def run(name: str) -> Figures:
    """What the iteration took, in the same form."""
    import polars as pl

    from selfimprove_dagster import registry
    from selfimprove_dagster.home.home import Home
    from selfimprove_dagster.lake.partition import partition_of
    from selfimprove_dagster.runs import run_iteration

    home = Home.from_environment()
    experiment = home.experiment(name)
    problems = run_iteration(home, experiment, 0)
    assert not problems, problems
    found: Figures = {}
    for stage in registry.method(experiment.method).stages:
        made = [home.lake.manifest(table.name, partition_of(name, 0)) for table in stage.writes]
        about = [one.activity.about for one in made]
        trained = sum(one.get("trained_tokens", 0) for one in about)
        tokens = trained or sum(one.get("tokens", 0) for one in about)
        models = []
        if stage.table.holds_model:
            models = pl.read_parquet(made[-1].paths, columns=["path"])["path"].to_list()
        weights = sum(
            file.stat().st_size for one in models for file in Path(home.lake.folder_at(one)).rglob("*")
        )
        found[stage.name] = {
            "tokens": (tokens, tokens),
            "trained": bool(trained),
            # Tables beside a stage's own are committed on the way.
            "seconds": (about[-1]["seconds"], about[-1]["seconds"]),
            "bytes": sum(one.bytes for one in made) + weights,
            "memory": max(one.get("peak_memory", 0) for one in about),
        }
    return found


def measured(what: str, name: str, home: Path, processor: bool) -> tuple[Figures, float]:
    """The figures of `forecast` or `run` in a process of its own, and its seconds."""
    variables = {
        "SELFIMPROVE_EXPERIMENTS": str(ROOT / "experiments"),
        **os.environ,
        "SELFIMPROVE_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        **({"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"} if processor else {}),
    }
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        arguments = [sys.executable, "-W", "ignore", __file__, name, "--only", what, "--out", out.name]
        started = time.perf_counter()
        subprocess.run([*arguments, *(["--processor"] if processor else [])], env=variables, check=True)
        return json.loads(Path(out.name).read_text()), time.perf_counter() - started


def table(name: str, said: Figures, did: Figures) -> list[str]:
    """The stages of an experiment as a Markdown table, with totals; tokens trained on are not in these."""
    lines = [
        f"## {name}",
        "",
        "| stage | tokens: forecast | iteration | off | seconds: forecast | iteration | off "
        "| MB: forecast | iteration |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole: dict[str, list[float]] = {key: [0.0, 0.0] for key in ("tokens", "trained", "seconds", "bytes")}
    for stage, one in said.items():
        other = did[stage]
        pairs = {key: (_middle(one[key]), _middle(other[key])) for key in ("tokens", "seconds", "bytes")}
        for key, pair in pairs.items():
            total = whole["trained" if key == "tokens" and other["trained"] else key]
            total[0], total[1] = total[0] + pair[0], total[1] + pair[1]
        lines.append(_line(stage, pairs["tokens"], pairs["seconds"], pairs["bytes"]))
    lines.append(_line("**generated**", whole["tokens"], whole["seconds"], whole["bytes"]))
    lines.append(_line("**trained on**", whole["trained"], (0, 0), (0, 0)))
    memory = [max(one["memory"] or 0 for one in figures.values()) / 1e6 for figures in (said, did)]
    return [
        *lines,
        "",
        f"Peak memory: {memory[0]:,.0f} MB forecast, {memory[1]:,.0f} MB in the iteration.",
        "",
    ]


def _middle(value: Any) -> float:
    return sum(value) / 2 if isinstance(value, list | tuple) else float(value)


def _line(name: str, tokens: Any, seconds: Any, size: Any) -> str:
    cells = [name]
    for (said, did), form in ((tokens, ",.0f"), (seconds, ",.1f")):
        off = f"{said / did - 1:+.0%}" if did >= 1 else ""
        cells += [format(said, form), format(did, form), off] if said or did else ["", "", ""]
    cells += [f"{size[0] / 1e6:.2f}", f"{size[1] / 1e6:.2f}"] if any(size) else ["", ""]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--processor", action="store_true", help="processor seconds instead of wall seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=("forecast", "run"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        if asked.processor:
            time.monotonic = time.process_time
        figures = {"forecast": forecast, "run": run}[asked.only](asked.experiments[0])
        asked.out.write_text(json.dumps(figures))
        os._exit(0)
    clock = "Seconds are processor seconds of one thread." if asked.processor else "Seconds are wall seconds."
    lines = [
        "# The forecast of an iteration against the iteration",
        "",
        "`python benchmarks/estimate.py`",
        "",
    ]
    load = os.getloadavg()[0]
    for name in asked.experiments:
        with tempfile.TemporaryDirectory() as folder:
            said, pilot = measured("forecast", name, Path(folder) / "home", asked.processor)
            did, took = measured("run", name, Path(folder) / "home", asked.processor)
        lines += table(name, said, did)
        lines += [f"The forecast took {pilot:,.0f} s and the iteration {took:,.0f} s of wall time.", ""]
        tail = f"{clock} Python {platform.python_version()}, {os.cpu_count()} cores, load average {load:.1f} before."
        asked.out.write_text("\n".join([*lines, tail, ""]))


if __name__ == "__main__":
    main()
