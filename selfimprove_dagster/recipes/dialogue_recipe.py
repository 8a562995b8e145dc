"""Make the embedded dialogue model, its tokenizer and its pools from nothing.

    python -m selfimprove_dagster.recipes.dialogue_recipe --out DIR [--seed 0] [--steps N]

writes `DIR/dialogue_base` and `DIR/pools/dialogue_*.jsonl`. Two CPU cores are enough. The model answers
helpfully and often harmfully, and can go on with critiques, revisions, comparisons and ratings, imperfectly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from selfimprove_dagster.recipes import dialogue_world as world
from selfimprove_dagster.recipes.dialogue_texts import SHARES, draw_mixed, draw_response, easy_texts, texts
from selfimprove_dagster.recipes.dialogue_world import Scene
from selfimprove_dagster.recipes.machinery import (
    ModelRecipe,
    Progress,
    batches,
    command_line,
    encode_parts,
    make_model,
    make_tokenizer,
    pretrain,
    save,
    write_lines,
)
from selfimprove_dagster.recipes.tool_world import Split

PIECES = r" ?\([AB]\)| 10(?!\p{N})| ?\p{N}| ?\p{L}+|\n+| ?[^\s\p{L}\p{N}]|\s"
"""Options and ratings are single tokens, and so is the empty line that ends a turn."""


DEMONSTRATED_RIGHT_SHARE = 0.9


PERSON_RIGHT_SHARE = 0.9


RED_TEAM_SHARE = 0.6


@dataclass(frozen=True)
class DialogueRecipe(ModelRecipe):
    """Everything that decides the outcome, of what the shared machinery reads and what this recipe adds."""

    steps: int = 1_500
    easy_steps: int = 600
    late_steps: int = 0
    matrix_learning_rate: float = 0.01
    vocabulary: int = 1_216
    longest: int = 256
    prompts: int = 2_400
    comparisons: int = 1_800
    evaluation: int = 700


def make(recipe: DialogueRecipe, out: Path, progress: Progress) -> dict[str, Any]:
    """Make everything under `out`; returns what is written to `recipe.json`."""
    began = time.monotonic()
    rng = Random(recipe.seed)
    write_pools(recipe, Random(recipe.seed + 1), out / "pools")
    later_steps = recipe.steps - recipe.easy_steps
    easy = list(islice(easy_texts(rng), recipe.easy_steps * recipe.batch))
    mixed = list(islice(texts(rng), later_steps * recipe.batch * 101 // 100))
    read = ["".join(part for part, _ in text) for text in mixed[:10_000]]
    tokenizer = make_tokenizer(recipe, read, PIECES)
    model = make_model(recipe, tokenizer)
    groups = batches(recipe, rng, encode_parts(recipe, tokenizer, easy), recipe.easy_steps)
    groups += batches(recipe, rng, encode_parts(recipe, tokenizer, mixed), later_steps)
    loss = pretrain(recipe, model, groups, tokenizer.pad_token_id, progress)
    about = {"form_shares": SHARES}
    return save(recipe, out / "dialogue_base", model, tokenizer, groups, loss, began, about)


def write_pools(recipe: DialogueRecipe, rng: Random, folder: Path) -> None:
    """Seed prompts, comparisons made by people, and held-out prompts with what tells a good response and with
    the response that a person liked more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = distinct_scenes(rng, "seeds", recipe.prompts)
    write_lines(folder / "dialogue_prompts.jsonl", [seed_row(rng, scene) for scene in seeds])
    write_lines(
        folder / "dialogue_comparisons.jsonl",
        [comparison_row(rng, scene) for scene in rng.sample(seeds, recipe.comparisons)],
    )
    held_out = distinct_scenes(rng, "evaluation", recipe.evaluation)
    write_lines(
        folder / "dialogue_evaluation.jsonl",
        [
            {
                "prompt": scene.prompt,
                "kind": scene.kind,
                "wanted": scene.task.wanted,
                "unwanted": scene.unwanted,
                "chosen": comparison_row(rng, scene)["chosen"],
            }
            for scene in held_out
        ],
    )


def distinct_scenes(rng: Random, split: Split, count: int) -> list[Scene]:
    """So many scenes of the split with different prompts, as many of each red-team and each helpful kind."""
    red_team = round(RED_TEAM_SHARE * count)
    found: dict[str, Scene] = {}
    while len(found) < count:
        is_red = len(found) < red_team
        kinds = world.RED_TEAM if is_red else world.HELPFUL
        at = len(found) if is_red else len(found) - red_team
        scene = world.draw_scene(rng, kinds[at % len(kinds)], split)
        found.setdefault(scene.prompt, scene)
    scenes = list(found.values())
    rng.shuffle(scenes)
    return scenes


def seed_row(rng: Random, scene: Scene) -> dict[str, Any]:
    """A prompt; a helpful one with a response as a person writes it, mostly right."""
    if scene.red_team:
        return {"prompt": scene.prompt, "kind": "red_team"}
    helpful = rng.random() < DEMONSTRATED_RIGHT_SHARE
    response = world.respond(rng, scene, harmful=False, helpful=helpful)
    return {"prompt": scene.prompt, "kind": "helpful", "response": response.text}


def comparison_row(rng: Random, scene: Scene) -> dict[str, Any]:
    """Two different responses, and which a person likes more, mostly rightly."""
    first, second = draw_response(rng, scene), draw_mixed(rng, scene)
    while first.text == second.text:
        first, second = draw_response(rng, scene), draw_mixed(rng, scene)
    better, worse = sorted((first, second), key=lambda response: response.worth, reverse=True)
    if rng.random() > PERSON_RIGHT_SHARE:
        better, worse = worse, better
    return {"prompt": scene.prompt, "chosen": better.text, "rejected": worse.text}


if __name__ == "__main__":
    command_line("selfimprove_dagster.recipes.dialogue_recipe", __doc__, DialogueRecipe, make, threads=1)
