"""Trainings in less memory: the same losses and gradients, what is refused, and what is advised when it runs out."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.training import END, ENVIRONMENT, make_comparisons, weights

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.adapter_settings import AdapterSettings
from selfimprove_dagster.training.memory import MemorySettings
from selfimprove_dagster.training.packing import pack
from selfimprove_dagster.training.policy import PolicySettings, optimise_policy
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.reward import RewardSettings, train_reward_model
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.settings import TrainingOutcome, TrainingSettings
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune

pytestmark = pytest.mark.train

STEPS = {"steps": 4, "learning_rate": 3e-3, "batch_size": 4, "gradient_accumulation": 2}
ALL_LOGITS = {"logits": None}


def make_examples(count: int = 30) -> list[TokenisedExample]:
    """Prompts of random bytes, the first of which is empty; completions of four to nine tokens."""
    chooser = random.Random(5)
    examples = [TokenisedExample([], [1, 7, 8, END])]
    for _ in range(count - 1):
        prompt = [1] + [chooser.randrange(3, 30) for _ in range(chooser.randint(2, 12))]
        examples.append(TokenisedExample(prompt, [prompt[-1]] * chooser.randint(4, 9) + [END]))
    return examples


def supervised(base: Path, output: Path, memory: MemorySettings | None, **more: Any) -> TrainingOutcome:
    settings = SupervisedSettings(**{**STEPS, **more}, memory=memory)
    return fine_tune(base, make_examples(), output, settings, seed=3)


def reward(base: Path, output: Path, memory: MemorySettings | None, **more: Any) -> TrainingOutcome:
    settings = RewardSettings(**{**STEPS, **more}, memory=memory)
    return train_reward_model(base, make_comparisons(), output, settings, seed=3)


def preference(base: Path, output: Path, memory: MemorySettings | None, **more: Any) -> TrainingOutcome:
    settings = PreferenceSettings(**{**STEPS, **more}, memory=memory, beta=0.5)
    return optimise_preferences(base, make_comparisons(), output, settings, seed=3)


def _policy(algorithm: Any) -> Callable[..., TrainingOutcome]:
    def train(base: Path, output: Path, memory: MemorySettings | None, **more: Any) -> TrainingOutcome:
        settings = PolicySettings(
            **{**STEPS, **more},
            memory=memory,
            algorithm=algorithm,
            group_size=4,
            max_completion_tokens=8,
            temperature=0.9,
        )
        prompts = [TokenisedPrompt([1, *range(3 + index, 6 + 2 * index)]) for index in range(7)]
        return optimise_policy(
            base,
            prompts,
            lambda _, said: [float(len(one)) for one in said],
            output,
            settings,
            reward_id="l",
            seed=3,
        )

    return train


KINDS: dict[str, Callable[..., TrainingOutcome]] = {
    "supervised": supervised,
    "reward": reward,
    "preference": preference,
    "grpo": _policy("grpo"),
    "rloo": _policy("rloo"),
}


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingOutcome]:
    """A training of each kind without memory settings."""
    folder = tmp_path_factory.mktemp("plain")
    return {kind: train(base, folder / kind, None) for kind, train in KINDS.items()}


def of_log(outcome: TrainingOutcome, *names: str) -> list[list[float]]:
    return [[entry[name] for name in names] for entry in outcome.log]


# The same losses and gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "memory",
    [
        MemorySettings(checkpointing=True, logits=None),
        MemorySettings(logits=3),
        MemorySettings(checkpointing=True),
    ],
    ids=["checkpointing", "logits", "both"],
)
def test_losses_and_gradients_stay_the_same(
    base: Path, tmp_path: Path, plain: dict[str, TrainingOutcome], kind: str, memory: MemorySettings
) -> None:
    found = KINDS[kind](base, tmp_path / "model", memory)
    assert of_log(found, "loss") == [
        pytest.approx(one, rel=1e-5, abs=1e-6) for one in of_log(plain[kind], "loss")
    ]
    names = ["grad_norm", *(["entropy"] if kind in ("grpo", "rloo") else [])]
    assert of_log(found, *names) == [pytest.approx(one, rel=1e-4) for one in of_log(plain[kind], *names)]


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_computes_each_layer_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    calls = {"with gradients": 0}
    forward = LlamaMLP.forward

    def counted(self: Any, x: Any) -> Any:
        calls["with gradients"] += torch.is_grad_enabled()
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    counts = []
    for name, memory in (("one", None), ("two", MemorySettings(checkpointing=True, logits=None))):
        calls["with gradients"] = 0
        KINDS[kind](base, tmp_path / name, memory, steps=1, gradient_accumulation=1)
        counts.append(calls["with gradients"])
    assert counts[1] == 2 * counts[0] > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reward"])
def test_no_more_logits_than_asked_for_are_computed_at_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    most = {"rows": 0}
    forward = torch.nn.Linear.forward

    def watched(self: Any, x: Any) -> Any:
        if self.out_features == 259 and torch.is_grad_enabled():
            most["rows"] = max(most["rows"], x.shape[:-1].numel())
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    KINDS[kind](base, tmp_path / "three", MemorySettings(logits=3), steps=1)
    assert most["rows"] == 3
    KINDS[kind](base, tmp_path / "all", None, steps=1)
    assert most["rows"] > 3


def test_what_a_model_does_to_its_logits_is_done_in_chunks_too() -> None:
    import transformers

    from selfimprove_dagster.training.chunked_logits import IGNORED, chunk_logits

    small = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    configs = [
        transformers.Gemma2Config(**small, **heads, final_logit_softcapping=0.5),
        transformers.CohereConfig(**small, num_attention_heads=2, logit_scale=3.0),
        transformers.GraniteConfig(**small, num_attention_heads=2, logits_scaling=4.0),
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2),
    ]
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 9))
    labels = ids.masked_fill(torch.rand(2, 9) < 0.4, IGNORED)
    for config in configs:
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        expected = model(ids).logits[:, :-1].div(0.7).log_softmax(-1)
        targets = labels[:, 1:]
        own = expected.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1) * (targets != IGNORED)
        (expected_gradient,) = torch.autograd.grad(own.sum(), model.get_input_embeddings().weight)
        chunk_logits(model, 2)
        found = model(input_ids=ids, labels=labels, in_chunks=True, temperature=0.7, with_entropy=True)
        torch.testing.assert_close(found.log_probs, own, atol=1e-5, rtol=1e-5)
        entropies = -(expected.exp() * expected).sum(-1) * (targets != IGNORED)
        torch.testing.assert_close(found.entropy, entropies, atol=1e-5, rtol=1e-5)
        (gradient,) = torch.autograd.grad(found.log_probs.sum(), model.get_input_embeddings().weight)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


# Packing


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_rows_hold_all_examples_once_and_no_more_than_fits(lengths: list[int]) -> None:
    rows = pack(lengths, 30)
    assert sorted(index for row in rows for index in row) == [*range(len(lengths))]
    assert all(sum(lengths[index] for index in row) <= 30 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 30) + 6 / 9 or max(lengths) > 10


@pytest.mark.parametrize("logits", [None, 5])
def test_packed_rows_have_the_losses_and_gradients_of_unpacked_ones(
    base: Path, tmp_path: Path, plain: dict[str, TrainingOutcome], logits: int | None
) -> None:
    packed = supervised(base, tmp_path / "packed", MemorySettings(packing=True, logits=logits))
    for one, other in zip(
        of_log(packed, "loss", "grad_norm"), of_log(plain["supervised"], "loss", "grad_norm"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-5)
    assert packed.tokens == plain["supervised"].tokens


def test_fewer_rows_go_through_the_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfimprove_dagster.training.completion_trainer import PackingCollator

    shapes = []
    collate = PackingCollator.__call__

    def watched(self: Any, rows: Any) -> Any:
        batch = collate(self, rows)
        shapes.append(tuple(batch["input_ids"].shape))
        return batch

    monkeypatch.setattr(PackingCollator, "__call__", watched)
    supervised(base, tmp_path / "packed", MemorySettings(packing=True), batch_size=6)
    assert shapes and all(rows < 6 and width <= 64 for rows, width in shapes)
    assert any(rows == 1 or width > 40 for rows, width in shapes)


LEAKS = {
    "positions go on": lambda batch: {
        **batch,
        "position_ids": torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]),
    },
    "no positions": lambda batch: {key: value for key, value in batch.items() if key != "position_ids"},
    "a first token is predicted": lambda batch: {
        **batch,
        "labels": batch["labels"].where(batch["position_ids"] != 0, batch["input_ids"]),
    },
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_between_examples_changes_the_loss(
    base: Path,
    tmp_path: Path,
    plain: dict[str, TrainingOutcome],
    monkeypatch: pytest.MonkeyPatch,
    leak: Callable[[Any], Any],
) -> None:
    """What the test of packed rows compares would see these mistakes."""
    from selfimprove_dagster.training.completion_trainer import PackingCollator

    collate = PackingCollator.__call__
    monkeypatch.setattr(PackingCollator, "__call__", lambda self, rows: leak(collate(self, rows)))
    packed = supervised(base, tmp_path / "leaking", MemorySettings(packing=True))
    assert abs(packed.first_loss / plain["supervised"].first_loss - 1) > 1e-4


def test_no_token_sees_another_example(base: Path) -> None:
    """Another example in its row changes no logit of a token."""
    import transformers

    from selfimprove_dagster.training.completion_trainer import PackingCollator

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    examples = make_examples(6)
    other = [*examples[:-1], TokenisedExample([9] * 3, [9] * (examples[-1].length - 3))]
    found = []
    for some in (examples, other):
        batch = PackingCollator(some, 64)([{"row": row} for row in range(6)])
        assert "attention_mask" not in batch
        del batch["labels"]
        with torch.no_grad():
            found.append((batch["input_ids"], model(**batch, use_cache=False).logits))
    (ids, logits), (other_ids, other_logits) = found
    same = ids == other_ids
    torch.testing.assert_close(logits[same], other_logits[same], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits[~same], other_logits[~same], atol=1e-3)


def test_packing_is_refused_where_layers_carry_what_came_before(tmp_path: Path, base: Path) -> None:
    import transformers

    folder = tmp_path / "recurrent"
    shutil.copytree(base, folder)
    config = transformers.MambaConfig(
        vocab_size=259, hidden_size=16, state_size=4, num_hidden_layers=2, bos_token_id=1, eos_token_id=END
    )
    transformers.MambaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(TrainingError, match=r"memory\.packing is true, and in MambaForCausalLM tokens see"):
        supervised(folder, tmp_path / "model", MemorySettings(packing=True))


# Fewer bytes


@pytest.mark.parametrize("kind", KINDS)
def test_weights_can_be_held_in_bfloat16(base: Path, tmp_path: Path, plain: Any, kind: str) -> None:
    import safetensors.torch

    outcome = KINDS[kind](base, tmp_path / "model", MemorySettings(weights="bfloat16"), learning_rate=1e-2)
    assert outcome.first_loss == pytest.approx(plain[kind].first_loss, rel=0.02, abs=0.02)
    found = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    start = safetensors.torch.load_file(base / "model.safetensors")
    for tensor in found.values():
        assert tensor.dtype == torch.float32  # what the caller asked for
        assert torch.equal(tensor, tensor.bfloat16().float())
    changed = [
        name
        for name in start
        if name in found and not torch.equal(found[name], start[name].bfloat16().float())
    ]
    assert len(changed) > 5


def make_wide(base: Path, folder: Path) -> Path:
    """A base with layers of more than 4,096 weights, whose moments are kept in 8 bits; those of others never are."""
    import transformers

    shutil.copytree(base, folder)
    config = transformers.AutoConfig.from_pretrained(base)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 96, 16
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_moments_in_8_bits_train_nearly_alike(base: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    wide = make_wide(base, tmp_path / "base")
    plain = KINDS[kind](wide, tmp_path / "plain", MemorySettings())
    outcome = KINDS[kind](wide, tmp_path / "model", MemorySettings(optimiser="adamw_8bit"))
    assert outcome.first_loss == pytest.approx(plain.first_loss, rel=1e-5, abs=1e-6)
    assert outcome.final_loss == pytest.approx(plain.final_loss, rel=0.1, abs=0.05)
    assert weights(outcome.path) != weights(plain.path)


EVERYTHING = MemorySettings(
    checkpointing=True, weights="bfloat16", optimiser="adamw_8bit", packing=True, logits=16
)


def tensors(state: Any) -> Iterator[torch.Tensor]:
    """All tensors inside dictionaries."""
    for value in state.values():
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, dict):
            yield from tensors(value)


def test_a_killed_run_in_less_memory_ends_the_same(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    make_wide(base, tmp_path / "base")
    script = """
        import os, pathlib, signal, sys
        from training.test_memory import EVERYTHING, supervised, SupervisedSettings, fine_tune, make_examples
        def on_log(entry):
            if len(sys.argv) > 1 and entry["step"] == 7:
                os.kill(os.getpid(), signal.SIGKILL)
        settings = SupervisedSettings(steps=9, learning_rate=1e-2, batch_size=4, save_every=3, memory=EVERYTHING)
        fine_tune("base", make_examples(), pathlib.Path("model"), settings, seed=7, on_log=on_log)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert (
        subprocess.run([*command, "die"], cwd=tmp_path, env=ENVIRONMENT, timeout=120).returncode
        == -signal.SIGKILL
    )
    state = tmp_path / "model.partial" / "checkpoints" / "checkpoint-6" / "optimizer.pt"
    assert torch.uint8 in {one.dtype for one in tensors(torch.load(state, weights_only=False))}
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120, check=True)
    killed = weights(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "first")
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120, check=True)
    assert weights(tmp_path / "model") == killed


def test_settings_are_part_of_what_determines_the_weights(base: Path, tmp_path: Path) -> None:
    without = supervised(base, tmp_path / "model", None)
    assert "memory" not in json.loads((without.path / "determinants.json").read_text())["settings"]
    with pytest.raises(TrainingError, match="other settings"):
        supervised(base, tmp_path / "model", MemorySettings(checkpointing=True))
    again = SupervisedSettings(**dataclasses.asdict(SupervisedSettings(1, 0.1, 1, memory=EVERYTHING)))
    assert again.memory == EVERYTHING


# What is refused, and what is advised


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (MemorySettings(optimiser="paged_adamw_8bit"), "runs on a CPU: set it to adamw_8bit"),
        (MemorySettings(liger=True), "Triton programs, which run on GPUs only"),
        (MemorySettings(weights="float16"), "weights is 'float16'"),  # type: ignore[arg-type]
        (MemorySettings(optimiser="sgd"), "optimiser is 'sgd'"),  # type: ignore[arg-type]
        (MemorySettings(logits=0), "logits is 0"),
    ],
)
def test_settings_that_cannot_be_had(
    base: Path, tmp_path: Path, memory: MemorySettings, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        supervised(base, tmp_path / "model", memory)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "supervised"])
def test_only_examples_are_packed(base: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(TrainingError, match="for supervised training only"):
        KINDS[kind](base, tmp_path / "model", MemorySettings(packing=True))


def test_a_package_that_is_missing_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfimprove_dagster.training import memory

    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match=r"bitsandbytes.*install the extra `selfimprove_dagster\[memory\]`"
    ):
        supervised(base, tmp_path / "model", MemorySettings(optimiser="adamw_8bit"))


def test_a_lack_of_memory_names_what_helps(base: Path, tmp_path: Path) -> None:
    """A real one: the process may have 1 GB more than it has after its imports."""
    script = """
        import pathlib, resource
        import psutil, torch, trl, transformers, datasets, matplotlib.pyplot
        from trl import SFTTrainer, SFTConfig
        from selfimprove_dagster.errors import TrainingError
        from training.test_memory import SupervisedSettings, TokenisedExample, fine_tune
        import kit.training
        base = kit.training.make_base(pathlib.Path("base"))
        most = psutil.Process().memory_info().vms + 1_000_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        examples = [TokenisedExample([1] * 30, [5] * 30)] * 40_000
        settings = SupervisedSettings(steps=1, learning_rate=1e-3, batch_size=40_000, max_length=64)
        try:
            fine_tune("base", examples, pathlib.Path("model"), settings, seed=0)
        except TrainingError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert "Out of memory with batches of 40000. What helps most here: " in said.stdout, said.stderr
    assert said.stdout.count(";") == 2
    assert "set memory.logits to 256" in said.stdout and "halve batch_size" in said.stdout


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_way_of_running_out_is_known(base: Path, error: Exception) -> None:
    from selfimprove_dagster.training.shortage import explained

    settings = TrainingSettings(1, 0.1, 2)
    with pytest.raises(TrainingError, match="What helps most here"), explained(base, settings, False):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), explained(base, settings, False):
        raise RuntimeError("shapes differ")


def test_what_is_set_is_not_advised(base: Path) -> None:
    from selfimprove_dagster.training.shortage import remedies

    before = remedies(base, TrainingSettings(1, 0.1, 4), False)
    assert {"set memory.checkpointing to true", "set memory.logits to 256"} <= {*before}
    assert "set adapter, which trains LoRA's few parameters only" in before
    adapted = TrainingSettings(1, 0.1, 1, adapter=AdapterSettings(), memory=EVERYTHING)
    after = remedies(base, adapted, False)
    assert after == [line for line in before if line.startswith("lower max_length")]
