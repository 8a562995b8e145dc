"""Epochs in place of steps, and examples that are held out to stop early and to choose the weights."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.training import ENVIRONMENT, SETTINGS, completion_loss, make_comparisons, make_examples, weights

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training import jobs
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.reward import RewardModel, RewardSettings, train_reward_model
from selfimprove_dagster.training.rows import write_rows
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune
from selfimprove_dagster.training.validation import (
    ValidationSettings,
    best_step,
    has_lost_patience,
    hold_out,
)

VALIDATED = dataclasses.replace(
    SETTINGS, learning_rate=0.05, steps=60, validation=ValidationSettings(share=0.2, every=4, patience=3)
)
"""A learning rate so high that the held-out loss rises again."""


# Epochs


@pytest.mark.train
def test_epochs_give_the_steps_from_the_examples_that_fit(base: Path, tmp_path: Path) -> None:
    examples = [*make_examples(30), TokenisedExample([1] * 40, [5] * 25)]
    epochs = SupervisedSettings(0, 1e-3, 4, epochs=1.5)
    outcome = fine_tune(base, examples, tmp_path / "epochs", epochs, seed=0)
    assert (outcome.steps, outcome.dropped) == (12, 1), "1.5 · 30 / 4, rounded up"
    steps = SupervisedSettings(12, 1e-3, 4)
    fine_tune(base, examples, tmp_path / "steps", steps, seed=0)
    assert weights(tmp_path / "epochs") == weights(tmp_path / "steps")
    determinants = json.loads((tmp_path / "epochs" / "determinants.json").read_text())
    assert determinants["settings"]["epochs"] == 1.5 and "steps" not in determinants["settings"]


@given(examples=st.integers(1, 500), epochs=st.integers(1, 9), batch=st.integers(1, 16))
def test_whole_epochs_see_every_example(examples: int, epochs: int, batch: int) -> None:
    settings = SupervisedSettings(0, 1e-3, batch, epochs=float(epochs)).planned(examples)
    assert settings.steps * batch >= epochs * examples > (settings.steps - 1) * batch


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SupervisedSettings(3, 1e-3, 4, epochs=1.0), "give one of them"),
        (SupervisedSettings(0, 1e-3, 4), "steps is 0"),
        (SupervisedSettings(0, 1e-3, 4, epochs=-1.0), "epochs is -1"),
        (SupervisedSettings(3, 1e-3, 4, validation=ValidationSettings(1.0, 2)), "validation.share is 1"),
        (SupervisedSettings(3, 1e-3, 4, validation=ValidationSettings(0.1, 0)), "validation.every is 0"),
        (
            SupervisedSettings(3, 1e-3, 4, validation=ValidationSettings(0.1, 2, 0)),
            "validation.patience is 0",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    base: Path, tmp_path: Path, settings: SupervisedSettings, said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        fine_tune(base, make_examples(), tmp_path / "model", settings, seed=0)


# What is held out


@given(
    groups=st.lists(st.integers(0, 12).map(str), min_size=2, max_size=60).filter(lambda g: len({*g}) > 1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_whole_groups_are_held_out(groups: list[str], share: float, seed: int) -> None:
    indexed = dict(enumerate(groups))
    held_out = hold_out(indexed, share, seed)
    out, left = {groups[index] for index in held_out}, {*groups}
    assert out and left - out and [index for index in indexed if groups[index] in out] == held_out
    largest = max(map(groups.count, out))
    assert len(held_out) - largest < share * len(groups), "no group more than the share needs"
    again = dict(reversed([*indexed.items()]))
    assert sorted(hold_out(again, share, seed)) == held_out, "whatever the order"


def test_one_question_cannot_be_divided() -> None:
    with pytest.raises(TrainingError, match="all examples are of one"):
        hold_out({0: "a", 1: "a"}, 0.5, 0)


def test_patience_counts_measurements_that_are_no_better_than_the_best() -> None:
    losses = [(2, 3.0), (4, 2.0), (6, 2.0), (8, 2.5)]
    assert best_step(losses) == 4, "the first of equal ones"
    assert has_lost_patience(losses, 2) and not has_lost_patience(losses, 3)
    assert not has_lost_patience(losses, None) and not has_lost_patience([], 1)


# What it does


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fine_tune(base, make_examples(), tmp_path_factory.mktemp("held") / "model", VALIDATED, seed=7)


@pytest.mark.train
def test_training_stops_early_and_keeps_the_best_weights(undisturbed: Any) -> None:
    losses = undisturbed.validation_losses
    assert has_lost_patience(losses, 3) and not has_lost_patience(losses[:-1], 3)
    assert undisturbed.steps == losses[-1][0] < 60, "stopped"
    assert undisturbed.kept_step == best_step(losses) < undisturbed.steps
    examples, held_out = make_examples(), {*undisturbed.held_out}
    assert len(held_out) >= 6 and undisturbed.examples == len(examples) - len(held_out)
    out = [examples[index] for index in held_out]
    assert not {str(one.prompt_token_ids) for one in out} & {
        str(one.prompt_token_ids) for index, one in enumerate(examples) if index not in held_out
    }
    measured = completion_loss(undisturbed.path, out)
    assert dict(losses)[undisturbed.kept_step] == pytest.approx(measured, rel=1e-5), (
        "the loss of the kept weights"
    )
    assert (undisturbed.path / "loss.png").stat().st_size
    assert not [*undisturbed.path.glob("best*")]


@pytest.mark.train
def test_the_last_weights_are_kept_where_the_best_are_not_asked_for(
    base: Path, tmp_path: Path, undisturbed: Any
) -> None:
    last = dataclasses.replace(VALIDATED, validation=ValidationSettings(0.2, 4, 3, best=False))
    outcome = fine_tune(base, make_examples(), tmp_path / "last", last, seed=7)
    assert outcome.validation_losses == undisturbed.validation_losses and outcome.kept_step is None
    assert weights(outcome.path) != weights(undisturbed.path)
    out = [make_examples()[index] for index in outcome.held_out]
    assert outcome.validation_losses[-1][1] == pytest.approx(completion_loss(outcome.path, out), rel=1e-5)


@pytest.mark.train
def test_the_held_out_examples_change_no_weight(base: Path, tmp_path: Path, undisturbed: Any) -> None:
    """Trained on what is left alone, for the steps whose weights were kept, the model is the same."""
    left = [one for index, one in enumerate(make_examples()) if index not in undisturbed.held_out]
    never = dataclasses.replace(VALIDATED, validation=None, steps=undisturbed.steps)
    fine_tune(base, left, tmp_path / "left", never, seed=7)
    last = dataclasses.replace(
        VALIDATED, validation=ValidationSettings(0.2, 4, best=False), steps=undisturbed.steps
    )
    fine_tune(base, make_examples(), tmp_path / "last", last, seed=7)
    assert weights(tmp_path / "left") == weights(tmp_path / "last")


@pytest.mark.train
@pytest.mark.kill
@pytest.mark.parametrize("step", [5, 13, "stop"])
def test_a_killed_run_makes_the_same_choice(
    base: Path, tmp_path: Path, undisturbed: Any, step: int | str
) -> None:
    at = undisturbed.steps if step == "stop" else step
    script = f"""
        import os, pathlib, signal
        from training.test_validation import VALIDATED, fine_tune, make_examples
        def on_log(entry):
            if entry["step"] >= {at}:
                os.kill(os.getpid(), signal.SIGKILL)
        fine_tune({str(base)!r}, make_examples(), pathlib.Path("model"), VALIDATED, seed=7, on_log=on_log)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    outcome = fine_tune(base, make_examples(), tmp_path / "model", VALIDATED, seed=7)
    assert weights(outcome.path) == weights(undisturbed.path)
    assert (outcome.kept_step, outcome.steps) == (undisturbed.kept_step, undisturbed.steps)
    assert [{**row, "seconds": 0} for row in outcome.log] == [
        {**row, "seconds": 0} for row in undisturbed.log
    ]


@pytest.mark.train
def test_a_job_reads_it_from_plain_data(base: Path, tmp_path: Path, undisturbed: Any) -> None:
    write_rows(tmp_path / "rows", TokenisedExample, make_examples())
    settings = json.loads(json.dumps(dataclasses.asdict(VALIDATED)))
    outcome = jobs.supervised(
        base=str(base), rows=str(tmp_path / "rows"), output=str(tmp_path / "job"), settings=settings, seed=7
    )
    assert weights(outcome.path) == weights(undisturbed.path)


@pytest.mark.train
@pytest.mark.parametrize("kind", ["reward", "preference"])
def test_comparisons_are_held_out_too(base: Path, tmp_path: Path, kind: str) -> None:
    comparisons = make_comparisons()
    how: dict[str, Any] = {
        "steps": 0,
        "epochs": 2.0,
        "learning_rate": 1e-2,
        "batch_size": 4,
        "validation": ValidationSettings(0.3, 2),
    }
    if kind == "reward":
        outcome = train_reward_model(base, comparisons, tmp_path / "m", RewardSettings(**how), seed=3)
    else:
        outcome = optimise_preferences(base, comparisons, tmp_path / "m", PreferenceSettings(**how), seed=3)
    out = [comparisons[index] for index in outcome.held_out]
    assert out and outcome.examples == len(comparisons) - len(out)
    assert outcome.steps == -(-2 * outcome.examples // 4)
    losses = dict(outcome.validation_losses)
    assert [*losses] == sorted({*range(2, outcome.steps + 1, 2), outcome.steps})
    assert outcome.kept_step == best_step(outcome.validation_losses)
    if kind == "reward":
        import math

        judge = RewardModel.open(outcome.path, "cpu")
        found = [
            -(p * math.log(1 / (1 + math.exp(b - a))) + (1 - p) * math.log(1 / (1 + math.exp(a - b))))
            for a, b, p in judge.compare(out)
        ]
        assert losses[outcome.kept_step] == pytest.approx(sum(found) / len(found), rel=1e-4)
