"""Does a model learn to improve without being told how, and who wins against whom?

    python benchmarks/pit_improvement.py --out benchmarks/results/pit_improvement.md

`experiments/pit.yaml` on the embedded dialogue model, for three seeds: held-out responses of the base model,
what it makes of them when it is asked alike (untaught), with feedback (Self-Refine) and with reflections
(Reflexion), and what PIT's checkpoint makes of them, judged by the phrases that the held-out file names and
by the base model itself in both orders.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections import defaultdict
from pathlib import Path

import yaml
from lmsi_improvement import iterate, open_home

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.methods.pit.win_rates import win_rates

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "pit.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--home", type=Path, default=Path("build/pit"), help="kept, so it resumes")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    options = parser.parse_args()
    answers: dict[str, dict[str, list[Accuracy]]] = defaultdict(lambda: defaultdict(list))
    contests: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    decisions = []
    for seed in options.seeds:
        home = open_home(options.home / str(seed))
        settings = {**yaml.safe_load(EXPERIMENT.read_text()), "name": f"pit_{seed}", "seed": seed}
        (home.experiments / f"pit_{seed}.yaml").write_text(yaml.safe_dump(settings))
        iterate(home, home.experiment(f"pit_{seed}"))
        partition = partition_of(f"pit_{seed}", 0)
        rows = home.lake.read("pit/evaluation", partition)
        for role, mode in rows.select("role", "mode").unique(maintain_order=True).rows():
            part = rows.filter(role=role, mode=mode)
            for share in ("correct", "helpful", "harmless"):
                answers[f"{role}, {mode.replace('_', ' ')}"][share].append(
                    Accuracy(int(part[share].sum()), part.height)
                )
        for one in win_rates(home.lake.read("pit/win_rates", partition)):
            low, high = one["interval"]
            contests[one["first"], one["second"], one["judge"]].append(
                f"{one['wins']}/{one['losses']}/{one['ties']}, {one['delta']:+.1%} [{low:+.1%}, {high:+.1%}]"
            )
        decisions.append(home.lake.read("pit/promotion", partition)["reason"][0])
    seeds = ", ".join(map(str, options.seeds))
    lines = [f"| model, mode | correct, seeds {seeds} | helpful | harmless |", "|---|---|---|---|"]
    for name, shares in answers.items():
        cells = [", ".join(f"{one.value:.1%}" for one in found) for found in shares.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    numbers = " | ".join(f"seed {seed}" for seed in options.seeds)
    lines += ["", "Wins/losses/ties and Δ:", "", f"| contest | judge | {numbers} |"]
    lines.append("|---|---|" + "---|" * len(options.seeds))
    for (first, second, judge), found in contests.items():
        name = f"{first} against {second}".replace("_", "-")
        lines.append(f"| {name} | {judge} | {' | '.join(found)} |")
    lines += ["", *(f"- seed {seed}: {why}" for seed, why in zip(options.seeds, decisions, strict=True))]
    command = f"python benchmarks/pit_improvement.py --seeds {' '.join(map(str, options.seeds))}"
    lines += ["", f"{platform.machine()}, {os.cpu_count()} cores. Command: `{command}`"]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(f"# PIT, Self-Refine and Reflexion on the embedded dialogue model\n\n{text}\n")


if __name__ == "__main__":
    main()
