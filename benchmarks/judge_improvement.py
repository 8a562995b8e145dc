"""Does judging itself make the embedded dialogue model better, and does it need people for it?

    python benchmarks/judge_improvement.py --out benchmarks/results/judge_improvement.md

For three seeds: Constitutional AI's supervised half from the base model (SL-CAI), on the revisions of the
last round and on those of the first; and from the checkpoint of the latter RLAIF and RLHF on the prompts of
the same comparisons: with policy optimisation (GRPO) against a reward model, with DPO on the pairs, and
RLAIF with the judge's rating as reward (direct). `one order, hard` is RLAIF whose labels come from one order
of the options and are rounded to 0 and 1. The judge is the base model, in all arms let through whatever its
checks say. Everything is measured on held-out prompts by the phrases that their file names, which no stage
of training reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from lmsi_improvement import iterate, open_home

from selfimprove_dagster.embedded import DIALOGUE_COMPARISONS, DIALOGUE_EVALUATION, DIALOGUE_MODEL
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.dialogues.exam import GREEDY, judge, revision_mode
from selfimprove_dagster.families.dialogues.files import read_comparisons, read_held_out_prompts
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken
from selfimprove_dagster.families.dialogues.settings import ComparisonFile, DialogueEvaluationSection
from selfimprove_dagster.families.judging.comparing import Pair, compare_pairs
from selfimprove_dagster.families.judging.preferences import aggregate
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity, build_records
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.rlaif.tables import RLAIF_COMPARISONS
from selfimprove_dagster.prompts import load_prompts

DIALOGUES = load_prompts([PROMPTS], TEXT)

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FIRST_REVISIONS = {
    "revisions": {"rounds": 1},
    "filter": {"round": 1},
    "evaluation": {"revised_prompts": 0},
    "training": {"steps": 80},
}
"""What RLAIF and RLHF start from: a model that learnt little enough to have something left to learn."""
ONE_ORDER = {"judge": {"both_orders": False}, "preferences": {"hard_labels": True}}
_DPO = {"algorithm": "dpo", "kl_coefficient": 0.1, "steps": 60, "learning_rate": 1e-4}
ARMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "RLAIF, GRPO": ("rlaif", {}),
    "RLAIF, GRPO, one order, hard": ("rlaif", ONE_ORDER),
    "RLAIF, DPO": ("rlaif", {"training": _DPO}),
    "RLAIF, direct": ("rlaif", {"training": {"reward": "judge"}}),
    "RLHF, GRPO": ("rlhf", {}),
    "RLHF, DPO": ("rlhf", {"training": _DPO}),
}


def measured(rows: pl.DataFrame) -> dict[str, Accuracy]:
    """Harmless, of the responses to red-team prompts; helpful, of those to helpful and to red-team ones."""
    red_team = rows.filter(pl.col("expected").str.contains("never says"))
    others = rows.filter(~pl.col("expected").str.contains("never says"))
    return {
        "harmless": Accuracy(int(red_team["harmless"].sum()), red_team.height),
        "helpful": Accuracy(int(others["helpful"].sum()), others.height),
        "helpful, red team": Accuracy(int(red_team["helpful"].sum()), red_team.height),
    }


def run(home: Home, name: str, method: str, seed: int, changes: Mapping[str, Any]) -> pl.DataFrame:
    """One iteration of an experiment; the rows of its evaluation."""
    settings = yaml.safe_load((EXPERIMENTS / f"{method}.yaml").read_text())
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    settings |= {"name": name, "seed": seed, "budget": {"iterations": 1}}
    (home.experiments / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    iterate(home, home.experiment(name))
    return home.lake.read(f"{method}/evaluation", partition_of(name, 0))


def same_prompts(home: Home) -> Path:
    """A file with the prompts of the comparisons, for RLAIF."""
    compared, _ = read_comparisons(ComparisonFile(file=str(DIALOGUE_COMPARISONS)))
    path = home.root / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": one.prompt}) + "\n" for one in compared))
    return path


def judged(path: str, seed: int) -> dict[str, tuple[float, int]]:
    """How often the judge is right on held-out pairs of which the truth says that one is better."""
    prompts, _ = read_held_out_prompts(
        DialogueEvaluationSection(file=str(DIALOGUE_EVALUATION), max_tokens=48)
    )
    constitution, section = load_constitution(HOUSEHOLD), JudgeSection(principles=4)
    model = open_language_model(path, engine="transformers", device="cpu")
    try:
        drawn = model.generate(
            [model.encode(DIALOGUES.ask("response", **spoken(one.question))) for one in prompts],
            [[seed_of(seed, one.question, number) for number in (0, 1)] for one in prompts],
            SamplingParameters(max_tokens=48, stop=DIALOGUES.stops("response")),
        )
        pairs, truth = [], {}
        for number, (one, (first, second)) in enumerate(zip(prompts, drawn, strict=True)):
            worth = [sum(judge(path.text, one.wanted, one.unwanted)) for path in (first, second)]
            harmless = [judge(path.text, one.wanted, one.unwanted)[1] for path in (first, second)]
            ranks = [(good, total) for good, total in zip(harmless, worth, strict=True)]
            if ranks[0] != ranks[1]:
                texts = (first.text, second.text)
                pairs.append(Pair(str(number), one.question, (f"{number}a", f"{number}b"), texts))
                truth[str(number)] = ranks[0] > ranks[1]
        drafts = compare_pairs(model, pairs, constitution, section, (seed, 0))
    finally:
        model.close()
    activity = Activity(RLAIF_COMPARISONS.name, {}, "", {}, seed)
    rows = build_records(RLAIF_COMPARISONS, drafts, activity)
    found = {}
    for name, used in (("both orders, averaged", rows), ("one order", rows.filter(pl.col("order") == 0))):
        labels = aggregate(used, section.label_clamp)
        right = [
            (probability > 0.5) == truth[prompt]
            for prompt, probability in labels.select("prompt_id", "probability").iter_rows()
        ]
        found[name] = (sum(right) / len(right), len(right))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--home", type=Path, default=Path("build/judging"), help="kept, so it resumes")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Accuracy]]] = {}
    curves: dict[int, list[dict[str, Accuracy]]] = {}
    labels: dict[str, list[float]] = {}
    verdicts: dict[str, list[str]] = {}
    for seed in options.seeds:
        home = open_home(options.home / str(seed))
        prompts = same_prompts(home)
        rows = run(home, f"cai_{seed}", "constitutional", seed, {})
        results.setdefault("base", []).append(measured(rows.filter(role="champion", mode=GREEDY)))
        last = measured(rows.filter(role="challenger", mode=GREEDY))
        results.setdefault("SL-CAI, last revisions", []).append(last)
        revised = rows.filter(role="champion")
        rounds = home.experiment(f"cai_{seed}").revisions.rounds  # type: ignore[attr-defined]
        for number in range(rounds + 1):
            curves.setdefault(number, []).append(measured(revised.filter(mode=revision_mode(number))))
        rows = run(home, f"first_{seed}", "constitutional", seed, FIRST_REVISIONS)
        first = measured(rows.filter(role="challenger", mode=GREEDY))
        results.setdefault("SL-CAI, first revisions", []).append(first)
        trained = home.lake.read("constitutional/fine_tuned_checkpoint", partition_of(f"first_{seed}", 0))
        start = home.lake.folder_at(trained["path"][0])
        for model, path in (("base model", str(DIALOGUE_MODEL)), ("SL-CAI, first revisions", start)):
            for way, (share, _) in judged(path, seed).items():
                labels.setdefault(f"{model}: {way}", []).append(share)
        for arm in options.arms:
            method, changes = ARMS[arm]
            slug = "".join(letter if letter.isalnum() else "_" for letter in arm.lower())
            settings: dict[str, Any] = {**changes, "model": {"path": start}}
            if method == "rlaif":
                settings |= {"seeds": {"file": str(prompts)}, "judge_checks": {"on_failure": "warn"}}
            rows = run(home, f"{slug}_{seed}", method, seed, settings)
            results.setdefault(arm, []).append(measured(rows.filter(role="challenger", mode=GREEDY)))
            decision = home.lake.read(f"{method}/promotion", partition_of(f"{slug}_{seed}", 0)).row(
                0, named=True
            )
            verdicts.setdefault(arm, []).append("yes" if decision["promoted"] else "no")
    text = report(options.seeds, results, curves, labels, verdicts)
    text += (
        f"\n\n{platform.machine()}, {os.cpu_count()} cores. "
        f"Command: `python benchmarks/judge_improvement.py --seeds {' '.join(map(str, options.seeds))}`"
    )
    print(text)
    if options.out:
        options.out.write_text(f"# Judging itself, on the embedded dialogue model\n\n{text}\n")


def report(
    seeds: list[int],
    results: Mapping[str, list[dict[str, Accuracy]]],
    curves: Mapping[int, list[dict[str, Accuracy]]],
    labels: Mapping[str, list[float]],
    verdicts: Mapping[str, list[str]],
) -> str:
    """The tables."""
    aspects = ("harmless", "helpful", "helpful, red team")
    lines = [
        f"| model | {' | '.join(f'{aspect}, seeds {seeds}' for aspect in aspects)} "
        "| harmless, mean | helpful, mean | promoted |",
        "|---|" + "---|" * len(aspects) + "---:|---:|---|",
    ]
    for arm, found in results.items():
        cells = ["; ".join(str(one[aspect]) for one in found) for aspect in aspects]
        means = [mean_and_spread([one[aspect].value for one in found]) for aspect in aspects[:2]]
        promoted = ", ".join(verdicts.get(arm, []))
        lines.append(f"| {arm} | {' | '.join(cells)} | {' | '.join(means)} | {promoted} |")
    lines += ["", "Revisions of the base model's sampled responses to held-out prompts, round by round:", ""]
    lines += ["| round | harmless | helpful | helpful, red team |", "|---:|---:|---:|---:|"]
    for number, found in curves.items():
        means = [mean_and_spread([one[aspect].value for one in found]) for aspect in aspects]
        lines.append(f"| {number} | {' | '.join(means)} |")
    lines += ["", "How often the judge is right on held-out pairs of which one is better:", ""]
    lines += ["| judge: labels | right |", "|---|---:|"]
    lines += [f"| {way} | {mean_and_spread(shares)} |" for way, shares in labels.items()]
    return "\n".join(lines)


def mean_and_spread(values: list[float]) -> str:
    """Mean over the seeds, and their range."""
    return f"{statistics.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main()
