"""Make the embedded task model, its tokenizer and its pools from nothing.

    python -m selfimprove_dagster.recipes.task_recipe --out DIR [--seed 0] [--steps N]

writes `DIR/task_base` and `DIR/pools/task_*.jsonl`. Two CPU cores are enough. The model reads texts in the
forms of Self-Instruct and Unnatural Instructions: lists of tasks, tasks with their labels, tasks with
examples. It can do most tasks of its world when asked in those forms. A bare instruction it has rarely seen
followed by its answer: it more often saw a text go on in another way, as raw text does. So what instruction
tuning has to elicit is there already.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from selfimprove_dagster.recipes import task_grammar as world
from selfimprove_dagster.recipes.machinery import (
    Example,
    ModelRecipe,
    Progress,
    batches,
    command_line,
    encode_parts,
    late_recipe,
    make_model,
    make_tokenizer,
    pretrain,
    save,
    write_lines,
)
from selfimprove_dagster.recipes.task_families import FAMILIES, draw_topic
from selfimprove_dagster.recipes.task_texts import (
    FORMS,
    LATE_FORMS,
    constraints,
    copied_lists,
    easy_texts,
    more_inputs,
    texts,
)

PIECES = r" ?\p{N}| ?\p{L}+|[^\s\p{L}\p{N}]+|\s+"
"""Digits stand alone, the first with the space before it."""


@dataclass(frozen=True)
class TaskRecipe(ModelRecipe):
    """Everything that decides the outcome, of what the shared machinery reads and what this recipe adds."""

    steps: int = 3_300
    copying_steps: int = 900
    easy_steps: int = 700
    matrix_learning_rate: float = 0.01
    late_steps: int = 1_800
    late_rate: float = 0.7
    late_decay_share: float = 0.8
    vocabulary: int = 960
    longest: int = 400
    evaluation: int = 800
    seed_tasks: int = 80
    unnatural_seeds: int = 15


def make(recipe: TaskRecipe, out: Path, progress: Progress) -> dict[str, Any]:
    """Make everything under `out`; returns what is written to `recipe.json`."""
    began = time.monotonic()
    rng = Random(recipe.seed)
    write_pools(recipe, Random(recipe.seed + 1), out / "pools")
    later_steps = recipe.steps - recipe.copying_steps - recipe.easy_steps
    copied = list(islice(copied_lists(rng), recipe.copying_steps * recipe.batch))
    easy = list(islice(easy_texts(rng), recipe.easy_steps * recipe.batch))
    mixed = list(islice(texts(rng), later_steps * recipe.batch * 101 // 100))
    plain = ["".join(part for part, _ in text) for text in mixed[:10_000]]
    tokenizer = make_tokenizer(recipe, plain, PIECES)
    model = make_model(recipe, tokenizer)
    groups = batches(recipe, rng, encode_parts(recipe, tokenizer, copied), recipe.copying_steps)
    groups += batches(recipe, rng, encode_parts(recipe, tokenizer, easy), recipe.easy_steps)
    groups += batches(recipe, rng, encode_parts(recipe, tokenizer, mixed), later_steps)
    pretrain(recipe, model, groups, tokenizer.pad_token_id, progress)
    late = late_groups(recipe, tokenizer)
    loss = pretrain(
        late_recipe(recipe),
        model,
        late,
        tokenizer.pad_token_id,
        lambda step, value: progress(recipe.steps + step, value),
    )
    groups += late
    about = {"form_shares": {name: share for name, (_, share) in FORMS.items()}}
    return save(recipe, out / "task_base", model, tokenizer, groups, loss, began, about)


def late_groups(recipe: TaskRecipe, tokenizer: Any) -> list[list[Example]]:
    """The batches of the last steps, of new texts."""
    rng = Random(recipe.seed + 2)
    fresh = list(islice(texts(rng, LATE_FORMS), recipe.late_steps * recipe.batch * 101 // 100))
    return batches(recipe, rng, encode_parts(recipe, tokenizer, fresh), recipe.late_steps)


def write_pools(recipe: TaskRecipe, rng: Random, folder: Path) -> None:
    """Seed tasks in the published forms, and held-out tasks with their answers."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = []
    for number in range(recipe.seed_tasks):
        topic = draw_topic(rng)
        example = world.draw_example(rng, topic, FAMILIES[number % len(FAMILIES)])
        pairs = [(example.input, example.output), *more_inputs(rng, example, topic)]
        seeds.append(
            {
                "id": f"seed_task_{number}",
                "name": example.asked.family.name,
                "instruction": example.instruction,
                "instances": [{"input": given, "output": output} for given, output in pairs],
                "is_classification": example.asked.family.classifies,
            }
        )
    write_lines(folder / "task_seeds.jsonl", seeds)
    write_lines(
        folder / "task_evaluation.jsonl",
        [
            {
                "instruction": example.instruction,
                "input": example.input,
                "output": example.output,
                "family": example.asked.family.name,
                "difficulty": example.asked.family.group,
            }
            for example in world.distinct_examples(rng, "evaluation", recipe.evaluation)
        ],
    )
    families = rng.sample(FAMILIES, recipe.unnatural_seeds)
    drawn = [world.draw_example(rng, family=family) for family in families]
    write_lines(
        folder / "unnatural_seeds.jsonl",
        [
            {
                "instruction": example.instruction,
                "input": example.input,
                "constraints": constraints(rng, example),
                "output": example.output,
            }
            for example in drawn
        ],
    )


if __name__ == "__main__":
    command_line("selfimprove_dagster.recipes.task_recipe", __doc__, TaskRecipe, make, threads=1)
