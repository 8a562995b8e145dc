"""What does refining an answer gain without training, what does it cost, and why does it stop?

    python benchmarks/refinement.py --out benchmarks/results/refinement.md

Each way as the experiment `refinement` has it, and with one thing changed, on the held-out prompts of the
embedded dialogue model: the exam of the stage `refinement/evaluation`, for settings that no one experiment
has side by side. `never fine` is Self-Refine that goes on whatever the feedback says.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove_dagster.embedded import DIALOGUE_EVALUATION, DIALOGUE_MODEL
from selfimprove_dagster.families.dialogues.exam import judged
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt, read_held_out_prompts
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken
from selfimprove_dagster.families.dialogues.settings import DialogueEvaluationSection
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Refining, Task, Trajectory
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts

DIALOGUES = load_prompts([PROMPTS], TEXT)

ROUNDS, TOKENS = 4, 48
ARMS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("self-refine", "self_refine", {}),
    ("self-refine, T 0.7", "self_refine", {"temperature": 0.7}),
    ("self-refine, with history", "self_refine", {"history": True}),
    ("self-refine, never fine", "self_refine", {"fine": "never said"}),
    ("reflexion", "reflexion", {}),
    ("reflexion, T 0.7", "reflexion", {"temperature": 0.7}),
    ("reflexion, memory of 1", "reflexion", {"memory": 1}),
    ("reflexion, feedback evaluates", "reflexion", {"evaluator": "feedback"}),
    ("pit", "pit", {}),
    ("pit, T 0.7", "pit", {"temperature": 0.7}),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    section = DialogueEvaluationSection(
        file=str(DIALOGUE_EVALUATION), difficulty_field="kind", max_tokens=TOKENS
    )
    prompts, _ = read_held_out_prompts(section)
    model = open_language_model(DIALOGUE_MODEL)
    greedy = SamplingParameters(temperature=0.0, max_tokens=TOKENS, stop=DIALOGUES.stops("response"))
    read = [model.encode(DIALOGUES.ask("response", **spoken(prompt.question))) for prompt in prompts]
    first = [path for (path,) in model.generate(read, [[0]] * len(read), greedy)]
    cost = sum(len(ids) + len(path.token_ids) for ids, path in zip(read, first, strict=True)) / len(prompts)
    tasks = [Task(one.question, one.question, path.text) for one, path in zip(prompts, first, strict=True)]
    lines = [
        "# Refinement without training",
        "",
        f"`python benchmarks/refinement.py`, {platform.machine()}, {model.engine}, seed {options.seed}, "
        f"{len(prompts)} held-out prompts. Greedy unless it says otherwise. `correct` after each round, 0 "
        "being the first answer; tokens a prompt, read and drawn, of all rounds and the first answer "
        f"({cost:.0f}); `lists`: of the {sum(one.difficulty == 'list' for one in prompts)} prompts that ask "
        "for three things.",
        "",
        "| way | correct by round | helpful | harmless | lists | tokens | why it stopped | seconds |",
        "|---|---|---:|---:|---:|---:|---|---:|",
    ]
    for name, way, changed in ARMS:
        started = time.monotonic()
        settings = Refining(rounds=ROUNDS, max_tokens=TOKENS, **changed)
        refined = improve(model, tasks, way, settings, (options.seed, "evaluation"))
        lines.append(_line(name, prompts, refined, cost, time.monotonic() - started))
        print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


def _line(
    name: str, prompts: Sequence[HeldOutPrompt], refined: Sequence[Trajectory], cost: float, seconds: float
) -> str:
    by_round = [
        [
            judged(asked, one.answer_after(number) or "", name)
            for asked, one in zip(prompts, refined, strict=True)
        ]
        for number in range(ROUNDS + 1)
    ]
    correct = ", ".join(f"{_share(rows, 'correct'):.1%}" for rows in by_round)
    last = by_round[-1]
    lists = [row for row in last if row["difficulty"] == "list"]
    tokens = cost + sum(sum(one.tokens_after(ROUNDS)) for one in refined) / len(refined)
    stopped = ", ".join(
        f"{why} {count}" for why, count in Counter(one.stopped for one in refined).most_common()
    )
    shares = " | ".join(f"{_share(last, aspect):.1%}" for aspect in ("helpful", "harmless"))
    return (
        f"| {name} | {correct} | {shares} | {_share(lists, 'correct'):.1%} | {tokens:.0f} | {stopped} | "
        f"{seconds:.0f} |"
    )


def _share(rows: Sequence[Mapping[str, Any]], aspect: str) -> float:
    return sum(row[aspect] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
