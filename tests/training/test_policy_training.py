"""Policy optimisation: the planted reward rises, β holds it back, each rollout is kept, and once."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.training import END, ENVIRONMENT, PROMPTS, share_wanted, weights

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training import policy, vllm_rollouts
from selfimprove_dagster.training.policy import PolicyOutcome, PolicySettings, optimise_policy
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.rollouts import Rollout, RolloutFiles, read_rollouts
from selfimprove_dagster.training.vllm_rollouts import VllmRollouts, check_rollouts

pytestmark = pytest.mark.train

SETTINGS = PolicySettings(
    steps=12,
    learning_rate=1e-2,
    batch_size=16,
    group_size=4,
    max_completion_tokens=8,
    beta=0.02,
    save_every=5,
)


def train(
    base: Path, output: Path, settings: PolicySettings = SETTINGS, seed: int = 7, **more: Any
) -> PolicyOutcome:
    return optimise_policy(
        base, PROMPTS, share_wanted, output, settings, reward_id="share", seed=seed, **more
    )


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> PolicyOutcome:
    return train(base, tmp_path_factory.mktemp("trained") / "model")


# What is learnt


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reward_rises_and_beta_holds_the_policy_near_the_base(
    base: Path, tmp_path: Path, algorithm: Literal["grpo", "rloo"]
) -> None:
    longer = dataclasses.replace(
        SETTINGS, algorithm=algorithm, steps=25, batch_size=32, learning_rate=2e-2, schedule="constant"
    )
    free, held = (
        train(base, tmp_path / name, dataclasses.replace(longer, beta=beta))
        for name, beta in (("free", 0.001), ("held", 1.0))
    )
    assert free.first_reward == held.first_reward
    assert free.final_reward > free.first_reward + 0.3
    assert held.final_reward < free.final_reward
    assert held.log[-1]["kl"] < free.log[-1]["kl"] / 2
    assert abs(free.log[0]["kl"]) < 1e-5


def test_completions_come_from_the_policy_at_its_step(base: Path, tmp_path: Path) -> None:
    """The engine draws the same from the base, given the same seeds, as the policy at step 1."""
    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
    from selfimprove_dagster.lots import seed_of

    outcome = train(base, tmp_path / "model", dataclasses.replace(SETTINGS, steps=2))
    rollouts = read_rollouts(outcome.rollouts)
    model = TransformersLanguageModel(base, device="cpu")
    parameters = SamplingParameters(max_tokens=SETTINGS.max_completion_tokens)

    def drawn_from_the_base(step: int) -> bool:
        own = [rollout for rollout in rollouts if rollout.step == step]
        size = SETTINGS.group_size
        prompts = [rollout.prompt_token_ids for rollout in own[::size]]
        seeds = [
            [seed_of("rollout", 7, step, group, sample) for sample in range(size)]
            for group in range(len(prompts))
        ]
        again = model.generate(prompts, seeds, parameters)
        return [one.token_ids for group in again for one in group] == [
            rollout.completion_token_ids for rollout in own
        ]

    assert drawn_from_the_base(1)
    assert not drawn_from_the_base(2)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_trains_as_trl_does(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Literal["grpo", "rloo"],
    temperature: float,
) -> None:
    """The same completions, with TRL's own log-probabilities."""
    import safetensors.torch
    import torch

    from selfimprove_dagster.training.resumable_trainer import ResumableTrainer

    settings = dataclasses.replace(
        SETTINGS,
        steps=2,
        learning_rate=1e-3,
        gradient_accumulation=2,
        algorithm=algorithm,
        temperature=temperature,
        beta=0.5,
    )
    ours = train(base, tmp_path / "ours", settings)
    monkeypatch.setattr(ResumableTrainer, "is_lean", False)
    theirs = train(base, tmp_path / "theirs", settings)
    assert [r.completion_token_ids for r in read_rollouts(ours.rollouts)] == [
        r.completion_token_ids for r in read_rollouts(theirs.rollouts)
    ]
    found, expected = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")
    )
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-3)
    assert ours.log[-1]["kl"] == pytest.approx(theirs.log[-1]["kl"], rel=1e-2, abs=1e-5)
    assert ours.log[-1]["entropy"] == pytest.approx(theirs.log[-1]["entropy"], rel=1e-3)


# Rollouts


def test_every_rollout_is_kept(undisturbed: PolicyOutcome) -> None:
    rollouts = read_rollouts(undisturbed.rollouts)
    assert len(rollouts) == SETTINGS.steps * SETTINGS.batch_size
    assert [rollout.step for rollout in rollouts] == sorted(rollout.step for rollout in rollouts)
    for start in range(0, len(rollouts), SETTINGS.group_size):
        group = rollouts[start : start + SETTINGS.group_size]
        assert len({(rollout.step, rollout.prompt) for rollout in group}) == 1
        assert [rollout.sample for rollout in group] == list(range(SETTINGS.group_size))
        rewards = [rollout.reward for rollout in group]
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
        for rollout in group:
            assert rollout.prompt_token_ids == PROMPTS[rollout.prompt].token_ids
            assert 1 <= len(rollout.completion_token_ids) <= SETTINGS.max_completion_tokens
            assert END not in rollout.completion_token_ids[:-1]
            assert [rollout.reward] == share_wanted([], [rollout.completion_token_ids])
            advantage = (rollout.reward - mean) / (deviation + 1e-4)
            assert rollout.advantage == pytest.approx(advantage, abs=1e-3)
    per_prompt = [sum(rollout.prompt == index for rollout in rollouts) for index in range(len(PROMPTS))]
    assert max(per_prompt) - min(per_prompt) <= SETTINGS.group_size
    lengths = [len(r.prompt_token_ids) + len(r.completion_token_ids) for r in rollouts]
    assert undisturbed.tokens == sum(lengths)
    last = [rollout.reward for rollout in rollouts if rollout.step == SETTINGS.steps]
    assert undisturbed.final_reward == pytest.approx(sum(last) / len(last))


def test_a_killed_run_goes_on_to_the_same_weights_and_rollouts(base: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, stop=["z", "\n\n"], turn_end=9)
    undisturbed = train(base, tmp_path / "undisturbed", settings)
    script = f"""
        import dataclasses, os, pathlib, signal
        from training.test_policy_training import SETTINGS, train
        settings = dataclasses.replace(SETTINGS, stop=["z", "\\n\\n"], turn_end=9)
        def on_rollouts(rollouts):
            if rollouts[0].step == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        train(pathlib.Path({str(base)!r}), pathlib.Path("model"), settings, on_rollouts=on_rollouts)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    # What a kill between the rollouts' file and the checkpoint's mark leaves.
    parts = tmp_path / "model.partial" / "rollouts"
    (parts / "through-00000010.parquet").write_bytes((parts / "through-00000005.parquet").read_bytes())
    (parts / "through-00000010.tmp").write_bytes(b"half")

    seen: list[Rollout] = []
    outcome = train(base, tmp_path / "model", settings, on_rollouts=seen.extend)
    assert seen[0].step == 6
    assert weights(outcome.path) == weights(undisturbed.path)
    assert read_rollouts(outcome.rollouts) == read_rollouts(undisturbed.rollouts)
    without_times = [[{**row, "seconds": 0} for row in run.log] for run in (outcome, undisturbed)]
    assert without_times[0] == without_times[1]
    assert outcome.tokens == undisturbed.tokens
    assert not (tmp_path / "model.partial").exists()


LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def test_a_stop_string_ends_what_is_trained_on_and_what_is_rewarded(base: Path, tmp_path: Path) -> None:
    from selfimprove_dagster.language_model.stopping import cut_at
    from selfimprove_dagster.language_model.tokens import TokenText

    rewarded: list[list[int]] = []

    def reward(_: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
        rewarded.extend(completions)
        return [float(len(one)) for one in completions]

    one_step = dataclasses.replace(SETTINGS, steps=1)
    free = read_rollouts(train(base, tmp_path / "free", one_step).rollouts)
    settings = dataclasses.replace(one_step, stop=LETTERS)
    outcome = optimise_policy(
        base, PROMPTS, reward, tmp_path / "stopped", settings, reward_id="length", seed=7
    )
    stopped = read_rollouts(outcome.rollouts)
    text, cut = TokenText(base), 0
    for one, whole, said in zip(stopped, free, rewarded, strict=True):
        ids = one.completion_token_ids
        assert ids == whole.completion_token_ids[: len(ids)]
        assert one.reward == len(said)
        ends = [index for index, token in enumerate(ids) if text.decode([token]) in LETTERS]
        if not ends:
            assert ids == whole.completion_token_ids == said, "it ended by itself"
            continue
        assert ends == [len(ids) - 1], "nothing is drawn after a stop string, whose tokens are trained on"
        before = cut_at(text.decode(ids), LETTERS)
        assert said == [*text.encode_continuation(before), END]
        cut += 1
    assert 0 < cut < len(stopped)
    unfinished = sum(
        len(one.completion_token_ids) == 8 and one.completion_token_ids == said and said[-1] != END
        for one, said in zip(stopped, rewarded, strict=True)
    )
    assert outcome.log[0]["unfinished"] == pytest.approx(unfinished / len(stopped))


def test_the_token_that_ends_a_turn_ends_a_completion(base: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=1, max_completion_tokens=40)
    free = read_rollouts(train(base, tmp_path / "free", settings).rollouts)
    turn_end = free[0].completion_token_ids[3]
    ended = dataclasses.replace(settings, turn_end=turn_end)
    for one, whole in zip(read_rollouts(train(base, tmp_path / "ended", ended).rollouts), free, strict=True):
        ids = whole.completion_token_ids
        at = ids.index(turn_end) + 1 if turn_end in ids else len(ids)
        assert one.completion_token_ids == ids[:at]


@given(
    steps=st.integers(1, 12),
    save_every=st.integers(1, 5),
    kills=st.lists(st.integers(1, 12), max_size=4),
)
def test_whatever_the_kills_each_rollout_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: int, save_every: int, kills: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("rollouts")
    saved = 0
    for last in [*kills, steps]:
        files = RolloutFiles(folder / "parts", saved)
        for step in range(saved + 1, min(last, steps) + 1):
            files.add([Rollout(step, 0, 0, [1], [2], 0.5, 0.0)])
            if step % save_every == 0 and step < steps:
                files.commit(step)
                saved = step
    files.write(folder / "all.parquet")
    assert [rollout.step for rollout in read_rollouts(folder / "all.parquet")] == list(range(1, steps + 1))


def test_what_determines_the_policy(base: Path, undisturbed: PolicyOutcome) -> None:
    saved_more_often = dataclasses.replace(SETTINGS, save_every=2)
    assert train(base, undisturbed.path, saved_more_often) == undisturbed
    with pytest.raises(TrainingError, match="other reward"):
        optimise_policy(base, PROMPTS, share_wanted, undisturbed.path, SETTINGS, reward_id="another", seed=7)
    with pytest.raises(TrainingError, match="other settings"):
        train(base, undisturbed.path, dataclasses.replace(SETTINGS, stop=("\n\n",)))
    with pytest.raises(TrainingError, match="other prompts"):
        optimise_policy(
            base, PROMPTS[1:], share_wanted, undisturbed.path, SETTINGS, reward_id="share", seed=7
        )


# What it leaves


def test_the_folder_is_a_model(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2, beta=0.0)
    outcome = train(base, tmp_path / "model", settings)
    assert capfd.readouterr() == ("", "")
    assert "kl" not in outcome.log[0]
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "determinants.json",
        "generation_config.json",
        "loss.png",
        "model.safetensors",
        "reward.png",
        "rollouts.parquet",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.json",
    }
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "model" / name).exists()
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "ppo"}, "must be grpo or rloo"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"group_size": 1}, "group_size is 1"),
        ({"group_size": 3}, "16; it must be a multiple of group_size, 3"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"max_completion_tokens": 0}, "max_completion_tokens is 0"),
        ({"max_completion_tokens": 63}, "None of the 7 prompts can be trained on.*may have 1 tokens"),
        ({"steps": 0}, "steps is 0"),
        ({"rollouts": VllmRollouts()}, "rollouts asks for vLLM.*runs on a CPU: leave it out"),
    ],
)
def test_settings_out_of_range(base: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(base, tmp_path / "model", dataclasses.replace(SETTINGS, **change))


@pytest.mark.parametrize(
    ("rollouts", "algorithm", "processes", "message"),
    [
        (VllmRollouts(), "rloo", 1, "which rloo does not correct for"),
        (VllmRollouts(gpu_memory=1.0), "grpo", 1, "gpu_memory is 1.0"),
        (VllmRollouts(tensor_parallel=2), "grpo", 3, "it must divide launch.processes, 3"),
        (VllmRollouts(), "grpo", 1, "install the extra `selfimprove_dagster"),
        (None, "rloo", 1, ""),
    ],
)
def test_rollouts_of_vllm_that_cannot_be_had_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    rollouts: VllmRollouts | None,
    algorithm: str,
    processes: int,
    message: str,
) -> None:
    monkeypatch.setattr(vllm_rollouts, "find_spec", lambda package: None)
    with pytest.raises(TrainingError, match=message) if message else nullcontext():
        check_rollouts(rollouts, algorithm=algorithm, on_cpu=False, processes=processes)


def test_vllm_gets_what_the_policy_is_asked_and_its_completions_are_read_like_the_decoders(
    base: Path,
) -> None:
    """Only the settings are vLLM's; what stands for it here gives fixed completions."""
    import transformers
    from trl import GRPOConfig

    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.language_model.tokens import TokenText
    from selfimprove_dagster.training.policy_trainer import VllmSampler

    how = dataclasses.replace(SETTINGS, rollouts=VllmRollouts(0.4, 2), stop=("!",), turn_end=7)
    asked = policy.vllm_arguments(how, 32)
    arguments = GRPOConfig(output_dir="none", use_cpu=True, bf16=False, **asked)
    assert (arguments.use_vllm, arguments.vllm_mode) == (True, "colocate")
    assert (arguments.vllm_gpu_memory_utilization, arguments.vllm_tensor_parallel_size) == (0.4, 2)
    assert arguments.vllm_max_model_length == 32
    assert arguments.generation_kwargs == {"stop": ["!"], "stop_token_ids": [7]}
    assert policy.vllm_arguments(SETTINGS, 32) == {}

    text = TokenText(base)
    ended, stopped, cut = (
        [*text.encode_continuations(["ab"])[0], END],
        *text.encode_continuations(["ac", "abd"]),
    )

    class Fixed:
        synced = 0

        def sync_weights(self) -> None:
            self.synced += 1

        def generate(self, prompts: list[list[int]], images: None, each: int) -> Any:
            assert (prompts, each) == ([PROMPTS[0].token_ids] * 2 + [PROMPTS[1].token_ids], 1)
            completions = [ended, stopped, cut]
            return prompts, completions, [[[-0.5] for _ in one] for one in completions], None

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    parameters = SamplingParameters(1.0, max_tokens=3, stop=("c",))
    sampler = VllmSampler(model, [END], parameters, text, END)
    sampler.generation = Fixed()
    drawn = sampler.draw([PROMPTS[0].token_ids, PROMPTS[1].token_ids], [[1, 2], [3]])
    assert [(one.row.prompt, one.row.sample, one.finish_reason) for one in drawn] == [
        (0, 0, "stop"),
        (0, 1, "stop"),
        (1, 0, "length"),
    ]
    assert [one.token_ids for one in drawn] == [ended, stopped, cut]
    assert drawn[0].logprobs == [-0.5] * len(ended)
    before_stop = text.decode(stopped).partition("c")[0]
    assert sampler.said(drawn) == [ended, [*text.encode_continuations([before_stop])[0], END], cut]
    assert sampler.generation.synced == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([[1], []], "Prompt 1 is empty"),
        ([[1, 259]], "Prompt 0 has token id 259; the model's vocabulary has 259"),
    ],
)
def test_prompts_that_cannot_be_trained_on(
    base: Path, tmp_path: Path, prompts: list[list[int]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        asked = [TokenisedPrompt(ids) for ids in prompts]
        optimise_policy(base, asked, share_wanted, tmp_path / "m", SETTINGS, reward_id="share", seed=0)


def test_a_completion_without_a_reward_is_neither_reinforced_nor_discouraged(
    base: Path, tmp_path: Path
) -> None:
    def some(prompts: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
        given = share_wanted(prompts, completions)
        return [math.nan if number % SETTINGS.group_size == 0 else one for number, one in enumerate(given)]

    one_step = dataclasses.replace(SETTINGS, steps=1)
    outcome = optimise_policy(base, PROMPTS, some, tmp_path / "m", one_step, reward_id="some", seed=0)
    rollouts = read_rollouts(outcome.rollouts)
    without = [one for one in rollouts if math.isnan(one.reward)]
    assert [one.sample for one in without] == [0] * (len(rollouts) // SETTINGS.group_size)
    assert [one.advantage for one in without] == pytest.approx([0.0] * len(without), abs=1e-6)
    assert any(abs(one.advantage) > 0.01 for one in rollouts)


def test_prompts_without_room_are_left_out_and_named(base: Path, tmp_path: Path) -> None:
    long = TokenisedPrompt([1] * 60)
    one_step = dataclasses.replace(SETTINGS, steps=1)
    outcome = optimise_policy(
        base, [PROMPTS[0], long], share_wanted, tmp_path / "m", one_step, reward_id="share", seed=0
    )
    ((index, problem),) = outcome.left_out
    assert (outcome.examples, outcome.dropped, index) == (1, 1, 1)
    assert problem.startswith("too_long: the prompt has 60 tokens, and training has room for ")


@pytest.mark.parametrize(
    ("rewards", "message"),
    [([1.0], "1 values for 16 completions"), ([math.nan] * 16, "not finite at step 1")],
)
def test_a_reward_that_is_none(base: Path, tmp_path: Path, rewards: list[float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        optimise_policy(base, PROMPTS, lambda *_: rewards, tmp_path / "m", SETTINGS, reward_id="none", seed=0)
    assert not (tmp_path / "m").exists()
