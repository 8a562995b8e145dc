"""Make the embedded base model, its tokenizer and its pools from nothing.

    python -m selfimprove_dagster.recipes.recipe --out DIR [--seed 0] [--steps N]

writes `DIR/base` and `DIR/pools`. Two CPU cores are enough. The model is weak on purpose, and in a way that a
vote can mend: in the last steps its text reasons backwards more often than forwards, although it is better at
forwards. So the plan that its greedy answer follows is not its best one, as with large models whose likeliest
way to begin is not the way that leads to the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet

from selfimprove_dagster.embedded import question_hash
from selfimprove_dagster.recipes import grammar
from selfimprove_dagster.recipes.grammar import Document, Problem
from selfimprove_dagster.recipes.machinery import (
    Example,
    ModelRecipe,
    Progress,
    batches,
    command_line,
    late_recipe,
    make_model,
    make_tokenizer,
    pretrain,
    save,
    write_lines,
)

# A full stop takes the space before a number with it: one token less a reasoning step. Digits stand alone.
PIECES = r"\p{N}|\.(?: (?=\p{N}))?| ?\p{L}+|[^\s\p{L}\p{N}.]+|\s+"


FORMAT_SHARES = {
    "zero_shot_reasoning": 0.80,
    "zero_shot_direct": 0.05,
    "few_shot_reasoning": 0.11,
    "few_shot_direct": 0.04,
}


LATE_STYLES = {
    "in_order": 0.28,
    "backwards": 0.41,
    "gains_first": 0.06,
    "losses_first": 0.05,
    "grouped": 0.06,
    "worded": 0.14,
}
"""Weights of the reasoning styles in the last steps of training."""


@dataclass(frozen=True)
class Recipe(ModelRecipe):
    """Everything that decides the outcome."""

    prompt_weight: float = 0.2
    questions: int = 30_000
    step_shares: tuple[float, ...] = (0.10, 0.50, 0.32, 0.08)
    pool_step_shares: tuple[float, ...] = (0.02, 0.13, 0.40, 0.45)
    seeds: int = 12_000
    evaluation: int = 2_000
    demonstrations: int = 8


def distinct_problems(
    rng: Random, split: grammar.Split, shares: Sequence[float], count: int
) -> list[Problem]:
    """`count` problems of a split, no two with the same structure or the same question."""
    problems: list[Problem] = []
    seen: set[str | int] = set()
    while len(problems) < count:
        problem = grammar.draw_problem(rng, split, shares)
        keys: set[str | int] = {problem.structure, question_hash(problem.question)}
        if not keys & seen:
            seen |= keys
            problems.append(problem)
    return problems


def documents(
    rng: Random, problems: Sequence[Problem], styles: Mapping[str, float] | None = None
) -> Iterator[Document]:
    """Training documents without end: the problems in turn, each time with a new path and a new format."""
    short = [problem for problem in problems if problem.difficulty <= 3]
    while True:
        for problem in rng.sample(problems, len(problems)):
            kind = rng.choices(list(FORMAT_SHARES), list(FORMAT_SHARES.values()))[0]
            question, answer = problem.question, problem.answer
            reasoning = grammar.make_reasoning(rng, problem, weights=styles)
            shown = rng.sample(short, rng.choice((1, 2)))
            if kind == "zero_shot_reasoning":
                yield grammar.zero_shot_reasoning(question, reasoning, answer)
            elif kind == "zero_shot_direct":
                yield grammar.zero_shot_direct(question, answer)
            elif kind == "few_shot_reasoning":
                examples = [
                    (p.question, grammar.make_reasoning(rng, p, weights=styles), p.answer) for p in shown
                ]
                yield grammar.few_shot_reasoning(examples, question, reasoning, answer)
            else:
                yield grammar.few_shot_direct([(p.question, p.answer) for p in shown], question, answer)


def easy_documents(rng: Random, problems: Sequence[Problem]) -> Iterator[Document]:
    """Problems reasoned in the order of the question: the model first learns to copy and to add."""
    while True:
        for problem in rng.sample(problems, len(problems)):
            reasoning = grammar.make_reasoning(rng, problem, "in_order")
            yield grammar.zero_shot_reasoning(problem.question, reasoning, problem.answer)


def encode(recipe: Recipe, tokenizer: Any, texts: Sequence[Document]) -> list[Example]:
    """Prompt and completion tokenised separately, as everywhere in the project; too long ones are dropped."""
    prompts = tokenizer([text.prompt for text in texts])["input_ids"]
    completions = tokenizer([text.completion for text in texts])["input_ids"]
    end = [tokenizer.eos_token_id]
    pairs = zip(prompts, completions, strict=True)
    examples = [
        (prompt + completion + end, [recipe.prompt_weight] * len(prompt) + [1.0] * (len(completion) + 1))
        for prompt, completion in pairs
    ]
    return [example for example in examples if len(example[0]) <= recipe.longest]


def late_groups(recipe: Recipe, tokenizer: Any, problems: Sequence[Problem]) -> list[list[Example]]:
    """The batches of the last steps, their reasoning in the weights of `LATE_STYLES`."""
    rng = Random(recipe.seed + 2)
    texts = list(islice(documents(rng, problems, LATE_STYLES), recipe.late_steps * recipe.batch * 11 // 10))
    return batches(recipe, rng, encode(recipe, tokenizer, texts), recipe.late_steps)


def write_pools(recipe: Recipe, rng: Random, folder: Path, pretraining: Sequence[Problem]) -> None:
    """Seeds, evaluation questions, demonstrations, and the hashes of the pretraining questions."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = distinct_problems(rng, "seeds", recipe.pool_step_shares, recipe.seeds)
    held_out = distinct_problems(rng, "evaluation", recipe.pool_step_shares, recipe.evaluation)
    short = [problem for problem in pretraining if problem.difficulty <= 3][: recipe.demonstrations]
    write_lines(folder / "seeds.jsonl", [{"question": p.question} for p in seeds])
    write_lines(
        folder / "evaluation.jsonl",
        [{"question": p.question, "answer": str(p.answer), "difficulty": p.difficulty} for p in held_out],
    )
    write_lines(
        folder / "demonstrations.jsonl",
        [
            {"question": p.question, "reasoning": grammar.make_reasoning(rng, p), "answer": str(p.answer)}
            for p in short
        ],
    )
    hashes = pyarrow.array(sorted(question_hash(p.question) for p in pretraining), pyarrow.uint64())
    table = pyarrow.table({"question_hash": hashes})
    pyarrow.parquet.write_table(table, folder / "pretraining_questions.parquet", compression="zstd")


def make(recipe: Recipe, out: Path, progress: Progress) -> dict[str, Any]:
    """Make everything under `out`; returns what is written to `recipe.json`."""
    began = time.monotonic()
    rng = Random(recipe.seed)
    problems = distinct_problems(rng, "pretraining", recipe.step_shares, recipe.questions)
    write_pools(recipe, Random(recipe.seed + 1), out / "pools", problems)
    later_steps = recipe.steps - recipe.easy_steps
    easy = list(islice(easy_documents(rng, problems), recipe.easy_steps * recipe.batch))
    # Documents longer than `longest` fall away, hence the tenth more.
    mixed = list(islice(documents(rng, problems), later_steps * recipe.batch * 11 // 10))
    tokenizer = make_tokenizer(recipe, [text.prompt + text.completion for text in mixed[:10_000]], PIECES)
    model = make_model(recipe, tokenizer)
    groups = batches(recipe, rng, encode(recipe, tokenizer, easy), recipe.easy_steps)
    groups += batches(recipe, rng, encode(recipe, tokenizer, mixed), later_steps)
    pad = tokenizer.pad_token_id
    pretrain(recipe, model, groups, pad, progress)
    late = late_groups(recipe, tokenizer, problems)
    loss = pretrain(
        late_recipe(recipe), model, late, pad, lambda step, value: progress(recipe.steps + step, value)
    )
    groups += late
    about = {"format_shares": FORMAT_SHARES, "late_styles": LATE_STYLES}
    return save(recipe, out / "base", model, tokenizer, groups, loss, began, about)


if __name__ == "__main__":
    command_line("selfimprove_dagster.recipes.recipe", __doc__, Recipe, make, threads=2)
