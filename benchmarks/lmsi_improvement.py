"""Does LMSI make the embedded model better, and is it the vote that does it?

    python benchmarks/lmsi_improvement.py --out benchmarks/results/lmsi_improvement.md

Runs the demo's experiment for three seeds in two arms. `majority` is the demo as it ships. `random path`
takes the answer of one path drawn by lot in place of the majority's; with no vote there is no confidence
either, so that arm has no vote-share threshold. Everything else is the same. Each arm's last promoted
checkpoint is compared with the base model on the same held-out questions, greedy, one path a question.

No arm sees a true answer: held-out questions serve this measurement and the promotion gate alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import polars as pl
import yaml

from selfimprove_dagster.evaluation.exam import accuracy, compare
from selfimprove_dagster.evaluation.measurement import Accuracy, PairedComparison
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.loop.rules import Stop, finished_iterations, next_step
from selfimprove_dagster.runs import run_iteration

DEMO = Path(__file__).parent.parent / "experiments" / "demo.yaml"
_ANY_VOTE = {"minimum_vote_share": 0.0, "minimum_winning_votes": 1, "drop_ties": False}
ARMS = {
    "majority": {},
    "random path": {"voting": {"rule": "random_path"}, "filter": _ANY_VOTE},
}
GREEDY = pl.col("mode") == "greedy"


def run_arm(home: Home, arm: str, seed: int) -> tuple[Accuracy, Accuracy, PairedComparison, list[str]]:
    """Accuracy of the base and of the last promoted checkpoint, their comparison, and a line an iteration."""
    name = f"{arm.split()[0]}_{seed}"
    settings = {**yaml.safe_load(DEMO.read_text()), **ARMS[arm], "name": name, "seed": seed}
    settings["evaluation"] = {**settings["evaluation"], "majority_questions": 0}
    (home.experiments / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    experiment = home.experiment(name)
    iterate(home, experiment)
    rows = [
        home.lake.read("lmsi/evaluation", partition_of(name, summary.iteration)).filter(GREEDY)
        for summary in finished_iterations(home.lake, experiment)
    ]
    base = rows[0].filter(role="champion")
    promoted = [
        answers.filter(role="challenger")
        for answers, summary in zip(rows, finished_iterations(home.lake, experiment), strict=True)
        if summary.promoted
    ]
    last = promoted[-1] if promoted else base.with_columns(role=pl.lit("challenger"))
    both = pl.concat([base, last])
    lines = [
        f"{accuracy(answers, 'challenger').value:.1%}{'' if summary.promoted else ' (not promoted)'}"
        for answers, summary in zip(rows, finished_iterations(home.lake, experiment), strict=True)
    ]
    return accuracy(both, "champion"), accuracy(both, "challenger"), compare(both), lines


def open_home(folder: Path) -> Home:
    """An installation of the benchmark's own, named in the environment for Dagster's steps."""
    home = Home(folder.absolute(), folder.absolute() / "experiments")
    home.experiments.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    os.environ["SELFIMPROVE_HOME"] = str(home.root)
    os.environ["SELFIMPROVE_EXPERIMENTS"] = str(home.experiments)
    return home


def iterate(home: Home, experiment: Experiment) -> None:
    """Run iterations until a stop rule says why to stop."""
    while not isinstance(
        step := next_step(experiment.budget, finished_iterations(home.lake, experiment)), Stop
    ):
        problems = run_iteration(home, experiment, step.iteration)
        if problems:
            raise SystemExit("\n".join(problems))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--home", type=Path, default=Path("build/lmsi_improvement"), help="kept, so it resumes"
    )
    parser.add_argument("--out", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    home = open_home(arguments.home)
    started = time.monotonic()
    lines = [
        "| arm | seed | base | after each iteration | last promoted | difference (95%) | gained / lost |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    differences: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in arguments.seeds:
        for arm in ARMS:
            base, last, comparison, iterations = run_arm(home, arm, seed)
            low, high = comparison.interval
            differences[arm].append(comparison.difference)
            lines.append(
                f"| {arm} | {seed} | {base.value:.1%} | {', '.join(iterations)} | {last.value:.1%} | "
                f"{comparison.difference:+.1%} [{low:+.1%}, {high:+.1%}] | "
                f"{comparison.gained} / {comparison.lost} |"
            )
            print(lines[-1], flush=True)
    for arm, values in differences.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| **{arm}** | mean | | | | **{statistics.mean(values):+.1%}**, deviation {spread:.1%}, "
            f"from {min(values):+.1%} to {max(values):+.1%} | |"
        )
    lines += [
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{(time.monotonic() - started) / 60:.0f} minutes. "
        f"Command: `python benchmarks/lmsi_improvement.py --seeds {' '.join(map(str, arguments.seeds))}`",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("# LMSI on the embedded model\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
