"""Make the embedded tool model, its tokenizer and its pools from nothing.

    python -m selfimprove_dagster.recipes.tool_recipe --out DIR [--seed 0] [--steps N]

writes `DIR/tool_base` and `DIR/pools/tool_*.jsonl`. Two CPU cores are enough. The model reads texts with
calls of the built-in tools at places drawn by lot, and texts after a note of a call and its result. So it can
put calls into a text, not knowing where they help, and can use a result that stands before a text. What helps
is left to Toolformer's filter to find out, and when to call is left to fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from selfimprove_dagster.recipes import tool_world as world
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
from selfimprove_dagster.recipes.tool_texts import (
    FORMS,
    TOOLS,
    annotation_prompt,
    copied_lists,
    easy_texts,
    texts,
)

PIECES = r"\p{N}| (?=\p{N})| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s"
"""Digits stand alone and the space before a number too, so that a number has the same tokens everywhere."""


POOL_SHARES = {
    "arithmetic": 0.5,
    "date": 0.1,
    "fact": 0.1,
    "question": 0.1,
    "translation": 0.1,
    "plain": 0.1,
}


EVALUATION_SHARES = {"arithmetic": 0.5, "date": 0.125, "fact": 0.125, "question": 0.125, "translation": 0.125}


@dataclass(frozen=True)
class ToolRecipe(ModelRecipe):
    """Everything that decides the outcome, of what the shared machinery reads and what this recipe adds."""

    steps: int = 4_300
    copying_steps: int = 700
    easy_steps: int = 700
    late_steps: int = 0
    batch: int = 16
    matrix_learning_rate: float = 0.01
    vocabulary: int = 1_088
    longest: int = 700
    seed_texts: int = 3_000
    evaluation: int = 800
    plain: int = 300


def make(recipe: ToolRecipe, out: Path, progress: Progress) -> dict[str, Any]:
    """Make everything under `out`; returns what is written to `recipe.json`."""
    began = time.monotonic()
    rng = Random(recipe.seed)
    write_pools(recipe, Random(recipe.seed + 1), out / "pools")
    later_steps = recipe.steps - recipe.copying_steps - recipe.easy_steps
    copied = list(islice(copied_lists(rng), recipe.copying_steps * recipe.batch))
    easy = list(islice(easy_texts(rng), recipe.easy_steps * recipe.batch))
    mixed = list(islice(texts(rng), later_steps * recipe.batch * 101 // 100))
    read = ["".join(part for part, _ in text) for text in mixed[:6_000]]
    tokenizer = make_tokenizer(
        recipe, read + [annotation_prompt(tool, "") for tool in TOOLS.values()], PIECES
    )
    model = make_model(recipe, tokenizer)
    groups = batches(recipe, rng, encode_parts(recipe, tokenizer, copied), recipe.copying_steps)
    groups += batches(recipe, rng, encode_parts(recipe, tokenizer, easy), recipe.easy_steps)
    groups += batches(recipe, rng, encode_parts(recipe, tokenizer, mixed), later_steps)
    loss = pretrain(recipe, model, groups, tokenizer.pad_token_id, progress)
    about = {"form_shares": {name: share for name, (_, share) in FORMS.items()}}
    return save(recipe, out / "tool_base", model, tokenizer, groups, loss, began, about)


def write_pools(recipe: ToolRecipe, rng: Random, folder: Path) -> None:
    """Texts to annotate; held-out texts up to what they tell; held-out texts in full."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = distinct_texts(rng, "seeds", shared_out(recipe.seed_texts, POOL_SHARES))
    rng.shuffle(seeds)
    evaluation = distinct_texts(rng, "evaluation", shared_out(recipe.evaluation, EVALUATION_SHARES))
    told = {one.text for one in evaluation}
    plain = distinct_texts(rng, "evaluation", shared_out(recipe.plain, POOL_SHARES), told)
    rng.shuffle(plain)
    held_out = [f"{one.before} {one.answer}".lower() for one in evaluation]
    held_out += [one.text.lower() for one in plain]
    write_lines(
        folder / "tool_texts.jsonl",
        [
            {"text": seed.text, "date": seed.date.isoformat(), "source": seed.kind}
            for seed in seeds
            # Short ones, as of days and months, can stand in a longer one.
            if not any(text in seed.text.lower() for text in held_out)
        ],
    )
    write_lines(
        folder / "tool_evaluation.jsonl",
        [
            {"prompt": one.before, "answer": one.answer, "date": one.date.isoformat(), "kind": one.kind}
            for one in evaluation
        ],
    )
    write_lines(
        folder / "tool_plain.jsonl", [{"text": one.text, "date": one.date.isoformat()} for one in plain]
    )


def distinct_texts(
    rng: Random, split: world.Split, counts: Mapping[str, int], known: Collection[str] = ()
) -> list[world.WorldText]:
    """So many texts of each kind that differ before what they tell, none of which is `known`."""
    found: dict[str, world.WorldText] = {}
    for kind, count in counts.items():
        wanted = len(found) + count
        while len(found) < wanted:
            drawn = world.draw_text(rng, kind, split)
            if drawn.text not in known:
                found.setdefault(drawn.before, drawn)
    return list(found.values())


def shared_out(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of the total each kind has."""
    return {kind: round(total * share) for kind, share in shares.items()}


if __name__ == "__main__":
    command_line("selfimprove_dagster.recipes.tool_recipe", __doc__, ToolRecipe, make, threads=1)
