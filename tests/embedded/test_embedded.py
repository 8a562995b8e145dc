"""The embedded base model: grammar, splits, pools, tokenizer, and that the model is weak in the right way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster import embedded
from selfimprove_dagster.embedded import question_hash
from selfimprove_dagster.recipes import grammar

GREEDY_BAND = (0.45, 0.80)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def evaluation() -> list[dict[str, Any]]:
    return read_lines(embedded.EVALUATION)


@pytest.fixture(scope="module")
def seeds() -> list[dict[str, Any]]:
    return read_lines(embedded.SEEDS)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded.BASE_MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(embedded.BASE_MODEL, attn_implementation="eager")


def numbers_of(question: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", question)]


def structure_of(question: str) -> str:
    """The structure read from the words alone, independently of how the grammar made them."""
    start, *changes = re.findall(r"[^.?]*\d[^.?]*", question)
    gains = r"\b(buys|finds|gets|wins|picks up|add|put in|bring|store \d+)\b"
    signed = [numbers_of(c)[0] * (1 if re.search(gains, c) else -1) for c in changes]
    return f"{numbers_of(start)[0]}:" + ",".join(f"{change:+d}" for change in sorted(signed))


problems = st.builds(
    lambda seed, steps: grammar.make_problem(Random(seed), steps), st.integers(0, 2**32), st.integers(2, 5)
)


@given(problems, st.integers(0, 2**32), st.sampled_from([None, *grammar.STYLES]))
def test_every_reasoning_is_right_and_ends_in_the_answer(
    problem: grammar.Problem, seed: int, style: str | None
) -> None:
    reasoning = grammar.make_reasoning(Random(seed), problem, style)
    total = None
    for sentence in reasoning.removesuffix(".").split(". "):
        if sentence in ("Go in order", "Go backwards", "Gains first", "Losses first", "Add up"):
            continue
        if equation := re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", sentence):
            left, sign, right, total = equation.groups()
            assert int(left) + int(sign + right) == int(total)
        elif start := re.fullmatch(r"Start at (\d+)", sentence):
            total = start[1]
        else:
            worded = re.fullmatch(r"(Plus|Minus) (\d+) is (\d+)", sentence)
            assert worded, sentence
            change = int(worded[2]) if worded[1] == "Plus" else -int(worded[2])
            assert total is not None and int(total) + change == int(worded[3])
            total = worded[3]
    assert total == str(problem.answer)
    assert all(number <= grammar.LARGEST_TOTAL for number in numbers_of(reasoning))


@given(problems)
def test_the_words_carry_the_structure(problem: grammar.Problem) -> None:
    assert structure_of(problem.question) == problem.structure
    assert 0 <= problem.answer <= grammar.LARGEST_AMOUNT


@given(problems, st.randoms(use_true_random=False))
def test_split_depends_on_neither_order_nor_words(problem: grammar.Problem, rng: Random) -> None:
    changes = list(problem.changes)
    rng.shuffle(changes)
    twin = grammar.Problem("other words", problem.start, tuple(changes))
    assert grammar.split_of(twin) == grammar.split_of(problem)


def test_the_same_seed_draws_the_same_problems() -> None:
    draws = [
        [grammar.draw_problem(rng, "seeds", (1, 1, 1, 1)) for _ in range(50)]
        for rng in (Random(7), Random(7))
    ]
    assert draws[0] == draws[1]
    assert {grammar.split_of(problem) for problem in draws[0]} == {"seeds"}


def test_one_question_has_several_paths() -> None:
    problem = grammar.Problem("", 14, (9, -5, 3, -2))
    assert len({grammar.make_reasoning(Random(seed), problem) for seed in range(100)}) == len(grammar.STYLES)


def test_question_hash_ignores_case_and_white_space() -> None:
    assert question_hash("Tom has\n 3  pens. ") == question_hash("tom has 3 pens.")
    assert 0 <= question_hash("") < 2**64


def test_document_formats() -> None:
    shown = [("Q1", "R1", 1)]
    documents = [
        grammar.zero_shot_reasoning("Q2", "R2", 2),
        grammar.zero_shot_direct("Q2", 2),
        grammar.few_shot_reasoning(shown, "Q2", "R2", 2),
        grammar.few_shot_direct([("Q1", 1)], "Q2", 2),
    ]
    assert [(document.prompt, document.completion) for document in documents] == [
        ("Q: Q2\nA: Let's think step by step.", " R2 The answer is 2."),
        ("Q: Q2\nA: The answer is", " 2."),
        ("Q: Q1\nA: R1 The answer is 1.\n\nQ: Q2\nA:", " R2 The answer is 2."),
        ("Q: Q1\nA: The answer is 1.\n\nQ: Q2\nA:", " The answer is 2."),
    ]


def test_pools_are_what_they_say(seeds: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> None:
    assert len(seeds) == 12_000
    assert {frozenset(seed) for seed in seeds} == {frozenset({"question"})}
    assert len(evaluation) == 2_000
    for row in evaluation:
        start, changes = structure_of(row["question"]).split(":")
        signed = [int(change) for change in changes.split(",")]
        assert str(int(start) + sum(signed)) == row["answer"]
        assert len(signed) == row["difficulty"]
    demonstrations = read_lines(embedded.DEMONSTRATIONS)
    assert len(demonstrations) == 8
    for row in demonstrations:
        assert row["reasoning"].endswith((f"={row['answer']}.", f" {row['answer']}."))


def test_splits_are_disjoint(seeds: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> None:
    structures = [[structure_of(row["question"]) for row in pool] for pool in (seeds, evaluation)]
    for pool, split in zip(structures, ("seeds", "evaluation"), strict=True):
        assert len(set(pool)) == len(pool)
        for structure in pool[:1000]:
            start, changes = structure.split(":")
            problem = grammar.Problem("", int(start), tuple(int(change) for change in changes.split(",")))
            assert grammar.split_of(problem) == split
    assert not set(structures[0]) & set(structures[1])
    column = pyarrow.parquet.read_table(embedded.PRETRAINING_QUESTIONS)["question_hash"]
    pretraining = set(column.to_pylist())
    asked = {question_hash(row["question"]) for row in (*seeds, *evaluation)}
    assert len(asked) == len(seeds) + len(evaluation)
    assert not asked & pretraining
    shown = {question_hash(row["question"]) for row in read_lines(embedded.DEMONSTRATIONS)}
    assert shown <= pretraining


def test_files_are_small() -> None:
    assert (embedded.BASE_MODEL / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(path.stat().st_size for path in embedded.SEEDS.parent.iterdir()) <= 4_000_000


@given(st.text())
def test_tokenizer_round_trips_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id not in ids or "<|end|>" in text


@pytest.mark.parametrize(
    "text", ["🙂👩‍👩‍👧 né\u0301e", "\x00\x7f\x80\ufffd", "  two  spaces . 7 ", "Ünïcödé ١٢٣ 12.5 .3"]
)
def test_tokenizer_round_trips_odd_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_writes_digits_one_by_one(tokenizer: Any) -> None:
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode(" 14+9=23. 23-5=18.")]
    assert tokens == [" ", "1", "4", "+", "9", "=", "2", "3", ". ", "2", "3", "-", "5", "=", "1", "8", "."]
    words = [token for token in tokenizer.get_vocab() if "<|" not in token]
    assert not [word for word in words if len(word) > 1 and re.search(r"\d", word)]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_model_and_tokenizer_agree(model: Any, tokenizer: Any) -> None:
    assert len(tokenizer) <= model.config.vocab_size
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings >= 1024
    report = json.loads((embedded.BASE_MODEL / "recipe.json").read_text())
    assert model.num_parameters() == report["parameters"]


def test_greedy_answers_are_often_but_not_always_right(
    model: Any, tokenizer: Any, evaluation: list[dict[str, Any]]
) -> None:
    import torch

    rows = sorted(evaluation[:200], key=lambda row: len(row["question"]))
    right = 0
    for i in range(0, len(rows), 50):
        batch = rows[i : i + 50]
        prompts = [grammar.zero_shot_reasoning(row["question"], "", 0).prompt for row in batch]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=False,
                max_new_tokens=80,
            )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for text, row in zip(texts, batch, strict=True):
            right += text.endswith(f"The answer is {row['answer']}.")
    assert GREEDY_BAND[0] <= right / len(rows) <= GREEDY_BAND[1]
