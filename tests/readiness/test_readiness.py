"""What is known to be wrong before the first token is said before the first token, all of it at once."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kit.homes import entered, make_home
from kit.judging_home import EXPERIMENTS
from kit.small_lake import SMALL_EXPERIMENT, promotion_draft, store, write_lines
from safetensors import safe_open

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import SHIPPED_EXPERIMENTS, Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.language_model import remote
from selfimprove_dagster.language_model.weights import parameters
from selfimprove_dagster.methods.lmsi.tables import PROMOTION
from selfimprove_dagster.pruned import MARK, Pruned
from selfimprove_dagster.readiness import engines, machine
from selfimprove_dagster.readiness.check import check_ready
from selfimprove_dagster.readiness.machine import check_devices, check_memory_settings

DIALOGUES = {
    "name": "small",
    "method": "rlaif",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded"},
}


def _home(folder: Path, settings: dict[str, Any], **changes: Any) -> Home:
    merged = dict(settings)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return make_home(folder, merged)


def check(folder: Path, settings: dict[str, Any] = SMALL_EXPERIMENT, **changes: Any) -> tuple[str, list[str]]:
    """The error of an experiment with these changes, empty if it is ready, and the warnings."""
    home, warnings = _home(folder, settings, **changes), list[str]()
    try:
        check_ready(home, home.experiment("small"), warnings.append)
    except ExperimentError as error:
        return str(error), warnings
    return "", warnings


def demonstrations(folder: Path, reasoning: str) -> dict[str, Any]:
    row = {"question": "1 + 1?", "reasoning": reasoning, "answer": "2"}
    return {"file": str(write_lines(folder / "shown.jsonl", [row])), "count": 1}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(SHIPPED_EXPERIMENTS.glob("*.yaml"))
        if "SELFIMPROVE_DATA" not in path.read_text()
    ],
    ids=lambda path: path.stem,
)
def test_every_shipped_experiment_is_ready_without_a_warning(path: Path, tmp_path: Path) -> None:
    home, warnings = make_home(tmp_path), list[str]()
    for experiment in home.chain(path.stem):
        check_ready(home, experiment, warnings.append)
    assert warnings == []


# ---- files ---------------------------------------------------------------------------------------------


def test_an_evaluation_file_without_a_line_that_tells_right_from_wrong_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "held.jsonl", [{"prompt": "Hello?"}, {"prompt": "And now?"}])
    error, _ = check(tmp_path, DIALOGUES, evaluation={"file": str(file)})
    assert f"evaluation.file {file}: no line is a held-out question of rlaif" in error
    assert "line 1: field `wanted` or field `unwanted` must hold a phrase" in error


def test_lines_of_the_evaluation_file_that_cannot_be_asked_are_a_warning(tmp_path: Path) -> None:
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?"}]
    file = write_lines(tmp_path / "held.jsonl", rows)
    error, warnings = check(tmp_path, evaluation={"file": str(file), "rows": None, "difficulty_field": None})
    assert error == ""
    assert len(warnings) == 1
    assert "1 of 2 lines are rejected; the first: line 2: " in warnings[0]


def test_each_benchmark_with_a_wrong_field_is_named_with_its_fields(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "bench.jsonl", [{"question": "How many cups has Tom?"}])
    (tmp_path / "broken.jsonl").write_text('{"question')
    benchmarks = [
        {"file": str(file), "fields": ["question"]},
        {"file": str(file), "fields": ["frage"]},
        {"file": str(tmp_path / "broken.jsonl")},
        {"file": str(tmp_path / "gone.jsonl"), "fields": ["question"]},
    ]
    error, _ = check(tmp_path, decontamination={"benchmarks": benchmarks})
    assert f"{file} has no field `frage`; its fields are question: correct `fields`" in error
    assert "broken.jsonl, line 1: not JSON" in error
    assert error.count("gone.jsonl") == 1 and error.count("\n  - ") == 3
    assert check(tmp_path / "right", decontamination={"benchmarks": benchmarks[:1]}) == ("", [])


UNUSABLE = ['{"foo": 1}', '{"text": ""}', "{broken", '{"prompt": "Q:", "completion": " "}']


def test_lines_of_a_mixed_in_file_that_are_no_examples_are_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text("\n".join(["", '{"text": "A cat."}', "  ", *UNUSABLE, '{"text": "A dog."}', ""]))
    error, warnings = check(tmp_path, training={"mix": {"file": str(file)}})
    assert error == ""
    (said,) = warnings
    assert (
        "training.mix.file: 4 lines of general.jsonl are left out, the first: general.jsonl, line 4: " in said
    )
    assert "the fields are: foo" in said
    file.write_text('\n{"text": "A cat."}\n\n')
    assert check(tmp_path / "again", training={"mix": {"file": str(file)}}) == ("", []), (
        "blank lines are no finding"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (UNUSABLE[1], "the first: general.jsonl, line 1: field `text` is empty"),
        (UNUSABLE[2], "the first: general.jsonl, line 1: not JSON"),
        (UNUSABLE[3], "the first: general.jsonl, line 1: field `completion` is empty"),
        ("\n\n", "it is empty"),
    ],
)
def test_a_mixed_in_file_without_a_usable_row_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text(text)
    error, _ = check(tmp_path, training={"mix": {"file": str(file)}})
    assert f"training.mix.file: {file} has no usable row" in error and reason in error


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"gr\xfc\xdfe", "is not UTF-8 at byte 2")],
)
def test_a_text_without_a_perplexity_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "plain.txt"
    file.write_bytes(content)
    error, _ = check(tmp_path, training={"perplexity": {"file": str(file)}})
    assert f"training.perplexity.file: {file} {reason}" in error


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    error, _ = check(
        tmp_path,
        model={"path": "missing/model/of/mine", "device": "gpu"},
        seeds={"file": "seeds.jsonl"},
        evaluation={"file": "held.jsonl"},
        prompts={"stop": {"zero_shot_cot": [""]}},
    )
    assert error.startswith("experiment small cannot run yet:\n  - seeds.file: there is no file ")
    assert "evaluation.file: there is no file " in error
    assert "model.path: no model at missing/model/of/mine" in error
    assert "model.device is 'gpu': set it to auto, cpu, cuda or cuda:N" in error
    assert "prompts.stop.zero_shot_cot has an empty string" in error
    assert error.count("held.jsonl") == 1


def test_a_wrong_prompts_file_and_a_missing_adapter_are_problems(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("nothing: {}\n")
    error, _ = check(
        tmp_path,
        model={"engine": "vllm", "vllm": {"lora": str(tmp_path)}},
        prompts={"file": str(tmp_path / "prompts.yaml")},
    )
    assert "nothing is no prompt of this method" in error
    assert f"model.vllm.lora: no adapter_config.json in {tmp_path}" in error


# ---- lengths and stops -----------------------------------------------------------------------------------


def test_a_stop_in_the_demonstrations_is_refused(tmp_path: Path) -> None:
    sampling = {"prompt_format": "few_shot_cot", "stop": ["\n"]}
    shown = demonstrations(tmp_path, "One.\nAnd one.")
    error, _ = check(tmp_path, sampling=sampling, demonstrations=shown)
    assert (
        r"the stop string '\n' of the prompt for sampling.max_tokens is in 1 of its 1 demonstrations" in error
    )
    other = tmp_path / "other"
    other.mkdir()
    assert check(other, sampling=sampling, demonstrations=demonstrations(other, "One and one.")) == ("", [])


@pytest.mark.parametrize(("tokens", "refused"), [(1023, False), (1024, True)])
def test_more_new_tokens_than_the_context_has_are_refused(tmp_path: Path, tokens: int, refused: bool) -> None:
    error, warnings = check(tmp_path, sampling={"max_tokens": tokens})
    assert ("sampling.max_tokens is 1,024" in error) == refused
    assert any("long completions are cut off" in line for line in warnings)


def test_a_context_that_vllm_is_to_shorten_is_the_context(tmp_path: Path) -> None:
    error, _ = check(
        tmp_path,
        model={"engine": "vllm", "vllm": {"max_length": 64}},
        sampling={"max_tokens": 64},
    )
    assert "sampling.max_tokens is 64, but prompt and completion together have 64 tokens" in error


def test_demonstrations_that_fill_the_context_are_refused(tmp_path: Path) -> None:
    error, _ = check(
        tmp_path,
        sampling={"prompt_format": "few_shot_cot"},
        demonstrations=demonstrations(tmp_path, "One and one. " * 500),
    )
    assert "the prompt for sampling.max_tokens has " in error
    assert "show fewer or shorter demonstrations" in error


def test_worked_examples_of_a_method_count_too(tmp_path: Path) -> None:
    tasks = {**SMALL_EXPERIMENT, "method": "self_instruct", "evaluation": {"file": "embedded"}}
    del tasks["sampling"]
    instances = {"shots": 6, "shots_from": "shipped", "max_tokens": 900}
    error, warnings = check(tmp_path, tasks, instances=instances)
    assert error == ""
    assert len([line for line in warnings if "the prompt for instances.max_tokens has " in line]) == 2


def test_examples_longer_than_the_model_reads_are_a_warning(tmp_path: Path) -> None:
    error, warnings = check(tmp_path, training={"max_length": 4096})
    assert (error, warnings) == (
        "",
        ["training.max_length is 4,096, but the model has 1,024 positions: longer examples are left out"],
    )


# ---- this machine ----------------------------------------------------------------------------------------


def _settled(folder: Path, **changes: Any) -> tuple[Home, Experiment]:
    home = _home(folder, SMALL_EXPERIMENT, **changes)
    return home, home.experiment("small")


@pytest.mark.parametrize(
    ("device", "count", "problem"),
    [
        ("cuda", 0, "model.device is cuda, and torch finds no GPU"),
        ("cuda:1", 1, "model.device is cuda:1, and there are 1 GPUs: use cuda:0 to cuda:0"),
        (
            "cuda:1",
            2,
            "on which the trainer cannot train: set the environment variable CUDA_VISIBLE_DEVICES=1",
        ),
        ("cuda", 1, None),
        ("cpu", 0, None),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, count: int, problem: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    found = [*check_devices(*_settled(tmp_path, model={"device": device}))]
    assert [problem in one.text for one in found if problem] == [True] * len(found)
    assert bool(found) == bool(problem)


def test_a_number_format_that_the_gpu_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    (found,) = check_devices(*_settled(tmp_path, model={"dtype": "bfloat16"}))
    assert "model.dtype is bfloat16, which this GPU does not support" in found.text


def test_parameters_are_counted_without_loading_them(tmp_path: Path) -> None:
    _, experiment = _settled(tmp_path)
    with safe_open(Path(experiment.model.path) / "model.safetensors", "numpy") as tensors:
        expected = sum(tensors.get_tensor(name).size for name in tensors.keys())  # noqa: SIM118
    assert parameters(Path(experiment.model.path)) == expected


@pytest.mark.parametrize(
    ("free", "refused", "warned"), [(1_000, True, False), (10_000_000, False, True), (10**12, False, False)]
)
def test_a_disk_without_room_for_the_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: bool, warned: bool
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, free))
    error, warnings = check(tmp_path)
    assert ("the next iteration trains 1 model with 3.4 MB of weights" in error) == refused
    assert bool(warnings) == warned


@pytest.mark.parametrize(
    ("total", "free", "refused", "warned"),
    [(1_000_000, 1_000_000, True, False), (10**9, 1_000_000, False, True), (10**9, 10**9, False, False)],
)
def test_a_model_that_does_not_fit_into_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, refused: bool, warned: bool
) -> None:
    monkeypatch.setattr(machine, "memory_of", lambda section: machine.Memory(total, free, "this machine"))
    error, warnings = check(tmp_path)
    assert ("sampling from" in error and "training" in error) == refused
    assert bool(warnings) == warned


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"optimiser": "paged_adamw_8bit"}, "this training runs on a CPU: set it to adamw_8bit"),
        ({"liger": True}, "this training runs on a CPU: leave it out"),
        ({"optimiser": "adamw_8bit", "checkpointing": True, "weights": "bfloat16", "packing": True}, ""),
    ],
)
def test_memory_settings_that_need_a_gpu_are_refused_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any], reason: str
) -> None:
    home, experiment = _settled(tmp_path, training={"memory": setting})
    found = [one.text for one in check_memory_settings(home, experiment)]
    assert [text.startswith("training.memory.") and reason in text for text in found] == [True] * bool(reason)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [*check_memory_settings(home, experiment)] == []


def test_rollouts_of_vllm_are_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {**EXPERIMENTS["ai"]["training"], "rollouts": {"gpu_memory": 0.4}}
    home = make_home(tmp_path, {**EXPERIMENTS["ai"], "name": "ai", "training": training})
    (found,) = check_memory_settings(home, home.experiment("ai"))
    assert found.text.startswith("training.rollouts asks for vLLM") and "runs on a CPU" in found.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [*check_memory_settings(home, home.experiment("ai"))] == []


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "nope"], "names nope, and"),
        (["q_proj", "embed_tokens"], "names embed_tokens, a layer of the vocabulary"),
        (["self_attn.q_proj", "down_proj"], ""),
        ("all-linear", ""),
    ],
)
def test_targets_of_an_adapter_are_layers_of_the_model(tmp_path: Path, targets: Any, said: str) -> None:
    training = {**SMALL_EXPERIMENT["training"], "adapter": {"targets": targets}}
    error, _ = check(tmp_path, training=training)
    if not said:
        assert not error
        return
    assert f"training.adapter.targets {said}" in error
    assert "choose among down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in error


def test_several_nodes_are_refused_where_nothing_says_how_to_start_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {**SMALL_EXPERIMENT["training"], "batch_size": 8, "launch": {"processes": 2, "nodes": 2}}
    error, _ = check(tmp_path / "one", training=training)
    assert (
        "training.launch.nodes is 2, and SELFIMPROVE_ON_EVERY_NODE and SELFIMPROVE_ENDPOINT are not set"
        in error
    )
    monkeypatch.setenv("SELFIMPROVE_ON_EVERY_NODE", "srun --ntasks-per-node=1")
    monkeypatch.setenv("SELFIMPROVE_ENDPOINT", "node0:29500")
    assert not check(tmp_path / "other", training=training)[0]


def test_workers_that_cannot_start_or_have_nothing_to_do_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    training = {**SMALL_EXPERIMENT["training"], "batch_size": 8, "launch": {"processes": 2, "by": "ray"}}
    error, _ = check(tmp_path / "one", training=training, run={"workers": {"kind": "ray"}})
    for field in ("training.launch.by", "run.workers.kind"):
        assert f"{field} is ray, and Ray is not installed: pip install" in error
    assert not check(tmp_path / "two", run={"workers": {"count": 2}})[0]
    served = {"path": "embedded", "engine": "openai", "server": {"url": "http://127.0.0.1:9/v1"}}
    _, warnings = check(tmp_path / "three", model=served, run={"workers": {"count": 2}})
    assert any("run.workers changes nothing" in line for line in warnings)


def test_what_a_training_takes_follows_its_memory_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_of", lambda section: machine.Memory(1, 1, "this machine"))
    said = []
    smallest = {"weights": "bfloat16", "optimiser": "adamw_8bit"}
    for number, memory in enumerate((None, {"weights": "bfloat16"}, smallest)):
        home, experiment = _settled(tmp_path / str(number), training={"memory": memory})
        assert machine._memory(experiment.training).bytes_per_parameter in (16, 8, 6)
        said += [
            one.text for one in machine.check_memory(home, experiment) if one.text.startswith("training")
        ]
    sizes = [float(text.split("at least ")[1].split()[0]) for text in said]
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.02)
    assert sizes[2] == pytest.approx(6 / 8 * sizes[1], rel=0.02)


# ---- engines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "changes", "extra"),
    [
        ("vllm", {"model": {"engine": "vllm"}}, "selfimprove_dagster[vllm]"),
        (
            "llguidance",
            {"prompts": {"structure": {"zero_shot_cot": {"regex": "[A-D]"}}}},
            "selfimprove_dagster[structured]",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, changes: dict[str, Any], extra: str
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == missing else find_spec(name))
    error, _ = check(tmp_path, **changes)
    assert missing in error
    assert f"install the extra `{extra}`" in error


class _Handler(BaseHTTPRequestHandler):
    """A server that completes text and returns no log-probabilities of prompts."""

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "served", "owned_by": "test"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        logprobs = {"tokens": ["a"], "token_logprobs": [-0.5]}
        choice = {"index": 0, "text": "a", "finish_reason": "length", "logprobs": logprobs}
        self._answer({"choices": [choice]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def test_a_method_that_scores_is_refused_with_a_server_that_does_not(tmp_path: Path, server: str) -> None:
    model = {"path": "embedded", "engine": "openai", "server": {"url": server}}
    assert check(tmp_path / "a", model=model) == ("", [])
    error, _ = check(
        tmp_path / "b", DIALOGUES, method="toolformer", tools={"names": ["Calculator"]}, model=model
    )
    assert "this method needs that: serve the model with vLLM, or use another engine" in error


def test_a_server_that_does_not_answer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    model = {"engine": "openai", "server": {"url": "http://127.0.0.1:9/v1"}}
    error, _ = check(tmp_path, model=model)
    assert "127.0.0.1:9" in error


def test_what_another_model_generates_is_checked_against_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    provided = {"path": "small-1", "engine": "chat", "server": {"url": "http://127.0.0.1:9/v1"}}
    sampling = {"max_tokens": 4096, "prompt_format": "zero_shot_cot"}
    error, _ = check(tmp_path / "a", sampling={**sampling, "model": provided})
    assert "127.0.0.1:9" in error and "max_tokens" not in error, "nobody knows the context of a provider"
    with_weights = {"path": str(embedded.TASK_MODEL)}
    error, _ = check(tmp_path / "b", sampling={**sampling, "model": with_weights})
    assert "sampling.max_tokens is 4,096" in error
    missing = {"path": str(tmp_path / "nowhere")}
    error, _ = check(tmp_path / "c", sampling={"model": missing})
    assert "sampling.model.path: " in error


# ---- where it is called ----------------------------------------------------------------------------------


def _broken(folder: Path) -> Home:
    home = _home(folder, SMALL_EXPERIMENT)
    file = home.experiments / "small.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["evaluation"]["file"] = str(write_lines(folder / "held.jsonl", [{"question": "1 + 1?"}]))
    file.write_text(yaml.safe_dump(settings))
    return home


def _by_command(*options: str) -> Callable[[], str]:
    def call() -> str:
        from typer.testing import CliRunner

        from selfimprove_dagster.cli.main import app

        done = CliRunner().invoke(app, ["run", "small", *options])
        return str(done.exception)

    return call


def _by_dagster() -> str:
    from selfimprove_dagster.runs import run_iteration

    home = Home.from_environment()
    (problem,) = run_iteration(home, home.experiment("small"), 0)
    return problem


@pytest.mark.parametrize(
    "start", [_by_command(), _by_command("--estimate"), _by_dagster], ids=["run", "estimate", "dagster"]
)
def test_a_run_says_so_before_anything_is_committed(tmp_path: Path, start: Callable[[], str]) -> None:
    home = _broken(tmp_path)
    with entered(home):
        assert "no line is a held-out question of lmsi" in start()
    assert home.lake.manifests() == []


def test_a_champion_whose_weights_were_pruned_is_a_problem_with_the_command_that_rebuilds_it(
    tmp_path: Path,
) -> None:
    home = _home(tmp_path, SMALL_EXPERIMENT, budget={"minimum_yield": 0.0})
    folder = tmp_path / "000-lmsi-old"
    folder.mkdir()
    (folder / MARK).write_text(
        Pruned("b2:old", 1, "today", "selfimprove checkpoints rebuild small").to_json()
    )
    draft = promotion_draft("old", True)
    measures = {**draft.measures, "challenger_path": str(folder)}
    store(home.lake, PROMOTION, [Draft(draft.content, measures=measures)], partition=partition_of("small", 0))
    with pytest.raises(
        ExperimentError, match=r"iteration 1 needs the checkpoint of iteration 0: .*rebuild small"
    ):
        check_ready(home, home.experiment("small"))


def test_a_large_model_at_the_rate_of_a_tiny_one_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "parameters", lambda folder: 135_000_000)
    training = {"learning_rate": 5e-4}
    problem, warnings = check(tmp_path / "warned", training=training)
    assert problem == "" and [line for line in warnings if "training.learning_rate is 0.0005" in line]
    assert any("135 million parameters" in line and "small_llm" in line for line in warnings)
    for name, rate in (("slow", 2e-5), ("border", 1e-4)):
        _, warnings = check(tmp_path / name, training={"learning_rate": rate})
        assert not [line for line in warnings if "learning_rate" in line]
    monkeypatch.setattr(machine, "parameters", lambda folder: 1_000_000)
    _, warnings = check(tmp_path / "tiny", training=training)
    assert not [line for line in warnings if "learning_rate" in line]


def test_every_training_of_a_large_model_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "parameters", lambda folder: 135_000_000)
    _, warnings = check(tmp_path, DIALOGUES)
    for name in ("reward_model", "training"):
        assert any(f"{name}.learning_rate" in line for line in warnings), name
