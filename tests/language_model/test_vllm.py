"""Real vLLM on this machine, in process and as a server: the three engines agree on the embedded model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.vllm_engine import STRUCTURED_OUTPUTS
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.runs import run_iteration

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed: `make test-vllm` installs it and runs these"
    ),
]

Engines = dict[str, LanguageModel]

QUESTIONS = [
    f"Tom has {first} pens. He buys {second} more, then loses {third}. How many pens does he have?"
    for first in range(10, 20)
    for second in range(3, 7)
    for third in range(1, 6)
]
LETTER = Structure(regex="[A-D]")
VERDICT = Structure.of_schema(
    {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["good", "bad"]},
            "score": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["verdict", "score"],
        "additionalProperties": False,
    }
)
GREEDY = SamplingParameters(temperature=0.0, max_tokens=60, stop=("\n\nQ:",))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a `vllm serve` of the embedded model, in a process group of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = f"--host 127.0.0.1 --port {port} --dtype float32 --enforce-eager".split()
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", embedded.BASE_MODEL]
    program += ["--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*program, *options],
            env={**os.environ, "VLLM_API_KEY": "a-key", "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def engines(server: str) -> Iterator[Engines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "a-key")
        found = {
            "transformers": open_language_model(embedded.BASE_MODEL, dtype="float32"),
            "vllm": open_language_model(embedded.BASE_MODEL, engine="vllm", dtype="float32"),
            "openai": open_language_model(embedded.BASE_MODEL, engine="openai", url=server, send_seeds=False),
        }
        yield found
        for model in found.values():
            model.close()


@pytest.fixture(scope="module")
def prompts(engines: Engines) -> list[list[int]]:
    texts = [f"Q: {question}\nA: Let's think step by step." for question in QUESTIONS]
    encoded = {name: [model.encode(text) for text in texts] for name, model in engines.items()}
    assert encoded["transformers"] == encoded["vllm"] == encoded["openai"]
    return encoded["transformers"]


@pytest.fixture(scope="module")
def greedy(engines: Engines, prompts: list[list[int]]) -> dict[str, list[Generation]]:
    seeds = [[0] for _ in prompts]
    return {
        name: [row[0] for row in model.generate(prompts, seeds, GREEDY)] for name, model in engines.items()
    }


PAIRS = list(combinations(("transformers", "vllm", "openai"), 2))


def engine_processes() -> set[psutil.Process]:
    """This process's vLLM engines that live, those of the other tests' fixtures among them.

    One that has ended holds no memory, though nobody may have asked yet how it ended.
    """
    children = psutil.Process().children(recursive=True)
    live = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return {child for child in live if "EngineCore" in child.name() or "VLLM" in child.name()}


def furthest(one: list[list[float]], other: list[list[float]]) -> float:
    return max(
        float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(one, other, strict=True) if len(a)
    )


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_greedy_paths_are_the_same_token_for_token(
    greedy: dict[str, list[Generation]], pair: tuple[str, str]
) -> None:
    one, other = greedy[pair[0]], greedy[pair[1]]
    assert len(one) == 200
    assert [path.token_ids for path in one] == [path.token_ids for path in other]
    assert [(path.text, path.finish_reason) for path in one] == [
        (path.text, path.finish_reason) for path in other
    ]
    assert furthest([path.logprobs for path in one], [path.logprobs for path in other]) < 1e-3


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_scores_agree(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], pair: tuple[str, str]
) -> None:
    paths = [path.token_ids for path in greedy["transformers"]]
    one, other = (engines[name].score(prompts, paths) for name in pair)
    assert furthest(one, other) < 1e-3


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_scores_do_not_depend_on_what_was_asked_before(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], name: str
) -> None:
    paths = [path.token_ids for path in greedy["transformers"]]
    forward = engines[name].score(prompts, paths)
    backward = engines[name].score(prompts[::-1], paths[::-1])[::-1]
    assert furthest(forward, backward) < 1e-5


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_options_and_next_tokens_have_the_same_probabilities(
    engines: Engines, prompts: list[list[int]], name: str
) -> None:
    reference, model, some = engines["transformers"], engines[name], prompts[:12]
    for options in ([[10], [11], [12]], [[10, 11], [11], [12, 13]]):
        expected = reference.option_probabilities(some, options)
        found = model.option_probabilities(some, options)
        assert furthest(expected, found) < 1e-3
        assert all(sum(row) == pytest.approx(1) for row in found)
    token = reference.encode_continuation(" 1")[0]
    expected = reference.next_token_probability(some, token)
    assert furthest(expected, model.next_token_probability(some, token)) < 1e-3


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_the_likeliest_tokens_are_the_same(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], name: str
) -> None:
    """Up to the order of tokens that are about equally likely."""
    reference, model, some = engines["transformers"], engines[name], prompts[:40]
    paths = [path.token_ids for path in greedy["transformers"][:40]]
    for text in (" 1", "\n", "."):
        token = reference.encode_continuation(text)[0]
        for most in (1, 10, 20):
            expected = list(chain(*reference.among_likeliest(some, paths, token, most)))
            found = list(chain(*model.among_likeliest(some, paths, token, most)))
            differing = sum(a != b for a, b in zip(expected, found, strict=True))
            assert differing <= len(expected) / 200
    with pytest.raises(ModelError, match="request 1 to 20"):
        model.among_likeliest(some, paths, token, 21)


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_samples_share_their_prompt_and_differ(engines: Engines, prompts: list[list[int]], name: str) -> None:
    sampled = SamplingParameters(temperature=1.0, max_tokens=60, stop=("\n\nQ:",))
    counted: list[tuple[int, int]] = []
    drawn = engines[name].generate(
        prompts[:4], [list(range(8))] * 4, sampled, lambda rows, tokens: counted.append((rows, tokens))
    )
    assert [len(row) for row in drawn] == [8] * 4
    assert len({tuple(path.token_ids) for row in drawn for path in row}) > 8
    assert sum(rows for rows, _ in counted) == 32
    assert sum(tokens for _, tokens in counted) == sum(len(path.token_ids) for row in drawn for path in row)
    scored = engines["transformers"].score([prompts[0]] * 8, [path.token_ids for path in drawn[0]])
    assert furthest(scored, [path.logprobs for path in drawn[0]]) < 1e-3


@pytest.mark.parametrize("name", ["vllm", "openai"])
@pytest.mark.parametrize("structure", [LETTER, VERDICT], ids=["regex", "schema"])
def test_texts_match_the_structure_that_was_asked_for(
    engines: Engines, prompts: list[list[int]], name: str, structure: Structure
) -> None:
    for temperature in (0.0, 1.0):
        parameters = SamplingParameters(temperature=temperature, max_tokens=60, structure=structure)
        drawn = engines[name].generate(prompts[:4], [list(range(8))] * 4, parameters)
        finished = [path for row in drawn for path in row if path.finish_reason == "stop"]
        assert all(structure.mismatch(path.text) is None for path in finished)
        assert len(finished) == 32


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_greedy_structured_texts_are_those_of_the_default_engine(
    engines: Engines, prompts: list[list[int]], name: str
) -> None:
    """Of the distribution among the allowed tokens, vLLM reports the log-probabilities."""
    parameters = SamplingParameters(temperature=0.0, max_tokens=8, structure=LETTER)
    ours, theirs = (
        [path for (path,) in engines[one].generate(prompts[:8], [[0]] * 8, parameters)]
        for one in ("transformers", name)
    )
    assert [path.text for path in ours] == [path.text for path in theirs]
    assert all(sum(b.logprobs) > sum(a.logprobs) for a, b in zip(ours, theirs, strict=True))


def test_what_the_cpu_cannot_do_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """And memory is free after `close`: the engine's process has ended."""
    before = engine_processes()
    model = open_language_model(embedded.BASE_MODEL, engine="vllm", max_length=256)
    assert "vLLM on a CPU does not support seeds per request" in caplog.text
    engine = engine_processes() - before
    assert engine
    model.close()
    _, alive = psutil.wait_procs(list(engine), timeout=60)
    assert not alive


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json in"):
        open_language_model(tmp_path, engine="vllm")


def test_a_whole_iteration_runs_on_it_with_a_fresh_engine_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths are the base model's, the challenger's answers those of the checkpoint that was just made."""
    home = Home(root=tmp_path / "home", experiments=tmp_path / "experiments")
    home.experiments.mkdir()
    settings = {
        **SMALL_EXPERIMENT,
        "model": {"path": "embedded", "engine": "vllm", "vllm": {"max_length": 512}},
        "sampling": {"questions": 6, "paths": 4, "shard_questions": 3, "adaptive": {"step": 2}},
    }
    (home.experiments / "small.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("SELFIMPROVE_HOME", str(home.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(home.experiments))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    before = engine_processes()
    assert run_iteration(home, home.experiment("small"), 0) == []
    (generations,) = home.lake.manifests("lmsi/raw_generations")
    (evaluation,) = home.lake.manifests("lmsi/evaluation")
    (checkpoint,) = home.lake.manifests("lmsi/fine_tuned_checkpoint")
    assert generations.activity.parameters["engine"].startswith("vllm ")
    assert generations.activity.model_id == weights_hash(embedded.BASE_MODEL)
    trained = home.lake.read(checkpoint.table, checkpoint.partition)["model_id"][0]
    models = home.lake.read(evaluation.table, evaluation.partition)["model_id"].unique().to_list()
    assert sorted(models) == sorted([generations.activity.model_id, trained])
    assert engine_processes() == before
