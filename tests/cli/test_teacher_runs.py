"""Another model generates what a model is trained on: a provider's, or one with weights, run by the command line."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kit import provider as kit
from kit.homes import make_home
from kit.provider import KEY, Provider, command, paid, said

from selfimprove_dagster import embedded
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel, SamplingParameters

PRICES = {"input": 10.0, "output": 100.0}

SHARED: dict[str, Any] = {
    "name": "taught",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": {"file": "embedded", "rows": "0:16", "licence": "Apache-2.0"},
    "training": {"steps": 2, "batch_size": 4},
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 1, "minimum_yield": 0.0},
}

METHODS: dict[str, dict[str, Any]] = {
    "self_instruct": {
        "generation": {"prompts": 12, "max_tokens": 120, "shard": 8},
        "instances": {"max_tokens": 60, "shard": 4},
        "filter": {"maximum_rouge_l": 0.95},
    },
    "unnatural_instructions": {
        "generation": {"prompts": 12, "shard": 8},
    },
    "lmsi": {
        "evaluation": {**SHARED["evaluation"], "majority_questions": 4, "majority_paths": 2},
        "sampling": {"questions": 8, "paths": 4, "shard_questions": 4},
    },
}

GENERATES = {
    "self_instruct": ("generation", {"raw_generations", "classified_tasks", "instance_generations"}),
    "unnatural_instructions": ("generation", {"raw_generations", "task_outputs", "paraphrases"}),
    "lmsi": ("sampling", {"raw_generations", "perplexity_scores"}),
}
"""By method: the section that names the generator, and the stages whose activity names its model."""


def settings(method: str, teacher: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    section = GENERATES[method][0]
    found = {**SHARED, "method": method, **METHODS[method], **changes}
    return {**found, section: {**found[section], "model": dict(teacher)}}


def provided(provider: Provider) -> dict[str, Any]:
    server = {"url": provider.url, "concurrency": 1, "attempts": 2, "key_variable": "PLANTED_KEY"}
    return {
        "path": "small-1",
        "engine": "chat",
        "prompting": "text",
        "prices": PRICES,
        "server": server,
    }


def writer(model: LanguageModel) -> Callable[[Mapping[str, Any]], str]:
    """Return what a provider says that serves a model: the text with which it goes on, or the first option."""
    lock = threading.Lock()

    def says(body: Mapping[str, Any]) -> str:
        prompt = body["messages"][-1]["content"]
        if (chosen := kit.says(body)) != kit.FINE:
            return chosen
        parameters = SamplingParameters(
            temperature=body["temperature"], top_p=body.get("top_p", 1.0), max_tokens=body["max_tokens"]
        )
        with lock:
            ((path,),) = model.generate(model.encode_prompts([prompt]), [[body["seed"]]], parameters)
        return path.text

    return says


@pytest.fixture
def serving() -> Iterator[Callable[[Path], Provider]]:
    """Run a provider that serves the model in a folder."""
    with kit.running() as provider:
        opened: list[LanguageModel] = []

        def serve(folder: Path) -> Provider:
            opened.append(open_language_model(folder))
            provider.says = writer(opened[-1])
            return provider

        yield serve
        for model in opened:
            model.close()


def base_of(method: str) -> Path:
    return Path(embedded.BASE_MODEL if method == "lmsi" else embedded.TASK_MODEL)


def made_by(home: Home, method: str, iteration: int) -> dict[str, str | None]:
    """Return by stage the id of the model that its activity names."""
    return {
        one.table.split("/")[1]: one.activity.model_id
        for one in home.lake.manifests(f"{method}/*", "taught")
        if one.iteration == iteration
    }


@pytest.mark.slow
@pytest.mark.kill
def test_a_provider_writes_the_tasks_of_every_iteration_and_a_killed_run_pays_once(
    serving: Callable[[Path], Provider], tmp_path: Path
) -> None:
    provider = serving(embedded.TASK_MODEL)
    budget = {"iterations": 2, "minimum_yield": 0.0, "money": 5.0}
    home = make_home(tmp_path, settings("self_instruct", provided(provider), budget=budget))
    running = command(home, "run", "taught")

    def kill(number: int) -> None:
        if number == 11:  # in the second shard
            os.kill(running.pid, signal.SIGKILL)
            running.wait()

    provider.before_answer = kill
    output, _ = running.communicate(timeout=600)
    assert running.returncode == -signal.SIGKILL, output
    assert len(provider.bodies) == 11
    output = said(home, "run", "taught")
    assert max(provider.answered.values()) == 1, "paid twice"

    first, second = (made_by(home, "self_instruct", number) for number in (0, 1))
    teacher = first["raw_generations"]
    for models in (first, second):
        assert {models[stage] for stage in GENERATES["self_instruct"][1]} == {teacher}
        assert models["perplexity_scores"] not in (None, teacher)
    assert first["fine_tuned_checkpoint"] and first["fine_tuned_checkpoint"] != teacher
    assert "promoted" in output

    committed = [one.activity.about for one in home.lake.manifests("self_instruct/*", "taught")]
    cost = sum(about.get("money", 0.0) for about in committed)
    assert cost == pytest.approx(paid(provider, PRICES), rel=0.02), (
        "all but the question when the model was opened"
    )
    (drawn, _) = home.lake.manifests("self_instruct/raw_generations", "taught")
    assert drawn.activity.about["champion"] == "another model, small-1"
    assert drawn.activity.about["money"] > 0
    assert "model" not in drawn.activity.parameters["generation"]

    (dataset, _) = home.lake.manifests("self_instruct/filtered_dataset", "taught")
    assert dataset.rows > 0
    output += said(home, "export", "taught", str(tmp_path / "export"), "--iteration", "0")
    for layout in ("prov-json", "alpaca", "checkpoint"):
        output += said(
            home, "export", "taught", str(tmp_path / layout), "--iteration", "0", "--format", layout
        )
    for layout in ("huggingface", "checkpoint"):
        pushed = ("--push", "ada/taught", "--dry-run", "--iteration", "0", "--format", layout)
        output += said(home, "export", "taught", *pushed)
    assert "Nothing was pushed" in output and KEY not in output
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"`another model, small-1` (`{teacher}`)" in card and "engine `chat completions" in card
    row = home.lake.read_ungated(drawn).row(0, named=True)
    assert "small-1" in said(home, "lineage", "replay", row["id"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["unnatural_instructions", "lmsi"])
def test_a_provider_writes_for_a_model_with_weights(
    serving: Callable[[Path], Provider], method: str, tmp_path: Path
) -> None:
    provider = serving(base_of(method))
    home = make_home(tmp_path, settings(method, provided(provider)))
    said(home, "run", "taught")
    models = made_by(home, method, 0)
    assert len({models[stage] for stage in GENERATES[method][1]}) == 1
    assert models["evaluation"] != models["raw_generations"]
    (dataset,) = home.lake.manifests(f"{method}/filtered_dataset", "taught")
    assert dataset.rows > 0
    if method == "lmsi":  # the provider gives no log-probabilities, so that nothing is known
        (scores,) = home.lake.manifests("lmsi/perplexity_scores", "taught")
        assert home.lake.read_ungated(scores)["perplexity"].null_count() == scores.rows > 0


@pytest.mark.slow
def test_a_forecast_counts_the_money_of_the_generator(
    serving: Callable[[Path], Provider], tmp_path: Path
) -> None:
    provider = serving(embedded.TASK_MODEL)
    home = make_home(
        tmp_path, settings("self_instruct", provided(provider), budget={"iterations": 9, "money": 0.02})
    )
    output = said(home, "run", "taught", "--estimate")
    assert "money" in output and "budget.money" in output


@pytest.mark.slow
def test_a_generator_with_weights_stays_the_one_that_is_named(tmp_path: Path) -> None:
    changes = {"budget": {"iterations": 2, "minimum_yield": 0.0}}
    other = tmp_path / "other"
    shutil.copytree(embedded.BASE_MODEL, other)
    (other / "generation_config.json").write_text('{"top_k": 40}')  # part of a model's id
    home = make_home(tmp_path, settings("lmsi", {"path": str(other)}, **changes))
    said(home, "run", "taught")
    with closing(open_language_model(other)) as model:
        teacher = model.model_id
    for iteration in (0, 1):
        models = made_by(home, "lmsi", iteration)
        assert {models[stage] for stage in GENERATES["lmsi"][1]} == {teacher}
