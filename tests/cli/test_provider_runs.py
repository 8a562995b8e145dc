"""An experiment whose model a provider has, run by the command line, killed, and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kit import provider as kit
from kit.homes import make_home
from kit.pages import client
from kit.provider import KEY, Provider, command, paid, said

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.work.budget import dollars

PRICES = {"input": 10.0, "output": 100.0}

EXPERIMENT: dict[str, Any] = {
    "name": "provided",
    "method": "refinement",
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "responses": {"prompts": 24, "max_tokens": 32, "shard": 16},
    "refining": {
        "ways": ["self_refine", "reflexion", "pit"],
        "rounds": 2,
        "temperature": 0.7,
        "max_tokens": 32,
        "shard": 8,
    },
    "evaluation": {"file": "embedded", "difficulty_field": "kind", "licence": "Apache-2.0", "rows": "0:8"},
    "budget": {"iterations": 1, "money": 5.0},
}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with kit.running() as running:
        running.says = answer
        yield running


def answer(body: Mapping[str, Any]) -> str:
    number = sum(map(ord, json.dumps(body["messages"]))) % 97
    return kit.says(body).replace(kit.FINE, f"Answer {number} to this.")


def settings(provider: Provider, **changes: Any) -> dict[str, Any]:
    model = {
        "path": "small-1",
        "engine": "chat",
        "prices": PRICES,
        "server": {"url": provider.url, "concurrency": 1, "attempts": 2, "key_variable": "PLANTED_KEY"},
    }
    return {**EXPERIMENT, "model": model, **changes}


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_run_sends_no_answered_request_again_and_the_key_is_nowhere(
    provider: Provider, tmp_path: Path
) -> None:
    home = make_home(tmp_path, settings(provider))
    running = command(home, "run", "provided")

    def kill(number: int) -> None:
        if number == 100:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()

    provider.before_answer = kill
    output, _ = running.communicate(timeout=600)
    assert running.returncode == -signal.SIGKILL, output
    answered = dict(provider.answered)
    assert len(provider.bodies) == 100 and sum(answered.values()) <= 100
    output += said(home, "run", "provided")
    assert "cost so far: $" in output
    assert len(provider.bodies) >= 200
    assert max(provider.answered.values()) == 1, "paid twice"

    committed = [one.activity.about for one in home.lake.manifests("refinement/*", "provided")]
    cost = sum(about.get("money", 0.0) for about in committed)
    assert f"cost so far: {dollars(cost)} of $5.00" in output
    assert cost == pytest.approx(paid(provider, PRICES), rel=0.02), (
        "all but the question when the model was opened"
    )

    output += said(home, "status", "provided") + said(home, "compare", "provided")
    assert dollars(cost) in output.rpartition("experiment")[2]
    (manifest,) = home.lake.manifests("refinement/raw_generations", "provided")
    first = home.lake.read_ungated(manifest).row(0, named=True)
    assert (first["served"], first["fingerprint"], first["token_ids"]) == ("small-1-2026-01-01", "fp_1", [])
    assert first["answered_at"].startswith("2026-")
    output += said(home, "lineage", "replay", first["id"])
    with client(home) as visitor:
        pages = [
            visitor.get(path).text for path in ("/", "/experiments/provided/0", f"/records/{first['id']}")
        ]
    assert "Answer" in pages[2]
    assert KEY not in output + "".join(pages)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@pytest.mark.slow
@pytest.mark.kill
def test_a_run_that_is_killed_while_it_waits_for_a_batch_waits_for_the_same(
    provider: Provider, tmp_path: Path
) -> None:
    model = settings(provider)["model"]
    model["server"]["batch"] = {"poll": 0.05}
    model["prices"] = {**PRICES, "batch": 0.5}
    refining = {**EXPERIMENT["refining"], "ways": ["self_refine"], "rounds": 1, "shard": 64}
    home = make_home(tmp_path, {**EXPERIMENT, "model": model, "refining": refining})
    running = command(home, "run", "provided")
    looks: list[str] = []
    provider.looks = 4

    def kill(call: str) -> None:
        looks.extend([call] if call.startswith("GET /batches/") else [])
        if len(looks) == 7:  # two looks at the second batch
            os.kill(running.pid, signal.SIGKILL)
            running.wait()

    provider.before_call = kill
    output, _ = running.communicate(timeout=600)
    assert running.returncode == -signal.SIGKILL, output
    waiting = len(provider.batches)
    output = said(home, "run", "provided")
    assert "batch batch_1 of small-1" in output and waiting == 2
    assert len(provider.batched) == len({*provider.batched}) > 24, "sent twice"
    assert max(provider.answered.values()) == 1, "paid twice"
    cost = sum(one.activity.about.get("money", 0.0) for one in home.lake.manifests("*/*", "provided"))
    assert cost == pytest.approx(0.5 * paid(provider, PRICES), rel=0.03), "all but the question at the start"


@pytest.mark.slow
def test_a_money_budget_stops_between_shards_and_poisoned_rows_are_named(
    provider: Provider, tmp_path: Path
) -> None:
    poisoned = tmp_path / "prompts.jsonl"
    texts = [f"Question number {number}?" for number in range(18)] + ["A filtered one?", "A null one?"]
    poisoned.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    provider.poisons = {
        "filtered": kit.message("content_filter", content=""),
        "null one": kit.message(content=None),
    }
    changes = {
        "seeds": {"file": str(poisoned), "licence": "CC0-1.0"},
        "responses": {"prompts": 20, "max_tokens": 32, "shard": 10},
        "tolerance": {"failed_share": 0.2},
        "budget": {"iterations": 1, "money": 0.0001},
    }
    home = make_home(tmp_path, settings(provider, **changes))
    output = said(home, "run", "provided")
    assert "stopped: money spent: $0." in output and "raise budget.money" in output
    asked = len(provider.bodies)
    (home.experiments / "provided.yaml").write_text(
        json.dumps(settings(provider, **{**changes, "budget": {"iterations": 1}}))
    )
    output = said(home, "run", "provided")
    assert len(provider.bodies) > asked
    assert "prompts.jsonl, line 19" in output and "content filter" in output
    assert "prompts.jsonl, line 20" in output and "returned no text" in output
    assert "2 prompts failed" in output


def judged(provider: Provider) -> dict[str, Any]:
    """Return an experiment whose policy is rewarded by the provider's model."""
    judge = settings(provider)["model"]
    changes: dict[str, Any] = {
        "method": "rlaif",
        "model": {"path": "embedded"},
        "responses": {"prompts": 12, "max_tokens": 24},
        "judge": {"principles": 1, "repeated_share": 0.5, "shard": 8, "model": judge},
        "judge_checks": {"on_failure": "warn"},
        "preferences": {"minimum_margin": 0.0, "held_out_share": 0.2},
        "training": {
            "reward": "judge",
            "steps": 5,
            "batch_size": 8,
            "group_size": 4,
            "max_tokens": 16,
            "save_every": 2,
        },
        "promotion": {"rule": "not_worse", "margin": 1.0},
    }
    given = settings(provider, **changes)
    del given["refining"]
    return given


@pytest.mark.slow
@pytest.mark.train
def test_a_second_forecast_counts_rewards_that_the_first_paid_for(provider: Provider, tmp_path: Path) -> None:
    home = make_home(tmp_path, judged(provider))
    first, asked = forecast(said(home, "run", "provided", "--estimate")), len(provider.bodies)
    assert forecast(said(home, "run", "provided", "--estimate")) == first
    assert len(provider.bodies) == asked, "all answers are stored"


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.train
def test_rewards_of_a_provider_s_judge_are_paid_once_counted_and_limited(
    provider: Provider, tmp_path: Path
) -> None:
    def write(money: float) -> None:
        given = {**judged(provider), "budget": {"iterations": 1, "money": money}}
        (home.experiments / "provided.yaml").write_text(json.dumps(given))

    home = make_home(tmp_path)
    write(9.0)
    running = command(home, "run", "provided")
    ratings: list[int] = []

    def kill(number: int) -> None:
        if "\n- 10" in provider.asked[number - 1]:
            ratings.append(number)
        if len(ratings) == 27:  # in the fourth step, after the checkpoint of the second
            os.kill(running.pid, signal.SIGKILL)
            running.wait()

    provider.before_answer = kill
    output, _ = running.communicate(timeout=600)
    assert running.returncode == -signal.SIGKILL, output
    provider.before_answer = lambda number: None
    asked, before = len(provider.bodies), spent(home)

    write(before + 1e-6)
    output = said(home, "run", "provided")
    assert "stopped: money spent: $0." in output and "raise budget.money" in output
    assert spent(home) == before and len(provider.bodies) - asked <= 8, "at most the rest of a step"

    write(9.0)
    said(home, "run", "provided")
    assert max(provider.answered.values()) == 1, "paid twice"
    (trained,) = home.lake.manifests("rlaif/fine_tuned_checkpoint", "provided")
    assert trained.activity.about["money"] > 0
    assert spent(home) == pytest.approx(paid(provider, PRICES), rel=0.02)


def forecast(output: str) -> list[str]:
    """Return the money of each stage that a forecast shows."""
    rows = [line.split("│") for line in output.splitlines() if "│" in line]
    found = [cells[-2].strip() for cells in rows]
    assert any(found) and found[-1], output
    return found


def spent(home: Home) -> float:
    """Return the money that the committed stages record."""
    found = home.lake.manifests("rlaif/*", "provided")
    return float(sum(one.activity.about.get("money", 0.0) for one in found))
