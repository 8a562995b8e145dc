"""General examples beside a dataset: their share of every batch, and their forms in files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.training import END, SETTINGS, make_examples, weights

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.errors import SeedFileError, TrainingError
from selfimprove_dagster.rows import Unreadable
from selfimprove_dagster.seeds.general import left_out, parse_general, sample_general
from selfimprove_dagster.training.mixing import plan_mixed
from selfimprove_dagster.training.run import plan_batches
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune
from selfimprove_dagster.training.validation import ValidationSettings


@given(
    own=st.integers(1, 40),
    general=st.integers(1, 20),
    share=st.floats(0.05, 0.9),
    steps=st.integers(1, 40),
    batch=st.integers(1, 9),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_batch_has_its_share(
    own: int, general: int, share: float, steps: int, batch: int, accumulation: int, seed: int
) -> None:
    settings = SupervisedSettings(steps, 1e-3, batch, gradient_accumulation=accumulation, mix_share=share)
    lengths = [(index * 7) % 11 + 1 for index in range(own + general)]
    batches = plan_mixed(lengths, general, settings, seed)
    assert [len(one) for one in batches] == [batch] * (steps * accumulation)
    counts = [sum(index >= own for index in one) for one in batches]
    assert all(abs(count - share * batch) < 1 for count in counts)
    assert abs(sum(counts) - share * batch * len(batches)) <= 0.5
    for first, last in ((0, own), (own, own + general)):
        seen = [sum(one.count(index) for one in batches) for index in range(first, last)]
        assert max(seen) - min(seen) <= 1, "shuffled passes"
    assert plan_mixed(lengths, general, settings, seed) == batches


def test_without_general_examples_batches_are_as_they_were() -> None:
    assert plan_mixed([3, 1, 2] * 9, 0, SETTINGS, 5) == plan_batches([3, 1, 2] * 9, SETTINGS, 5)


@pytest.mark.train
def test_general_examples_are_trained_on_and_never_held_out(base: Path, tmp_path: Path) -> None:
    general = [TokenisedExample([], [5 + at, 6, END], general=True) for at in range(5)]
    too_long = TokenisedExample([], [5] * 70, general=True)
    examples = [*make_examples(), *general, too_long]
    settings = SupervisedSettings(
        0, 1e-3, 4, epochs=2.0, mix_share=0.25, validation=ValidationSettings(0.2, 5)
    )
    outcome = fine_tune(base, examples, tmp_path / "mixed", settings, seed=1)
    assert outcome.mixed == [30, 31, 32, 33, 34]
    assert not {*outcome.held_out} & {*range(30, 36)}
    assert [index for index, _ in outcome.left_out] == [35]
    assert outcome.steps == -(-2 * outcome.examples // 3), "three of four examples are the dataset's"
    alone = dataclasses.replace(settings, mix_share=None, steps=outcome.steps, epochs=None)
    fine_tune(base, make_examples(), tmp_path / "alone", alone, seed=1)
    assert weights(tmp_path / "mixed") != weights(tmp_path / "alone")
    determinants = json.loads((tmp_path / "mixed" / "determinants.json").read_text())
    assert determinants["settings"]["mix_share"] == 0.25 and "general" in determinants


@pytest.mark.train
def test_general_examples_alone_are_refused(base: Path, tmp_path: Path) -> None:
    settings = SupervisedSettings(2, 1e-3, 4, mix_share=0.5)
    with pytest.raises(TrainingError, match="general ones alone"):
        fine_tune(base, [TokenisedExample([], [5, END], general=True)], tmp_path / "m", settings, seed=1)


CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": " Hello. "}]


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ("A cat.", None, "A cat."),
        ({"text": "A cat."}, None, "A cat."),
        ({"prompt": "Q: ", "completion": " yes"}, "Q: ", " yes"),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "Add.\n\n1, 2\n", "3"),
        ({"question": "1+1?", "answer": 2}, "1+1?\n", "2"),
        ({"messages": CHAT}, "user: Hi?\n\nassistant: ", "Hello."),
        (
            {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
            "user: Hi?\n\nassistant: ",
            "Hello.",
        ),
        ({"messages": [*CHAT, {"role": "user", "content": "Bye."}]}, "user: Hi?\n\nassistant: ", "Hello."),
    ],
)
def test_forms_of_general_examples(row: Any, prompt: str | None, completion: str) -> None:
    assert parse_general(row, chat=False) == (prompt, completion)
    asked, said = parse_general(row, chat=True)
    assert said == completion.strip()
    if prompt is None:
        assert asked is None
    else:
        assert asked is not None and messages_of(asked)[0].role == "user"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"number": 3}, "the fields are: number"),
        ("", "empty line"),
        ({"text": " "}, "field `text` is empty"),
        ({"prompt": "Q:", "completion": " "}, "field `completion` is empty"),
        (3, "an object is needed"),
        (Unreadable("not JSON", "x"), "not JSON"),
        ({"messages": CHAT[:1]}, "no text of the assistant"),
        ({"prompt": "Q:"}, "the fields are: prompt"),
    ],
)
def test_rows_that_are_no_examples_are_refused(row: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_general(row, chat=False)


def test_a_sample_is_drawn_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("\n".join(f"Line {at}." for at in range(50)))
    first, rejected = sample_general(path, 8, 1, chat=False)
    assert (
        not rejected and len(first) == 8 and [one.line for one in first] == sorted(one.line for one in first)
    )
    assert all(one.completion == f"Line {one.line - 1}." for one in first)
    assert sample_general(path, 8, 1, chat=False)[0] == first != sample_general(path, 8, 2, chat=False)[0]
    assert len(sample_general(path, 500, 1, chat=False)[0]) == 50
    path.write_text("")
    with pytest.raises(SeedFileError, match="it is empty"):
        sample_general(path, 8, 1, chat=False)


def test_lines_that_are_no_examples_are_reported_though_none_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(
        "\n".join(['{"text": "A cat."}', "{broken", "", *['{"foo": 1}'] * 90, '{"text": "A dog."}'])
    )
    found, rejected = sample_general(path, 2, 1, chat=False)
    assert [one.line for one in found] == [1, 94], "only usable lines are drawn"
    said = left_out(path, rejected)
    assert said.startswith(
        "91 lines of general.jsonl are left out, the first: general.jsonl, line 2: not JSON"
    )
