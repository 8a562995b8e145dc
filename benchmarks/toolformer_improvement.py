"""Does a model that taught itself to call tools get better, and is it the loss that does it?

    python benchmarks/toolformer_improvement.py --out benchmarks/results/toolformer_improvement.md

One round for three seeds in two arms, from the same sampled calls. `by loss` is `experiments/toolformer.yaml`
as it ships. `by lot` keeps as many calls of each tool, at random. The checkpoints go on with the same
held-out beginnings as the base model, with tools and without, and predict the same plain texts. Beside the
checkpoint of `by loss` the base model, trained alike on the same texts without their calls, predicts these
too (the paper's Table 8 compares with a model fine-tuned on C, not C*).
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml
from lmsi_improvement import iterate, open_home

from selfimprove_dagster.evaluation.exam import accuracy, accuracy_by_difficulty, compare
from selfimprove_dagster.evaluation.measurement import Accuracy, PairedComparison
from selfimprove_dagster.home.exams import open_exam
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.methods.toolformer.exam import PLAIN, WITH_TOOLS, WITHOUT
from selfimprove_dagster.methods.toolformer.rules import counts_at
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.statistics import CallUse, call_use, plain_losses
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.training.rows import write_rows
from selfimprove_dagster.training.supervised import TokenisedExample
from selfimprove_dagster.training.tokenising import tokenise_examples

SHIPPED = Path(__file__).parent.parent / "experiments" / "toolformer.yaml"
ARMS = {"by loss": "loss", "by lot": "lot"}


@dataclass(frozen=True)
class Round:
    """What a round made, and what came of training on it."""

    texts: int
    examples: int
    calls: dict[str, int]
    base: Accuracy
    without: Accuracy
    with_tools: Accuracy
    by_kind: dict[str, tuple[Accuracy, Accuracy, Accuracy]]
    comparison: PairedComparison
    use: CallUse
    losses: dict[str, float]
    loss_without_calls: float | None
    counts: pl.DataFrame


def run_arm(home: Home, arm: str, seed: int) -> Round:
    """One round."""
    name = f"{ARMS[arm]}_{seed}"
    settings = yaml.safe_load(SHIPPED.read_text())
    settings["filter"] = {**settings.get("filter", {}), "chosen_by": ARMS[arm]}
    settings |= {"name": name, "seed": seed, "budget": {"iterations": 1}}
    (home.experiments / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    experiment = home.experiment(name)
    assert isinstance(experiment, ToolformerExperiment)
    iterate(home, experiment)
    partition = partition_of(name, 0)
    examples, answers, pool, results, scores = (
        home.lake.read(f"toolformer/{table}", partition)
        for table in ("filtered_dataset", "evaluation", "seed_pool", "tool_results", "perplexity_scores")
    )
    calls = examples.select(pl.col("calls").explode(empty_as_null=False)).unnest("calls")["tool"]
    sat = (("champion", WITHOUT), ("challenger", WITHOUT), ("challenger", WITH_TOOLS))
    kinds = [accuracy_by_difficulty(answers, *one) for one in sat]
    return Round(
        texts=len(pool),
        examples=len(examples),
        calls=dict(calls.value_counts(sort=True).iter_rows()),
        base=accuracy(answers, *sat[0]),
        without=accuracy(answers, *sat[1]),
        with_tools=accuracy(answers, *sat[2]),
        by_kind={kind: (kinds[0][kind], kinds[1][kind], kinds[2][kind]) for kind in kinds[0]},
        comparison=compare(answers, WITH_TOOLS),
        use=call_use(answers, "challenger"),
        losses=plain_losses(answers),
        loss_without_calls=plain_loss_without_calls(home, experiment, examples) if arm == "by loss" else None,
        counts=counts_at(call_candidates(results, scores)),
    )


def plain_loss_without_calls(home: Home, experiment: ToolformerExperiment, examples: pl.DataFrame) -> float:
    """Nats a token on the plain texts after training on the texts of the examples without their calls."""
    base = experiment.model.path
    texts = tokenise_examples(base, [("", text) for text in examples["question"]])
    output = home.root / "without_calls" / experiment.name
    rows = output.with_name(f"{output.name}.rows")
    write_rows(rows, TokenisedExample, texts)
    outcome = TrainerResource().fine_tune(
        experiment, experiment.training, base, rows, output, seed=experiment.seed
    )
    exam = open_exam(home, experiment, open_language_model).exam
    with closing(open_language_model(outcome.path)) as model:
        rows = [row for part in exam.parts if part.mode == PLAIN for row in exam.sit_part(model, part)]
    (loss,) = plain_losses(pl.DataFrame(rows).with_columns(role=pl.lit("without calls"))).values()
    return loss


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--home", type=Path, default=Path("build/toolformer"), help="kept, so it resumes")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    home, started = open_home(options.home), time.monotonic()
    lines = [
        "| arm | seed | texts with calls | calls kept | base model | without tools | with tools "
        "| with tools against base (95%) | called | well formed | with a result | helped | hurt "
        "| plain perplexity | without calls |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    rounds = {(arm, seed): run_arm(home, arm, seed) for arm in options.arms for seed in options.seeds}
    for (arm, seed), made in rounds.items():
        low, high = made.comparison.interval
        before, after = (math.exp(made.losses[role]) for role in ("champion", "challenger"))
        lines.append(
            f"| {arm} | {seed} | {made.examples:,} of {made.texts:,} | {sum(made.calls.values()):,} "
            f"| {made.base.value:.1%} | {made.without.value:.1%} | {made.with_tools.value:.1%} "
            f"| {made.comparison.difference:+.1%} [{low:+.1%}, {high:+.1%}] "
            f"| {share(made.use.called)} | {share(made.use.well_formed)} | {share(made.use.with_result)} "
            f"| {share(made.use.helped)} | {share(made.use.hurt)} | {before:.2f} → {after:.2f} "
            f"| {'–' if made.loss_without_calls is None else f'{math.exp(made.loss_without_calls):.2f}'} |"
        )
    for arm in options.arms:
        values = [made.comparison.difference for (of, _), made in rounds.items() if of == arm]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| **{arm}** | mean | | | | | | **{statistics.mean(values):+.1%}**, deviation {spread:.1%}, "
            f"from {min(values):+.1%} to {max(values):+.1%} | | | | | | | |"
        )
    lines += ["", "Accuracy by kind of beginning, means over the seeds: base, without tools, with tools.", ""]
    lines += ["| kind | arm | base model | without tools | with tools |", "|---|---|---:|---:|---:|"]
    for kind in next(iter(rounds.values())).by_kind:
        for arm in options.arms:
            sat = [made.by_kind[kind] for (of, _), made in rounds.items() if of == arm]
            means = [
                f"{statistics.mean(one.value for one in column):.1%}" for column in zip(*sat, strict=True)
            ]
            lines.append(f"| {kind} | {arm} | {' | '.join(means)} |")
    seed = options.seeds[0]
    counts = rounds[options.arms[0], seed].counts
    thresholds = counts["threshold"].unique(maintain_order=True).to_list()
    lines += [
        "",
        f"Texts with a call that lowers the loss by at least τ_f (the paper's table 2), seed {seed}:",
        "",
    ]
    lines += [
        f"| tool | {' | '.join(f'τ_f = {one:g}' for one in thresholds)} |",
        f"|---|{'---:|' * len(thresholds)}",
    ]
    for (tool,), part in counts.group_by("tool", maintain_order=True):
        lines.append(f"| {tool} | {' | '.join(f'{count:,}' for count in part['examples'])} |")
    lines += [
        "",
        "*Helped*: of the beginnings in which a call gave a result, right with tools and wrong without; "
        "*hurt*: the other way round. *Without calls*: plain perplexity of the base model trained on the "
        "same texts without their calls.",
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{(time.monotonic() - started) / 60:.0f} minutes. Command: `python "
        f"benchmarks/toolformer_improvement.py --seeds {' '.join(map(str, options.seeds))}`",
    ]
    print("\n".join(lines))
    if options.out:
        text = "# A round of Toolformer on the embedded tool model\n\n" + "\n".join(lines) + "\n"
        options.out.write_text(text)


if __name__ == "__main__":
    main()
