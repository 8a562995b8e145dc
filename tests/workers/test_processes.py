"""Workers in processes of this machine: the same answers as in one process, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.judging_home import EXPERIMENTS as JUDGED
from kit.several_workers import SMALL, ids_of

from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ExperimentError, ModelError
from selfimprove_dagster.experiment.sections import ModelSection, WorkerResources, WorkersSection
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.language_model import SamplingParameters, open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.work.at_once import in_any_order
from selfimprove_dagster.workers.models import SharedModels
from selfimprove_dagster.workers.process import _environment

SECTION = ModelSection(path=str(BASE_MODEL), device="cpu")
LINES: list[str] = []
DRAWN = SamplingParameters(temperature=0.8, max_tokens=24)


@pytest.fixture(scope="module")
def alone() -> Iterator[LanguageModel]:
    model = open_language_model(BASE_MODEL, device="cpu")
    yield model
    model.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    models = SharedModels(LanguageModelResource(), WorkersSection(count=2), LINES.append)
    with models.open(SECTION, scores=True) as model:
        yield model


def processes(model: Any) -> list[int]:
    return [one._process.pid for one in model._pool._all]


def test_each_call_has_the_answer_of_one_process(alone: LanguageModel, shared: Any) -> None:
    prompts = alone.encode_prompts(["Q: What is 2 + 3?\nA:", "Q: A box has 4 pens.\nA:"])
    assert shared.encode_prompts(["Q: What is 2 + 3?\nA:", "Q: A box has 4 pens.\nA:"]) == prompts
    more = [alone.encode_continuation(" 5"), alone.encode_continuation(" 12")]
    for method, arguments in (
        ("generate", (prompts, [[1, 2], [3, 4]], DRAWN)),
        ("score", (prompts, more)),
        ("option_probabilities", (prompts, more)),
        ("next_token_probability", (prompts, more[0][0])),
        ("among_likeliest", (prompts, more, more[0][0], 5)),
    ):
        assert getattr(shared, method)(*arguments) == getattr(alone, method)(*arguments), method
    for name in (
        "model_id",
        "engine",
        "promise",
        "positions",
        "device",
        "dtype",
        "end_token_id",
        "turn_end_id",
    ):
        assert getattr(shared, name) == getattr(alone, name), name
    assert shared.at_once == 2


def test_a_killed_worker_costs_its_call_only(alone: LanguageModel, shared: Any) -> None:
    prompts = alone.encode_prompts(["Q: What is 2 + 3?\nA:"] * 64)
    expected = {at: alone.generate(prompts, [[at]] * 64, DRAWN) for at in range(6)}
    counted: list[int] = []
    lock = threading.Lock()

    def count(rows: int, tokens: int) -> None:
        with lock:
            counted.append(rows)

    def draw(at: int) -> Any:
        if at == 3:  # both workers are there by then
            os.kill(processes(shared)[0], signal.SIGKILL)
        return shared.generate(prompts, [[at]] * 64, DRAWN, count)

    before = {*processes(shared)}
    assert dict(in_any_order(draw, range(6), 2)) == expected
    assert sum(counted) == 6 * 64, "rows that a dead worker had reported are taken back"
    assert {*processes(shared)} - before, "another one has started"
    assert any("its process was killed" in line for line in LINES)


def test_an_error_of_the_engine_is_raised_here(shared: Any) -> None:
    with pytest.raises(ModelError, match="temperature"):
        shared.generate([[5]], [[1]], SamplingParameters(temperature=-1.0))


def test_a_model_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    models = SharedModels(LanguageModelResource(), WorkersSection(count=2), LINES.append)
    missing = SECTION.model_copy(update={"path": str(tmp_path / "nothing")})
    with pytest.raises(ModelError, match="nothing"), models.open(missing):
        pass


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    program = f"""
import time
from selfimprove_dagster.experiment.sections import WorkerResources
from selfimprove_dagster.workers.process import LocalWorker
worker = LocalWorker(0, {str(BASE_MODEL)!r}, {{"device": "cpu"}}, WorkerResources())
print(worker._process.pid, flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while _lives(worker):
        assert time.monotonic() < until, "the worker outlives its parent"
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_resources_are_those_of_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    two = WorkerResources(gpus=2, cpus=3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _environment(1, two)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert _environment(1, two)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,GPU-6,7")
    assert _environment(1, two)["CUDA_VISIBLE_DEVICES"] == "GPU-6,7"
    with pytest.raises(ModelError, match="needs GPUs 4 to 5, and CUDA_VISIBLE_DEVICES has 4"):
        _environment(2, two)


def test_the_section_is_checked_and_changes_no_hash(tmp_path: Path) -> None:
    def parsed(run: dict[str, Any]) -> Any:
        return parse_experiment({**SMALL, **run}, folder=tmp_path)

    usual, several = parsed({}), parsed({"run": {"workers": {"count": 3}}})
    assert usual.settings_hash == several.settings_hash and several.run.workers.kind == "local"
    with pytest.raises(ExperimentError, match="local workers have no address"):
        parsed({"run": {"workers": {"kind": "local", "address": "auto"}}})
    with pytest.raises(ExperimentError, match=r"run\.workers\.kind"):
        parsed({"run": {"workers": {"kind": "threads"}}})


# ---- whole iterations ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.rotates
@pytest.mark.parametrize("experiment", [SMALL, JUDGED["ai"]], ids=["lmsi", "rlaif"])
def test_an_iteration_has_the_ids_of_one_process(tmp_path: Path, experiment: dict[str, Any]) -> None:
    assert ids_of(tmp_path / "several", experiment, {"count": 2}) == ids_of(tmp_path / "one", experiment)
