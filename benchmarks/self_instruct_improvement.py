"""Does a round of Self-Instruct make the embedded task model better, and is it the filters that do it?

    python benchmarks/self_instruct_improvement.py --out benchmarks/results/self_instruct_improvement.md

One round for three seeds in two arms, from the same prompts. `filtered` is `experiments/self_instruct.yaml`
as it ships. `unfiltered` keeps whatever can be read, copies too, and trains on as many examples by lot.
Both checkpoints are compared with the base model on the same held-out tasks, greedy and without a
demonstration.

What is true of an example is known here, since the model's world has a program that solves it. No stage sees
that program: it serves this measurement alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from lmsi_improvement import iterate, open_home

from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.evaluation.exam import accuracy, compare
from selfimprove_dagster.evaluation.measurement import PairedComparison
from selfimprove_dagster.families.tasks.statistics import verb_noun_counts
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.recipes.task_grammar import recognise, solve

SHIPPED = Path(__file__).parent.parent / "experiments" / "self_instruct.yaml"


@dataclass(frozen=True)
class Round:
    """What a round made, and what came of training on it; shares are of 1."""

    examples: int
    instructions: int
    families: int
    verbs: int
    distinct_4grams: float
    of_the_world: float
    right: float
    before: float
    after: float
    comparison: PairedComparison


def run_arm(home: Home, arm: str, seed: int, **filters: Any) -> Round:
    """One round."""
    name = f"{arm}_{seed}"
    settings = yaml.safe_load(SHIPPED.read_text())
    settings["filter"] |= filters
    settings |= {"name": name, "seed": seed, "budget": {"iterations": 1}}
    (home.experiments / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    experiment = home.experiment(name)
    iterate(home, experiment)
    examples = home.lake.read("self_instruct/filtered_dataset", partition_of(name, 0))
    answers = home.lake.read("self_instruct/evaluation", partition_of(name, 0))
    instructions = examples["instruction"].unique().sort().to_list()
    known = [asked for text in instructions if (asked := recognise(text))]
    truths = [solve(*row) for row in examples.select("instruction", "input").iter_rows()]
    solved = pl.Series(truths, dtype=pl.String)
    return Round(
        examples=len(examples),
        instructions=len(instructions),
        families=len({asked.family.name for asked in known}),
        verbs=len({verb for verb, _ in verb_noun_counts(instructions)}),
        distinct_4grams=distinct_ngram_share(examples["instruction"].to_list()),
        of_the_world=1 - solved.null_count() / len(solved),
        right=float((solved == examples["answer"]).mean() or 0.0),
        before=accuracy(answers, "champion").value,
        after=accuracy(answers, "challenger").value,
        comparison=compare(answers),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--home", type=Path, default=Path("build/self_instruct"), help="kept, so it resumes")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    home, started = open_home(options.home), time.monotonic()
    lines = [
        "| arm | seed | examples | instructions | families | verbs | distinct 4-grams | solvable | right "
        "| before | after | difference (95%) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    differences: dict[str, list[float]] = {"filtered": [], "unfiltered": []}
    for seed in options.seeds:
        filtered = run_arm(home, "filtered", seed)
        unfiltered = run_arm(home, "unfiltered", seed, switched_off=True, most_examples=filtered.examples)
        for arm, made in (("filtered", filtered), ("unfiltered", unfiltered)):
            low, high = made.comparison.interval
            differences[arm].append(made.comparison.difference)
            lines.append(
                f"| {arm} | {seed} | {made.examples:,} | {made.instructions:,} | {made.families} "
                f"| {made.verbs} | {made.distinct_4grams:.1%} | {made.of_the_world:.1%} | {made.right:.1%} "
                f"| {made.before:.1%} | {made.after:.1%} "
                f"| {made.comparison.difference:+.1%} [{low:+.1%}, {high:+.1%}] |"
            )
            print(lines[-1], flush=True)
    for arm, values in differences.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| **{arm}** | mean | | | | | | | | | | **{statistics.mean(values):+.1%}**, "
            f"deviation {spread:.1%}, from {min(values):+.1%} to {max(values):+.1%} |"
        )
    lines += [
        "",
        "*Solvable*: examples whose instruction and input belong to the world of the model, so that a "
        "program knows the output; *right*: those whose output is that one, of all.",
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{(time.monotonic() - started) / 60:.0f} minutes. "
        "Command: `python benchmarks/self_instruct_improvement.py --seeds "
        f"{' '.join(map(str, options.seeds))}`",
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text(
            "# A round of Self-Instruct on the embedded task model\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
