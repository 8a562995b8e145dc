"""Training of adapters: what is trained and against what, what a killed run leaves, and how the next goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.adapters import logits
from kit.training import (
    ENVIRONMENT,
    PROMPTS,
    Interrupted,
    completion_loss,
    interrupt_at,
    make_comparisons,
    make_examples,
    share_wanted,
)

from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.training import adapter_settings
from selfimprove_dagster.training.adapter_settings import AdapterSettings
from selfimprove_dagster.training.adapters import write_merged
from selfimprove_dagster.training.policy import PolicyOutcome, PolicySettings, optimise_policy
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.reward import RewardModel, RewardSettings, train_reward_model
from selfimprove_dagster.training.rollouts import read_rollouts
from selfimprove_dagster.training.settings import TrainingOutcome
from selfimprove_dagster.training.supervised import SupervisedSettings, fine_tune

pytestmark = pytest.mark.train

ADAPTER = AdapterSettings(rank=8, alpha=16, dropout=0.1)
PLAIN = dataclasses.replace(ADAPTER, dropout=0.0)
SETTINGS = SupervisedSettings(steps=12, learning_rate=3e-3, batch_size=4, save_every=5, adapter=ADAPTER)
REWARD = RewardSettings(steps=12, learning_rate=1e-2, batch_size=8, save_every=5, adapter=ADAPTER)
PREFERENCES = PreferenceSettings(steps=12, learning_rate=1e-2, batch_size=8, save_every=5, adapter=ADAPTER)
POLICY = PolicySettings(
    steps=12,
    learning_rate=3e-2,
    batch_size=16,
    group_size=4,
    max_completion_tokens=8,
    beta=0.02,
    save_every=5,
    schedule="constant",
    adapter=PLAIN,
)
COMPARISONS = make_comparisons()

Trains = Callable[..., TrainingOutcome]


def supervised(base: Path, output: Path, settings: Any = SETTINGS, **more: Any) -> TrainingOutcome:
    return fine_tune(base, make_examples(), output, settings, seed=7, **more)


def reward(base: Path, output: Path, settings: Any = REWARD, **more: Any) -> TrainingOutcome:
    return train_reward_model(base, COMPARISONS, output, settings, seed=7, **more)


def preferences(base: Path, output: Path, settings: Any = PREFERENCES, **more: Any) -> TrainingOutcome:
    return optimise_preferences(base, COMPARISONS, output, settings, seed=7, **more)


def grpo(base: Path, output: Path, settings: Any = POLICY, **more: Any) -> PolicyOutcome:
    return optimise_policy(base, PROMPTS, share_wanted, output, settings, reward_id="share", seed=7, **more)


def rloo(base: Path, output: Path, settings: Any = POLICY, **more: Any) -> PolicyOutcome:
    return grpo(base, output, dataclasses.replace(settings, algorithm="rloo"), **more)


KINDS: dict[str, tuple[Trains, Any]] = {
    "supervised": (supervised, SETTINGS),
    "reward": (reward, REWARD),
    "preferences": (preferences, PREFERENCES),
    "grpo": (grpo, POLICY),
    "rloo": (rloo, POLICY),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def with_adapter(settings: Any, **changes: Any) -> Any:
    return dataclasses.replace(settings, adapter=dataclasses.replace(settings.adapter, **changes))


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says something else than its base."""
    settings = with_adapter(dataclasses.replace(SETTINGS, steps=30, schedule="constant"), dropout=0.0)
    return supervised(base, tmp_path_factory.mktemp("trained") / "model", settings).path


# ---- what is trained ---------------------------------------------------------------------------------


@kinds
def test_only_the_adapter_is_trained_and_saved(kind: str, base: Path, tmp_path: Path) -> None:
    trains, settings = KINDS[kind]
    outcome = trains(base, tmp_path / "model", dataclasses.replace(settings, steps=2))
    files = {path.name for path in outcome.path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} <= files
    assert {"determinants.json", "training_log.json", "loss.png", "generation_config.json"} - files <= (
        {"generation_config.json"} if kind == "reward" else set()
    )
    assert "model.safetensors" not in files
    assert "README.md" not in files
    names = tensors(outcome.path)
    own = {name for name in names if "lora_" not in name}
    assert own == ({"base_model.model.score.weight"} if kind == "reward" else set())
    assert any(names[name].abs().max() > 0 for name in names if "lora_B" in name)
    config = config_of(outcome.path)
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    determinants = json.loads((outcome.path / "determinants.json").read_text())
    assert determinants["adapter_over"] == determinants["base"] == model_id(base)
    assert determinants["settings"]["adapter"]["rank"] == 8
    if kind != "reward":
        assert (outcome.path / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_the_first_step_is_that_of_the_base_and_it_learns(base: Path, tmp_path: Path) -> None:
    examples = make_examples(12)
    settings = SupervisedSettings(steps=1, learning_rate=3e-3, batch_size=12, adapter=PLAIN)
    outcome = fine_tune(base, examples, tmp_path / "one", settings, seed=0)
    assert outcome.first_loss == pytest.approx(completion_loss(base, examples), rel=1e-5)
    longer = fine_tune(base, examples, tmp_path / "more", dataclasses.replace(settings, steps=40), seed=0)
    assert longer.final_loss < longer.first_loss - 0.02


def test_named_targets_alone_have_an_adapter(base: Path, tmp_path: Path) -> None:
    settings = with_adapter(dataclasses.replace(SETTINGS, steps=1), targets=("q_proj", "v_proj"))
    outcome = supervised(base, tmp_path / "model", settings)
    assert {name.split(".")[-3] for name in tensors(outcome.path)} == {"q_proj", "v_proj"}
    assert supervised(base, tmp_path / "model", settings) == outcome  # finished already


def test_targets_that_the_model_lacks_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no_such_layer"):
        supervised(base, tmp_path / "model", with_adapter(SETTINGS, targets=("no_such_layer",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 0}, r"adapter\.rank is 0"),
        ({"alpha": 0}, r"adapter\.alpha is 0"),
        ({"dropout": 1.0}, r"adapter\.dropout is 1"),
        ({"targets": ()}, r"adapter\.targets is \[\]"),
        ({"targets": "q_proj"}, r"adapter\.targets is 'q_proj'"),
        ({"targets": ("lm_head",)}, "lm_head, (and .* has no such layer|a layer of the vocabulary)"),
        ({"rank": 4_000}, r"adapter\.rank is 4000, more than the \d+ rows or columns of .*: choose at most"),
        ({"start": "again"}, r"adapter\.start is 'again'"),
        ({"quantise": "3bit"}, r"adapter\.quantise is '3bit'"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        supervised(base, tmp_path / "model", with_adapter(SETTINGS, **changes))


def test_a_policy_is_trained_without_dropout(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"adapter\.dropout is 0\.1"):
        grpo(base, tmp_path / "model", with_adapter(POLICY, dropout=0.1))


@pytest.mark.parametrize("kind", ["supervised", "reward", "preferences"])
def test_dropout_is_applied_and_alike_again(kind: str, base: Path, tmp_path: Path) -> None:
    trains, settings = KINDS[kind]
    short = dataclasses.replace(settings, steps=4)
    first, again = (model_id(trains(base, tmp_path / name, short).path) for name in ("a", "b"))
    assert first == again
    without = trains(base, tmp_path / "without", with_adapter(short, dropout=0.0)).path
    wet, dry = tensors(tmp_path / "a"), tensors(without)
    assert any((wet[name] - dry[name]).abs().max() > 1e-4 for name in wet)


# ---- again after a kill ------------------------------------------------------------------------------


@kinds
def test_an_interrupted_run_goes_on_and_ends_the_same(kind: str, base: Path, tmp_path: Path) -> None:
    trains, settings = KINDS[kind]
    undisturbed = trains(base, tmp_path / "undisturbed", settings)
    with pytest.raises(Interrupted):
        trains(base, tmp_path / "model", settings, on_log=interrupt_at(8))
    steps: list[float] = []
    outcome = trains(base, tmp_path / "model", settings, on_log=lambda entry: steps.append(entry["step"]))
    assert steps[0] == 6
    one, other = (folder / "adapter_model.safetensors" for folder in (outcome.path, undisturbed.path))
    assert one.read_bytes() == other.read_bytes()
    assert model_id(outcome.path) == model_id(undisturbed.path)
    if isinstance(outcome, PolicyOutcome) and isinstance(undisturbed, PolicyOutcome):
        assert read_rollouts(outcome.rollouts) == read_rollouts(undisturbed.rollouts)


def test_a_killed_run_goes_on_with_the_dropout_of_an_undisturbed_one(base: Path, tmp_path: Path) -> None:
    script = f"""
        import os, pathlib, signal
        from training.test_adapter_training import supervised
        def on_log(entry):
            if entry["step"] == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        supervised(pathlib.Path({str(base)!r}), pathlib.Path("model"), on_log=on_log)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "model.partial" / "checkpoints" / "checkpoint-5" / "complete").exists()
    outcome = supervised(base, tmp_path / "model")
    undisturbed = supervised(base, tmp_path / "undisturbed")
    assert model_id(outcome.path) == model_id(undisturbed.path)


# ---- the reference -----------------------------------------------------------------------------------


def log_probability(model: Any, prompt: list[int], completion: list[int]) -> float:
    found = logits(model, prompt + completion).log_softmax(-1)
    return sum(found[len(prompt) + place - 1, token].item() for place, token in enumerate(completion))


def test_preferences_are_compared_with_the_base_without_the_adapter(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    one_batch = dataclasses.replace(
        PREFERENCES, steps=1, batch_size=len(COMPARISONS), max_length=60, adapter=PLAIN
    )
    fresh = preferences(base, tmp_path / "fresh", one_batch)
    assert fresh.first_loss == pytest.approx(math.log(2), abs=1e-6)
    policy = AutoPeftModelForCausalLM.from_pretrained(str(trained)).eval()

    def ratio(prompt: list[int], completion: list[int]) -> float:
        with policy.disable_adapter():
            reference = log_probability(policy, prompt, completion)
        return log_probability(policy, prompt, completion) - reference

    margins = [
        one_batch.beta
        * (
            ratio(one.prompt_token_ids, one.first_token_ids)
            - ratio(one.prompt_token_ids, one.second_token_ids)
        )
        for one in COMPARISONS
    ]
    outcome = preferences(trained, tmp_path / "continued", one_batch)
    assert max(map(abs, margins)) > 1e-3
    assert outcome.log[0]["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-5)


@pytest.mark.parametrize("trains", [grpo, rloo])
def test_the_kl_of_a_policy_is_that_to_the_base_without_the_adapter(
    base: Path, trained: Path, tmp_path: Path, trains: Trains
) -> None:
    from peft import AutoPeftModelForCausalLM

    one_step = dataclasses.replace(POLICY, steps=1)
    fresh = trains(base, tmp_path / "fresh", one_step)
    assert fresh.log[0]["kl"] == pytest.approx(0, abs=1e-6)
    outcome = trains(trained, tmp_path / "continued", one_step)
    assert isinstance(outcome, PolicyOutcome)
    policy = AutoPeftModelForCausalLM.from_pretrained(str(trained)).eval()
    estimates: list[float] = []
    for rollout in read_rollouts(outcome.rollouts):
        ids = rollout.prompt_token_ids + rollout.completion_token_ids
        start = len(rollout.prompt_token_ids)
        found = logits(policy, ids).log_softmax(-1)
        with policy.disable_adapter():
            reference = logits(policy, ids).log_softmax(-1)
        differences = [
            (reference[place - 1, ids[place]] - found[place - 1, ids[place]]).item()
            for place in range(start, len(ids))
        ]
        estimates += [math.exp(one) - one - 1 if trains is grpo else -one for one in differences]
    expected = sum(estimates) / len(estimates)
    assert abs(expected) > 1e-4
    # GRPO takes the mean of each completion first.
    assert outcome.log[0]["kl"] == pytest.approx(expected, rel=0.1 if trains is grpo else 1e-3)


def test_completions_come_from_the_adapter_at_its_step(base: Path, tmp_path: Path) -> None:
    """Those of step 2 are what the engine draws from the adapter that one step made."""
    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
    from selfimprove_dagster.lots import seed_of

    strong = dataclasses.replace(with_adapter(POLICY, alpha=256), steps=2, save_every=1)
    two = grpo(base, tmp_path / "two", strong)
    with pytest.raises(Interrupted):
        grpo(base, tmp_path / "one", strong, on_log=interrupt_at(2))
    checkpoint = tmp_path / "one.partial" / "checkpoints" / "checkpoint-1"
    after_one = Path(shutil.copytree(two.path, tmp_path / "after_one"))
    shutil.copyfile(checkpoint / "adapter_model.safetensors", after_one / "adapter_model.safetensors")
    own = [rollout for rollout in read_rollouts(two.rollouts) if rollout.step == 2]
    size = POLICY.group_size
    prompts = [rollout.prompt_token_ids for rollout in own[::size]]
    seeds = [
        [seed_of("rollout", 7, 2, group, sample) for sample in range(size)] for group in range(len(prompts))
    ]

    def drawn(folder: Path) -> list[list[int]]:
        model = TransformersLanguageModel(folder, device="cpu")
        parameters = SamplingParameters(max_tokens=POLICY.max_completion_tokens)
        return [one.token_ids for group in model.generate(prompts, seeds, parameters) for one in group]

    found = [rollout.completion_token_ids for rollout in own]
    assert drawn(after_one) == found
    assert drawn(base) != found


# ---- a reward model's head ---------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["base", "adapter"])
def test_a_reward_model_is_opened_with_its_head(over: str, base: Path, trained: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    start = base if over == "base" else trained
    outcome = reward(start, tmp_path / "model", with_adapter(REWARD, dropout=0.0))
    assert outcome.log[-1]["accuracy"] > 0.9
    model = RewardModel.open(outcome.path, "cpu")
    assert model.model_id == model_id(outcome.path)
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(str(outcome.path), num_labels=1).eval()
    one = COMPARISONS[0]
    prompt, completion = one.prompt_token_ids, one.first_token_ids
    inner = theirs.get_base_model()
    import torch

    with torch.no_grad():
        hidden = inner.base_model(input_ids=torch.tensor([prompt + completion])).last_hidden_state
        expected = inner.score(hidden[0, -1]).item()
    assert model.score([prompt], [completion])[0] == pytest.approx(expected, abs=1e-4)


def test_an_adapter_without_a_head_is_no_reward_model(trained: Path) -> None:
    with pytest.raises(ModelError, match="holds no reward model"):
        RewardModel.open(trained, "cpu")


# ---- the next iteration ------------------------------------------------------------------------------


def test_training_goes_on_with_the_same_adapter(base: Path, trained: Path, tmp_path: Path) -> None:
    outcome = supervised(trained, tmp_path / "second", dataclasses.replace(SETTINGS, steps=2))
    config = config_of(outcome.path)
    assert config["base_model_name_or_path"] == str(base)
    assert config["lora_dropout"] == 0.1
    determinants = json.loads((outcome.path / "determinants.json").read_text())
    assert determinants["base"] == model_id(trained)
    assert determinants["adapter_over"] == model_id(base)
    before, after = tensors(trained), tensors(outcome.path)
    assert before.keys() == after.keys()
    assert 0 < max((before[name] - after[name]).abs().max().item() for name in before) < 0.02


def test_a_new_adapter_is_trained_over_the_merged_base(base: Path, trained: Path, tmp_path: Path) -> None:
    examples = make_examples(12)
    settings = SupervisedSettings(
        steps=1, learning_rate=1e-3, batch_size=12, adapter=dataclasses.replace(PLAIN, rank=2, start="merge")
    )
    outcome = fine_tune(trained, examples, tmp_path / "second", settings, seed=0)
    merged = trained.with_name(f"{trained.name}.merged-float32")
    assert config_of(outcome.path)["base_model_name_or_path"] == str(merged)
    determinants = json.loads((outcome.path / "determinants.json").read_text())
    assert determinants["base"] == model_id(trained)
    assert determinants["adapter_over"] == model_id(merged)
    assert outcome.first_loss == pytest.approx(completion_loss(merged, examples), rel=1e-5)
    assert abs(outcome.first_loss - completion_loss(base, examples)) > 1e-3
    written = (merged / "model.safetensors").stat().st_mtime_ns
    fine_tune(trained, examples, tmp_path / "third", settings, seed=1)
    assert (merged / "model.safetensors").stat().st_mtime_ns == written


def test_all_weights_are_trained_from_base_and_adapter_together(trained: Path, tmp_path: Path) -> None:
    examples = make_examples(12)
    settings = SupervisedSettings(steps=2, learning_rate=1e-3, batch_size=12)
    write_merged(trained, tmp_path / "merged", dtype="float32", trust_remote_code=False)
    one, other = (
        fine_tune(start, examples, tmp_path / name, settings, seed=0)
        for start, name in ((trained, "of_adapter"), (tmp_path / "merged", "of_merged"))
    )
    assert one.first_loss == other.first_loss
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()
    assert not (one.path / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 4}, r"adapter\.rank is 4, and training starts from the adapter .*, which has 8\. Set"),
        ({"alpha": 8}, r"adapter\.alpha is 8, .* which has 16"),
        ({"targets": ("q_proj",)}, r"adapter\.targets is q_proj, .* which has all-linear"),
    ],
)
def test_another_adapter_than_the_one_before_is_an_error(
    trained: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        supervised(trained, tmp_path / "model", with_adapter(SETTINGS, **changes))


def test_an_adapter_merged_computes_what_it_does(trained: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    write_merged(trained, tmp_path / "merged", dtype="float32", trust_remote_code=False)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(trained)).eval()
    ids = [1, *range(40, 60)]
    assert (logits(whole, ids) - logits(theirs, ids)).abs().max() < 1e-4
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


# ---- QLoRA -------------------------------------------------------------------------------------------


@kinds
def test_an_adapter_is_trained_over_a_base_in_4_bits(kind: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    trains, settings = KINDS[kind]
    short = dataclasses.replace(settings, steps=4, save_every=2)
    quantised = with_adapter(short, quantise="4bit")
    outcome = trains(base, tmp_path / "model", quantised)
    names = tensors(outcome.path)
    assert {str(one.dtype) for one in names.values()} == {"torch.float32"}
    assert any(names[name].abs().max() > 0 for name in names if "lora_B" in name)
    assert config_of(outcome.path)["base_model_name_or_path"] == str(base)
    assert "quantization_config" not in json.loads((outcome.path / "config.json").read_text())
    plain = trains(base, tmp_path / "plain", short)
    if kind in ("supervised", "reward"):
        assert outcome.first_loss != plain.first_loss
    with pytest.raises(Interrupted):
        trains(base, tmp_path / "again", quantised, on_log=interrupt_at(3))
    again = trains(base, tmp_path / "again", quantised)
    assert model_id(again.path) == model_id(outcome.path)


def test_quantising_without_bitsandbytes_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_settings, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"install the extra `selfimprove_dagster\[memory\]`"):
        supervised(base, tmp_path / "model", with_adapter(SETTINGS, quantise="4bit"))


def test_no_adapter_is_trained_over_weights_that_are_stored_quantised(base: Path, tmp_path: Path) -> None:
    stored = Path(shutil.copytree(base, tmp_path / "stored"))
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "awq"}})
    )
    with pytest.raises(
        TrainingError, match=r"stored quantised \(awq\), so an adapter over it could not be merged"
    ):
        supervised(stored, tmp_path / "model")
