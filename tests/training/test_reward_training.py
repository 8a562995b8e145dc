"""Reward models: soft labels, what they learn, what a killed run leaves, what they read."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.training import BAD, END, ENVIRONMENT, GOOD, cross_entropy, make_comparisons, weights

from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.pit.pit import GAP_TERMS, KINDS, gap_loss
from selfimprove_dagster.training.comparisons import Comparison, hash_comparisons, tokenise_comparisons
from selfimprove_dagster.training.reward import RewardModel, RewardSettings, agreement, train_reward_model
from selfimprove_dagster.training.settings import TrainingOutcome

pytestmark = pytest.mark.train

SETTINGS = RewardSettings(steps=24, learning_rate=3e-3, batch_size=6, save_every=5)


def accuracy(model: RewardModel, comparisons: list[Comparison]) -> float:
    return agreement(model.compare(comparisons))


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return train_reward_model(
        base, make_comparisons(), tmp_path_factory.mktemp("trained") / "model", SETTINGS, seed=7
    )


# The loss


@given(margin=st.floats(-30, 30), probability=st.floats(0, 1))
def test_the_loss_is_the_cross_entropy_of_the_label(margin: float, probability: float) -> None:
    import torch

    from selfimprove_dagster.training.pair_trainers import soft_label_loss

    margins, labels = (torch.tensor([value], dtype=torch.float64) for value in (margin, probability))
    loss = soft_label_loss(margins, labels).item()
    assert loss == pytest.approx(cross_entropy(margin, probability), rel=1e-9, abs=1e-12)
    # The same said from the other side, and never less than what the label itself leaves open.
    assert loss == pytest.approx(soft_label_loss(-margins, 1 - labels).item(), rel=1e-9, abs=1e-12)
    entropy = -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)
    assert loss >= entropy - 1e-9


def test_the_first_loss_is_that_of_the_models_own_rewards(base: Path, tmp_path: Path) -> None:
    """Rewards one by one through transformers' own forward pass, without padding."""
    import torch
    import transformers

    comparisons = make_comparisons(12)
    comparisons[0] = dataclasses.replace(comparisons[0], second_prompt_token_ids=[1, 9, 9, 9])
    settings = RewardSettings(steps=1, learning_rate=1e-9, batch_size=4, gradient_accumulation=3)
    outcome = train_reward_model(base, comparisons, tmp_path / "model", settings, seed=3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float64
    )
    expected = 0.0
    for comparison in comparisons:
        first, second = (
            model(torch.tensor([prompt + completion])).logits.item()
            for prompt, completion in zip(comparison.prompts, comparison.completions, strict=True)
        )
        expected += cross_entropy(first - second, comparison.probability) / len(comparisons)
    assert outcome.first_loss == pytest.approx(expected, rel=1e-5)


def test_hard_labels_train_as_trl_does(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import torch
    import trl

    from selfimprove_dagster.training.pair_trainers import SoftRewardTrainer

    def theirs(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        lengths = inputs["lengths"][:, None]
        positions = torch.arange(inputs["input_ids"].shape[1])
        plain = {"input_ids": inputs["input_ids"], "attention_mask": (positions < lengths).long()}
        return trl.RewardTrainer.compute_loss(self, model, plain)

    hard = [dataclasses.replace(pair, probability=1.0) for pair in make_comparisons()]
    settings = dataclasses.replace(SETTINGS, steps=4, gradient_accumulation=2, weight_decay=0.1)
    train_reward_model(base, hard, tmp_path / "ours", settings, seed=0)
    monkeypatch.setattr(SoftRewardTrainer, "compute_loss", theirs)
    train_reward_model(base, hard, tmp_path / "theirs", settings, seed=0)
    found, expected = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")
    )
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)


# What is learnt


def test_it_learns_what_is_preferred(undisturbed: TrainingOutcome) -> None:
    assert undisturbed.final_loss < undisturbed.first_loss
    assert undisturbed.log[-1]["accuracy"] > 0.9
    assert undisturbed.log[0]["step"] == 1
    model = RewardModel.open(undisturbed.path, "cpu")
    held_out = make_comparisons(60, seed=6)
    assert accuracy(model, held_out) > 0.9
    assert accuracy(model, [dataclasses.replace(pair, probability=0.5) for pair in held_out]) == 0.5
    flipped = [dataclasses.replace(pair, probability=1 - pair.probability) for pair in held_out]
    assert accuracy(model, flipped) == pytest.approx(1 - accuracy(model, held_out))
    assert math.isnan(accuracy(model, []))


def test_a_reward_can_depend_on_a_prompt_of_its_own(base: Path, tmp_path: Path) -> None:
    """The same completion is better after a prompt with GOOD: only the prompts tell the sides apart."""
    chooser = random.Random(0)
    comparisons = []
    for _ in range(40):
        completion = [chooser.randrange(3, 30) for _ in range(4)] + [END]
        good, bad = ([1, token, chooser.randrange(3, 30)] for token in (GOOD, BAD))
        comparisons.append(Comparison(good, completion, completion, 1.0, second_prompt_token_ids=bad))
    settings = dataclasses.replace(SETTINGS, steps=40)
    train_reward_model(base, comparisons, tmp_path / "model", settings, seed=0)
    assert accuracy(RewardModel.open(tmp_path / "model", "cpu"), comparisons) > 0.9


def test_the_trainer_adds_up_the_five_terms_of_a_pairs_gap_loss(base: Path, tmp_path: Path) -> None:
    """PIT's reward of a response against a reference, before a step that moves it by nothing to speak of."""
    said = {"w": [GOOD, 5, END], "l": [BAD, 6, 7, END]}
    asked = {name: [1, 9, *said[name]] for name in said}

    def side(kind: str) -> tuple[list[int], list[int]]:
        response, reference = kind.split(",")
        return asked[reference], said[response]

    terms = []
    for above, below in GAP_TERMS:
        (prompt, first), (other_prompt, second) = side(above), side(below)
        terms.append(Comparison(prompt, first, second, 0.9, second_prompt_token_ids=other_prompt))
    settings = RewardSettings(steps=1, learning_rate=1e-12, batch_size=len(terms))
    trained = train_reward_model(base, terms, tmp_path / "model", settings, seed=3)
    model = RewardModel.open(trained.path, "cpu")
    rewards = {kind: model.score([prompt], [text])[0] for kind in KINDS for prompt, text in [side(kind)]}
    assert len({round(reward, 6) for reward in rewards.values()}) == 4, "the four gaps are told apart"
    assert trained.first_loss * len(terms) == pytest.approx(gap_loss(rewards, 0.9), rel=1e-4)


def test_rewards_do_not_depend_on_the_rows_around(
    undisturbed: TrainingOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfimprove_dagster.training import reward

    model = RewardModel.open(undisturbed.path, "cpu")
    pairs = make_comparisons(20)
    prompts, completions = [c.prompt_token_ids for c in pairs], [c.first_token_ids for c in pairs]
    together = model.score(prompts, completions)
    alone = [model.score([p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    monkeypatch.setattr(reward, "_BATCH_TOKENS", 40)
    assert model.score(prompts, completions) == pytest.approx(alone, abs=1e-5)
    assert model.score([], []) == []
    fits, too_long = model.score([[1], [1]], [[5], [5] * 64])
    assert fits == pytest.approx(model.score([[1]], [[5]])[0], abs=1e-5) and math.isnan(too_long)
    with pytest.raises(ModelError, match="sequence 1 has no token"):
        model.score([[1], []], [[5], []])


def test_texts_become_comparisons_as_they_become_examples() -> None:
    from selfimprove_dagster.embedded import BASE_MODEL
    from selfimprove_dagster.training.tokenising import tokenise_examples

    rows = [("Q: one?", " yes", " no", 0.25), ("Q: two?", " a", " b", 1.0)]
    found = [*tokenise_comparisons(BASE_MODEL, rows, TEXT)]
    first = [*tokenise_examples(BASE_MODEL, [(row[0], row[1]) for row in rows], TEXT)]
    second = [*tokenise_examples(BASE_MODEL, [(row[0], row[2]) for row in rows], TEXT)]
    for comparison, one, two, row in zip(found, first, second, rows, strict=True):
        assert comparison == Comparison(
            one.prompt_token_ids, one.completion_token_ids, two.completion_token_ids, row[3]
        )
    assert [*tokenise_comparisons(BASE_MODEL, [], TEXT)] == []


# Again, and after a kill


def test_a_killed_run_goes_on_and_ends_the_same(
    base: Path, tmp_path: Path, undisturbed: TrainingOutcome
) -> None:
    script = f"""
        import os, pathlib, signal
        from training.test_reward_training import SETTINGS, make_comparisons, train_reward_model
        def on_log(entry):
            if entry["step"] == 13:
                os.kill(os.getpid(), signal.SIGKILL)
        train_reward_model(
            {str(base)!r}, make_comparisons(), pathlib.Path("model"), SETTINGS, seed=7, on_log=on_log
        )
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    steps: list[float] = []
    outcome = train_reward_model(
        base,
        make_comparisons(),
        tmp_path / "model",
        SETTINGS,
        seed=7,
        on_log=lambda entry: steps.append(entry["step"]),
    )
    assert steps[0] == 11
    assert weights(outcome.path) == weights(undisturbed.path)
    without_times = [[{**row, "seconds": 0} for row in run.log] for run in (outcome, undisturbed)]
    assert without_times[0] == without_times[1]
    assert not (tmp_path / "model.partial").exists()


def test_what_determines_the_model(base: Path, undisturbed: TrainingOutcome) -> None:
    saved_more_often = dataclasses.replace(SETTINGS, save_every=3)
    again = train_reward_model(base, make_comparisons(), undisturbed.path, saved_more_often, seed=7)
    assert again == undisturbed
    with pytest.raises(TrainingError, match="other seed"):
        train_reward_model(base, make_comparisons(), undisturbed.path, SETTINGS, seed=8)
    softer = [dataclasses.replace(make_comparisons()[0], probability=0.6), *make_comparisons()[1:]]
    with pytest.raises(TrainingError, match="other comparisons"):
        train_reward_model(base, softer, undisturbed.path, SETTINGS, seed=7)
    pair = Comparison([1], [5, END], [6, END], 1)
    assert hash_comparisons([pair]) == hash_comparisons([dataclasses.replace(pair, probability=1.0)])
    assert hash_comparisons([pair]) != hash_comparisons([dataclasses.replace(pair, probability=0.5)])


# What it leaves


def test_the_folder_is_a_reward_model(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from selfimprove_dagster.language_model.weights import weights_hash

    train_reward_model(
        base, make_comparisons(), tmp_path / "model", dataclasses.replace(SETTINGS, steps=2), seed=0
    )
    model = RewardModel.open(tmp_path / "model", "cpu")
    assert capfd.readouterr() == ("", "")
    assert model.model_id == weights_hash(tmp_path / "model")
    model.close()
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "determinants.json",
        "loss.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.json",
    }
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["dtype"] == "float32"
    assert config.get("pad_token_id") is None


def test_a_language_model_is_not_a_reward_model(base: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reward model: it has no score\.weight"):
        RewardModel.open(base, "cpu")
    with pytest.raises(ModelError, match="no model at"):
        RewardModel.open("/nowhere", "cpu")


# What is refused


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        ([], "no comparisons"),
        ([Comparison([1, 5], [], [6], 1.0)], "Comparison 0, first, has no completion"),
        ([Comparison([1, 5], [6], [], 1.0)], "Comparison 0, second, has no completion"),
        ([Comparison([1, 5], [6], [600], 1.0)], "second, has token id 600; the model's vocabulary has 259"),
        ([Comparison([1, 5], [6], [7], 1.0, [-1])], "second, has token id -1"),
        ([Comparison([1, 5], [6], [7], 1.2)], r"probability 1\.2; it must lie between 0 and 1"),
        ([Comparison([1, 5], [6], [7], math.nan)], "probability nan"),
        (
            [Comparison([1] * 70, [END], [6], 1.0)],
            "nothing to train on: 1 comparisons are longer than 64 tokens",
        ),
    ],
)
def test_comparisons_that_cannot_be_trained_on(
    base: Path, tmp_path: Path, comparisons: list[Comparison], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_reward_model(base, comparisons, tmp_path / "model", SETTINGS, seed=0)
    assert not (tmp_path / "model").exists()


def test_comparisons_too_long_are_dropped_and_counted(base: Path, tmp_path: Path) -> None:
    long = Comparison([1] * 40, [5] * 25, [6], 1.0)
    outcome = train_reward_model(
        base,
        [*make_comparisons(5), long],
        tmp_path / "model",
        dataclasses.replace(SETTINGS, steps=1),
        seed=0,
    )
    assert (outcome.examples, outcome.dropped) == (5, 1)
    ((index, problem),) = outcome.left_out
    assert (index, problem) == (5, "too_long: 65 tokens, and training takes at most 64 of an example")
