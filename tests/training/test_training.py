"""Fine-tuning: what carries loss, what is dropped, what a killed run leaves, what the folder holds."""

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
from kit.training import (
    END,
    ENVIRONMENT,
    SETTINGS,
    Interrupted,
    completion_loss,
    interrupt_at,
    make_base,
    make_examples,
    weights,
)

from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.weights import output_settings
from selfimprove_dagster.plots import line_chart
from selfimprove_dagster.training import folders, supervised
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> supervised.TrainingOutcome:
    return fine_tune(base, make_examples(), tmp_path_factory.mktemp("trained") / "model", SETTINGS, seed=7)


# What is learnt


@pytest.mark.parametrize("accumulation", [1, 3])
def test_only_completion_tokens_carry_loss(base: Path, tmp_path: Path, accumulation: int) -> None:
    examples = make_examples(12)
    settings = SupervisedSettings(
        steps=1, learning_rate=1e-3, batch_size=12 // accumulation, gradient_accumulation=accumulation
    )
    outcome = fine_tune(base, examples, tmp_path / "model", settings, seed=0)
    assert outcome.first_loss == pytest.approx(completion_loss(base, examples), rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_it_trains_as_trl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    import safetensors.torch
    import torch
    import trl

    from selfimprove_dagster.training.completion_trainer import CompletionTrainer

    base = make_base(tmp_path / "base", tied=tied)
    settings = dataclasses.replace(SETTINGS, steps=4, gradient_accumulation=2, weight_decay=0.1)
    fine_tune(base, make_examples(), tmp_path / "ours", settings, seed=0)
    monkeypatch.setattr(CompletionTrainer, "compute_loss", trl.SFTTrainer.compute_loss)
    fine_tune(base, make_examples(), tmp_path / "theirs", settings, seed=0)
    ours, theirs = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-4)


def test_it_learns(undisturbed: supervised.TrainingOutcome) -> None:
    assert undisturbed.final_loss < undisturbed.first_loss - 0.5
    assert undisturbed.log[0]["step"] == 1
    assert undisturbed.log[-1]["step"] == undisturbed.steps == 24
    lengths = [example.length for example in make_examples()]
    batches = supervised.plan_batches(lengths, SETTINGS, 7)
    assert undisturbed.tokens == sum(lengths[index] for batch in batches for index in batch)


def test_examples_too_long_are_dropped_and_counted(base: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2, max_length=12)
    examples = make_examples()
    short = [example for example in examples if example.length <= 12]
    outcome = fine_tune(base, examples, tmp_path / "some", settings, seed=0)
    assert (outcome.examples, outcome.dropped) == (len(short), len(examples) - len(short))
    assert 0 < outcome.dropped < len(examples)
    fine_tune(base, short, tmp_path / "short", settings, seed=0)
    assert weights(tmp_path / "some") == weights(tmp_path / "short")


def test_the_models_positions_bound_the_length(base: Path, tmp_path: Path) -> None:
    examples = [*make_examples(4), TokenisedExample([1] * 40, [5] * 25)]
    outcome = fine_tune(base, examples, tmp_path / "model", dataclasses.replace(SETTINGS, steps=1), seed=0)
    assert outcome.dropped == 1


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    steps=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_every_example_is_seen_as_often_as_the_next(
    lengths: list[int], steps: int, batch_size: int, accumulation: int, seed: int
) -> None:
    settings = SupervisedSettings(steps, 1e-3, batch_size, gradient_accumulation=accumulation)
    batches = supervised.plan_batches(lengths, settings, seed)
    assert [len(batch) for batch in batches] == [batch_size] * (steps * accumulation)
    seen = [0] * len(lengths)
    for batch in batches:
        for index in batch:
            seen[index] += 1
    assert max(seen) - min(seen) <= 1
    assert batches == supervised.plan_batches(lengths, settings, seed)


# Again, and after a kill


def test_the_same_again_gives_the_same_weights(
    base: Path, tmp_path: Path, undisturbed: supervised.TrainingOutcome
) -> None:
    fine_tune(base, make_examples(), tmp_path / "again", SETTINGS, seed=7)
    assert weights(tmp_path / "again") == weights(undisturbed.path)
    fine_tune(base, make_examples(), tmp_path / "other", SETTINGS, seed=8)
    assert weights(tmp_path / "other") != weights(undisturbed.path)


def test_a_killed_run_goes_on_and_ends_the_same(
    base: Path, tmp_path: Path, undisturbed: supervised.TrainingOutcome
) -> None:
    script = f"""
        import os, pathlib, signal
        from training.test_training import SETTINGS, fine_tune, make_examples
        def on_log(entry):
            if entry["step"] == 13:
                os.kill(os.getpid(), signal.SIGKILL)
        fine_tune({str(base)!r}, make_examples(), pathlib.Path("model"), SETTINGS, seed=7, on_log=on_log)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["model.partial"]
    # What a kill in the middle of a save leaves: newer, and without its mark.
    (tmp_path / "model.partial" / "checkpoints" / "checkpoint-12").mkdir()

    steps: list[float] = []
    outcome = fine_tune(
        base,
        make_examples(),
        tmp_path / "model",
        SETTINGS,
        seed=7,
        on_log=lambda entry: steps.append(entry["step"]),
    )
    assert steps[0] == 11
    assert weights(outcome.path) == weights(undisturbed.path)
    without_times = [[{**row, "seconds": 0} for row in run.log] for run in (outcome, undisturbed)]
    assert without_times[0] == without_times[1]
    seconds = [row["seconds"] for row in outcome.log]
    assert seconds == sorted(seconds)
    assert outcome.tokens == undisturbed.tokens
    assert not (tmp_path / "model.partial").exists()


def test_nothing_is_resumed_that_was_determined_by_something_else(
    base: Path, tmp_path: Path, undisturbed: supervised.TrainingOutcome
) -> None:
    hotter = dataclasses.replace(SETTINGS, learning_rate=1e-2)
    with pytest.raises(Interrupted):
        fine_tune(base, make_examples(), tmp_path / "model", hotter, seed=7, on_log=interrupt_at(12))
    assert (tmp_path / "model.partial" / "checkpoints" / "checkpoint-10" / "complete").exists()
    steps: list[float] = []
    fine_tune(
        base,
        make_examples(),
        tmp_path / "model",
        SETTINGS,
        seed=7,
        on_log=lambda entry: steps.append(entry["step"]),
    )
    assert steps[0] == 1
    assert weights(tmp_path / "model") == weights(undisturbed.path)


def test_a_finished_model_is_returned_as_it_is(
    base: Path, undisturbed: supervised.TrainingOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "_train", lambda *_: pytest.fail("trained again"))
    saved_more_often = dataclasses.replace(SETTINGS, save_every=3)
    left = undisturbed.path.with_name("model.partial")
    (left / "checkpoints").mkdir(parents=True)  # by a run that was killed when all was done but this
    assert fine_tune(base, make_examples(), undisturbed.path, saved_more_often, seed=7) == undisturbed
    assert not left.exists()
    with pytest.raises(TrainingError, match="other seed"):
        fine_tune(base, make_examples(), undisturbed.path, SETTINGS, seed=8)
    with pytest.raises(TrainingError, match="other examples"):
        fine_tune(base, make_examples()[::-1], undisturbed.path, SETTINGS, seed=7)


def test_a_folder_of_something_else_is_not_written_over(base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="not made by this training"):
        fine_tune(base, make_examples(), tmp_path, SETTINGS, seed=0)


def test_two_processes_do_not_train_the_same_model(base: Path, tmp_path: Path) -> None:
    with (
        folders.locked(tmp_path / "model.partial"),
        pytest.raises(TrainingError, match="Another process"),
    ):
        fine_tune(base, make_examples(), tmp_path / "model", SETTINGS, seed=0)


# What it leaves


def test_the_folder_is_a_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import transformers

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fine_tune(base, make_examples(), tmp_path / "model", dataclasses.replace(SETTINGS, steps=6), seed=0)
    assert not list(Path.cwd().iterdir())
    assert [path.name for path in tmp_path.iterdir() if path.name != "here"] == ["model"]
    assert capfd.readouterr() == ("", "")

    model = tmp_path / "model"
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "determinants.json",
        "generation_config.json",
        "loss.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.json",
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (model / name).read_bytes() == (base / name).read_bytes()
    configs = [json.loads((folder / "config.json").read_text()) for folder in (base, model)]
    assert configs[0] == configs[1]
    assert (model / "loss.png").read_bytes().startswith(b"\x89PNG")
    transformers.AutoModelForCausalLM.from_pretrained(model)
    assert transformers.AutoTokenizer.from_pretrained(model).eos_token_id == END


@pytest.mark.parametrize("own_config", [False, True])
def test_a_trained_model_reads_and_writes_with_the_files_of_its_base(
    own_config: bool, tmp_path: Path
) -> None:
    base, target = tmp_path / "base", tmp_path / "model"
    for folder in (base, target):
        folder.mkdir()
    files = {
        "config.json": "{}",
        "tokenizer_config.json": '{"chat_template": "{{ messages }}"}',
        "tokenizer.json": "{}",
        "tokenizer.model": "pieces",
        "spiece.model": "pieces",
        "vocab.txt": "words",
        "target_vocab.json": "{}",
        "vocab-src.json": "{}",
        "merges.txt": "a b",
        "bpe.codes": "a b",
        "qwen.tiktoken": "YQ== 0",
        "chat_template.jinja": "{{ messages }}",
        "chat_template.json": "{}",
        "additional_chat_templates/tools.jinja": "{{ tools }}",
        "additional_chat_templates/rag.jinja": "{{ documents }}",
        "preprocessor_config.json": "{}",
    }
    for name, text in {
        **files,
        "README.md": "about the base",
        "loss.png": "",
        "a/tokenizer.json": "",
    }.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    (target / "config.json").write_text("{}")
    (target / "generation_config.json").write_text('{"eos_token_id": 7}')  # the trainer's
    folders.copy_companions(base, target, dtype="float32", trust_remote_code=False, own_config=own_config)
    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == files.keys() | ({"generation_config.json"} if own_config else set())
    for name in files.keys() - {"config.json"}:
        assert (target / name).read_text() == files[name]
    if not own_config:
        assert output_settings(target) == output_settings(base) != {}


def test_bfloat16_is_saved_as_such(base: Path, tmp_path: Path) -> None:
    import safetensors.torch

    settings = dataclasses.replace(SETTINGS, steps=2)
    fine_tune(base, make_examples(), tmp_path / "model", settings, seed=0, device="cpu", dtype="bfloat16")
    tensors = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_importing_training_loads_no_torch() -> None:
    code = "import sys, selfimprove_dagster.training; print({'torch', 'trl'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_a_line_chart_is_a_png() -> None:
    png = line_chart({"a": [(0, 1.0), (1, 0.5)], "b": [(0, float("nan"))]}, x="step", y="loss", title="Loss")
    assert png.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(png[16:20], "big") == 800


def test_a_conversation_that_the_template_refuses_is_left_out(base: Path, tmp_path: Path) -> None:
    refused = TokenisedExample([], [END], "refused: the chat template refuses the roles assistant, user")
    examples = [refused, *make_examples()]
    outcome = fine_tune(base, examples, tmp_path / "m", dataclasses.replace(SETTINGS, steps=2), seed=0)
    assert [*map(tuple, outcome.left_out)] == [(0, refused.problem)] and outcome.dropped == 1
    with pytest.raises(
        TrainingError, match="nothing to train on: 1 cannot be asked, the first since refused"
    ):
        fine_tune(base, [refused], tmp_path / "none", SETTINGS, seed=0)


# What is refused


def test_a_loss_that_is_not_finite_names_the_step(base: Path, tmp_path: Path) -> None:
    settings = SupervisedSettings(steps=5, learning_rate=1e30, batch_size=4, schedule="constant")
    with pytest.raises(TrainingError, match=r"at step [23] of 5\. Lower the learning rate \(now 1e\+30\)"):
        fine_tune(base, make_examples(), tmp_path / "model", settings, seed=0)
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    import safetensors.torch

    base = make_base(tmp_path / "base", tied=False)
    tensors = safetensors.torch.load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"][200] = float("nan")  # no example has token 200
    safetensors.torch.save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match="not finite after step 1"):
        fine_tune(base, make_examples(), tmp_path / "m", dataclasses.replace(SETTINGS, steps=1), seed=0)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ([TokenisedExample([1, 5], [])], "Example 0 has no completion"),
        ([TokenisedExample([1, 5], [600])], "token id 600; the model's vocabulary has 259"),
        ([TokenisedExample([1] * 70, [END])], "nothing to train on: 1 examples are longer than 64 tokens"),
    ],
)
def test_examples_that_cannot_be_trained_on(
    base: Path, tmp_path: Path, examples: list[TokenisedExample], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        fine_tune(base, examples, tmp_path / "model", SETTINGS, seed=0)


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        fine_tune(tmp_path / "nothing", make_examples(), tmp_path / "model", SETTINGS, seed=0)
    with pytest.raises(ModelError, match=r"no config\.json"):
        fine_tune(tmp_path, make_examples(), tmp_path / "model", SETTINGS, seed=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        fine_tune(tmp_path, make_examples(), tmp_path / "model", SETTINGS, seed=0)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"learning_rate": 0.0}, {"warmup_fraction": 2.0}, {"schedule": "sudden"}]
)
def test_settings_out_of_range(base: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        fine_tune(base, make_examples(), tmp_path / "m", dataclasses.replace(SETTINGS, **change), seed=0)
