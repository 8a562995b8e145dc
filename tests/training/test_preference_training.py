"""Direct preference optimisation: soft labels, the margins, the reference, what a killed run leaves."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from kit.training import ENVIRONMENT, cross_entropy, make_comparisons, weights

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.settings import TrainingOutcome

pytestmark = pytest.mark.train

SETTINGS = PreferenceSettings(steps=24, learning_rate=3e-3, batch_size=6, save_every=5, beta=0.5)


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return optimise_preferences(
        base, make_comparisons(), tmp_path_factory.mktemp("trained") / "model", SETTINGS, seed=7
    )


def log_ratios(folder: Path, comparisons: list[Comparison]) -> list[float]:
    """ln p(first | prompt) − ln p(second | prompt), each sequence by itself in float64."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def log_probability(prompt: list[int], completion: list[int]) -> float:
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        return sum(logprobs[len(prompt) + at - 1, token].item() for at, token in enumerate(completion))

    return [
        log_probability(pair.prompt_token_ids, pair.first_token_ids)
        - log_probability(pair.prompt_token_ids, pair.second_token_ids)
        for pair in comparisons
    ]


def test_the_loss_is_that_of_policy_and_reference(base: Path, tmp_path: Path) -> None:
    """At step 1 the two are one, and every margin 0; at step 2 the policy is the model of one step."""
    comparison = dataclasses.replace(make_comparisons(1)[0], probability=0.8)
    two = dataclasses.replace(SETTINGS, steps=2, batch_size=1, schedule="constant")
    outcome = optimise_preferences(base, [comparison], tmp_path / "two", two, seed=0)
    assert outcome.first_loss == pytest.approx(math.log(2), rel=1e-6)
    optimise_preferences(base, [comparison], tmp_path / "one", dataclasses.replace(two, steps=1), seed=0)
    (policy,), (reference,) = (log_ratios(folder, [comparison]) for folder in (tmp_path / "one", base))
    margin = SETTINGS.beta * (policy - reference)
    assert margin > 0.1
    assert outcome.log[-1]["margin"] == pytest.approx(margin, rel=1e-4)
    assert outcome.final_loss == pytest.approx(cross_entropy(margin, 0.8), rel=1e-4)


def test_hard_labels_train_as_trl_does(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import torch
    import trl

    from selfimprove_dagster.training.pair_trainers import SoftPreferenceTrainer

    def theirs(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        positions = torch.arange(inputs["input_ids"].shape[1])
        attention = (positions < inputs["lengths"][:, None]).long()
        first, second = self._reference[inputs["rows"]].T
        plain = {
            "input_ids": inputs["input_ids"],
            "attention_mask": attention,
            "completion_mask": attention * (positions >= inputs["prompt_lengths"][:, None]),
            "ref_chosen_logps": first,
            "ref_rejected_logps": second,
        }
        return trl.DPOTrainer.compute_loss(self, model, plain)

    hard = [dataclasses.replace(pair, probability=1.0) for pair in make_comparisons()]
    settings = dataclasses.replace(SETTINGS, steps=4, gradient_accumulation=2, weight_decay=0.1)
    optimise_preferences(base, hard, tmp_path / "ours", settings, seed=0)
    monkeypatch.setattr(SoftPreferenceTrainer, "compute_loss", theirs)
    monkeypatch.setattr(SoftPreferenceTrainer, "measures", ())
    optimise_preferences(base, hard, tmp_path / "theirs", settings, seed=0)
    found, expected = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")
    )
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)


def test_the_preferred_completion_gains(base: Path, undisturbed: TrainingOutcome) -> None:
    assert undisturbed.final_loss < undisturbed.first_loss
    assert undisturbed.log[-1]["accuracy"] > 0.8
    held_out = make_comparisons(30, seed=6)
    before, after = (log_ratios(folder, held_out) for folder in (base, undisturbed.path))
    gains = [
        (new - old) * (1 if pair.probability > 0.5 else -1)
        for old, new, pair in zip(before, after, held_out, strict=True)
    ]
    assert sum(gain > 0 for gain in gains) > 0.8 * len(gains)


def test_a_higher_beta_and_a_softer_label_keep_it_nearer_to_the_base(base: Path, tmp_path: Path) -> None:
    comparisons = [dataclasses.replace(pair, probability=1.0) for pair in make_comparisons(12)]
    first_ratios = log_ratios(base, comparisons)

    def shift(name: str, beta: float, probability: float) -> float:
        labelled = [dataclasses.replace(pair, probability=probability) for pair in comparisons]
        settings = dataclasses.replace(SETTINGS, beta=beta, steps=30)
        optimise_preferences(base, labelled, tmp_path / name, settings, seed=0)
        ratios = log_ratios(tmp_path / name, comparisons)
        return sum(new - old for new, old in zip(ratios, first_ratios, strict=True)) / len(ratios)

    assert shift("free", 0.1, 1.0) > 1.5 * shift("held", 2.0, 1.0) > 0
    # A label says how far to go: the margin that it asks for is its logit.
    assert shift("soft", 2.0, 0.7) == pytest.approx(math.log(0.7 / 0.3) / 2.0, abs=0.2)


# Again, and after a kill


def test_a_killed_run_goes_on_and_ends_the_same(
    base: Path, tmp_path: Path, undisturbed: TrainingOutcome
) -> None:
    script = f"""
        import os, pathlib, signal
        from training.test_preference_training import SETTINGS, make_comparisons, optimise_preferences
        def on_log(entry):
            if entry["step"] == 13:
                os.kill(os.getpid(), signal.SIGKILL)
        optimise_preferences(
            {str(base)!r}, make_comparisons(), pathlib.Path("model"), SETTINGS, seed=7, on_log=on_log
        )
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    entries: list[dict[str, float]] = []
    outcome = optimise_preferences(
        base, make_comparisons(), tmp_path / "model", SETTINGS, seed=7, on_log=entries.append
    )
    assert entries[0]["step"] == 11
    assert entries[-1]["tokens"] == outcome.tokens == undisturbed.tokens
    assert weights(outcome.path) == weights(undisturbed.path)
    without_times = [[{**row, "seconds": 0} for row in run.log] for run in (outcome, undisturbed)]
    assert without_times[0] == without_times[1]


def test_what_determines_the_model(base: Path, undisturbed: TrainingOutcome) -> None:
    assert optimise_preferences(base, make_comparisons(), undisturbed.path, SETTINGS, seed=7) == undisturbed
    other = dataclasses.replace(SETTINGS, beta=0.4)
    with pytest.raises(TrainingError, match="other settings"):
        optimise_preferences(base, make_comparisons(), undisturbed.path, other, seed=7)


def test_the_folder_is_a_model_beside_the_bases_own_files(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2)
    optimise_preferences(base, make_comparisons(), tmp_path / "model", settings, seed=0)
    assert capfd.readouterr() == ("", "")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "model" / name).exists()
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "model" / "loss.png").read_bytes().startswith(b"\x89PNG")


# What is refused


@pytest.mark.parametrize(
    ("comparisons", "beta", "message"),
    [
        ([], 0.1, "no comparisons"),
        ([Comparison([1, 5], [6], [7], -0.1)], 0.1, r"probability -0\.1"),
        ([Comparison([1, 5], [6], [], 1.0)], 0.1, "second, has no completion"),
        ([Comparison([1, 5], [6], [7], 1.0, [1, 4])], 0.1, "Comparison 0 has two prompts"),
        ([Comparison([1, 5], [6], [7], 1.0)], 0.0, r"beta is 0\.0"),
    ],
)
def test_what_cannot_be_trained_on(
    base: Path, tmp_path: Path, comparisons: list[Comparison], beta: float, message: str
) -> None:
    settings = dataclasses.replace(SETTINGS, beta=beta)
    with pytest.raises(TrainingError, match=message):
        optimise_preferences(base, comparisons, tmp_path / "model", settings, seed=0)
    assert not (tmp_path / "model").exists()
