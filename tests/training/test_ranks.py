"""Several ranks train as one does: the same rows in the same step, the same log, and after a kill the same weights."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kit.ranked import Attempt
from kit.ranked_jobs import SETTINGS, job, write_all_rows
from kit.sampling import all_methods
from kit.sharded import fine_tune_sharded
from kit.training import ENVIRONMENT, weights

from selfimprove_dagster.training.adapter_settings import AdapterSettings
from selfimprove_dagster.training.folders import read_json
from selfimprove_dagster.training.memory import MemorySettings
from selfimprove_dagster.training.policy import read_rollouts
from selfimprove_dagster.training.settings import Launch
from selfimprove_dagster.work.spec import Spec

pytestmark = pytest.mark.train

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adapter": {
        "adapter": asdict(AdapterSettings(rank=4)),
        "memory": asdict(MemorySettings(checkpointing=True)),
    },
}
"""Settings with which trainings are tried."""

TRIED = [
    *((kind, "plain") for kind in SETTINGS),
    *((kind, "adapter") for kind in ("supervised", "dpo", "grpo")),
]
KILLS = 10 if all_methods() else 2
"""Kills by SIGKILL, of the ranks of two kinds of training in turn."""
TWO = Launch(processes=2)


def attempts(folder: Path, name: str, wanted: list[Attempt]) -> list[dict[str, Any]]:
    """What came of attempts, made one after another in processes that share their imports."""
    plan = folder / f"{name}.plan"
    plan.write_text(json.dumps([asdict(one) for one in wanted]))
    done = subprocess.run(
        [sys.executable, "-m", "kit.ranked", str(plan)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(plan.with_suffix(".made").read_text())
    return found


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    (made / "base").symlink_to(base)
    write_all_rows(made / "rows")
    return made


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, dict[str, Any]]:
    """Every kind by one rank, by two, and by two again; the models are in folders of these names."""
    names, wanted = [], []
    for kind, variant in TRIED:
        for name, launch in (("one", None), ("two", TWO), ("again", TWO)):
            names.append(f"{kind}-{variant}-{name}")
            spec = job(
                kind, folder / "base", folder / "rows", folder / names[-1], launch, **VARIANTS[variant]
            )
            wanted.append(Attempt(spec.to_json(), launch.total if launch else 1))
    return dict(zip(names, attempts(folder, "trained", wanted), strict=True))


@pytest.mark.parametrize(("kind", "variant"), TRIED)
def test_two_ranks_log_what_one_logs(
    folder: Path, trained: dict[str, dict[str, Any]], kind: str, variant: str
) -> None:
    one, two = (trained[f"{kind}-{variant}-{name}"] for name in ("one", "two"))
    assert not one["log"] and not two["log"]
    one, two = one["outcome"], two["outcome"]
    assert len(one["log"]) == len(two["log"]) == SETTINGS[kind].steps
    for first, second in zip(one["log"], two["log"], strict=True):
        # Before DPO's first step all margins are 0, and the accuracy is the sign of what rounding leaves of them.
        noise = {"seconds", "accuracy"} if abs(first.get("margin", 1)) < 1e-7 else {"seconds"}
        alike = {name: value for name, value in first.items() if name not in noise}
        assert {name: second[name] for name in alike} == pytest.approx(alike, abs=1e-5, rel=1e-5)
    assert one["tokens"] == two["tokens"] and one["examples"] == two["examples"]


@pytest.mark.parametrize(("kind", "variant"), TRIED)
def test_two_ranks_repeat_bit_for_bit(
    folder: Path, trained: dict[str, dict[str, Any]], kind: str, variant: str
) -> None:
    one, two, again = (folder / f"{kind}-{variant}-{name}" for name in ("one", "two", "again"))
    assert weights(two) == weights(again) != weights(folder / "base")
    assert read_json(two / "determinants.json")["settings"]["launch"] == {"processes": 2, "strategy": "ddp"}
    assert "launch" not in read_json(one / "determinants.json")["settings"]
    assert not [*folder.glob("*.partial")]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_two_ranks_draw_the_completions_of_one(
    folder: Path, trained: dict[str, dict[str, Any]], kind: str
) -> None:
    one, two = (
        read_rollouts(folder / f"{kind}-plain-{name}" / "rollouts.parquet") for name in ("one", "two")
    )
    what = [(row.step, row.prompt, row.sample, row.completion_token_ids) for row in one]
    assert what == [(row.step, row.prompt, row.sample, row.completion_token_ids) for row in two]
    assert [row.reward for row in one] == pytest.approx([row.reward for row in two], nan_ok=True)
    assert [row.advantage for row in one] == pytest.approx([row.advantage for row in two], abs=1e-4)
    assert [row.sample for row in one] == [0, 1, 2, 3] * 2 * SETTINGS[kind].steps


def test_a_kill_of_any_rank_at_a_random_moment_changes_no_weight(
    folder: Path, trained: dict[str, dict[str, Any]]
) -> None:
    draw = random.Random(20_261_201)
    kinds, names, wanted = ("supervised", "grpo"), [], []
    for number in range(KILLS):
        kind = kinds[number % 2]
        rank = draw.randrange(2)
        moment = draw.randint(1, trained[f"{kind}-plain-two"]["moments"][rank])
        names.append((kind, f"{kind}-killed-{number}", rank, moment))
        spec = job(kind, folder / "base", folder / "rows", folder / names[-1][1], TWO).to_json()
        wanted += [Attempt(spec, 2, (rank, moment)), Attempt(spec, 2)]
    made = attempts(folder, "killed", wanted)
    for (kind, name, rank, moment), killed, resumed in zip(names, made[::2], made[1::2], strict=True):
        assert killed["ended"][rank] == -9, f"{name}: rank {rank} at moment {moment}: {killed['log']}"
        assert resumed["ended"] == [0, 0], f"{name}: rank {rank} at moment {moment}: {resumed['log']}"
        assert weights(folder / name) == weights(folder / f"{kind}-plain-two"), (name, rank, moment)
        if kind == "grpo":
            same = (read_rollouts(folder / one / "rollouts.parquet") for one in (name, f"{kind}-plain-two"))
            assert len({str(rows) for rows in same}) == 1


def test_sharded_weights_log_what_whole_ones_log_and_are_written_whole(folder: Path) -> None:
    from safetensors.torch import load_file

    names, wanted = ("whole", "sharded"), []
    for name, processes in zip(names, (1, 2), strict=True):
        spec = Spec.of(
            fine_tune_sharded,
            base=str(folder / "base"),
            output=str(folder / name),
            processes=processes,
        )
        wanted.append(Attempt(spec.to_json(), processes))
    whole, sharded = attempts(folder, "fsdp2", wanted)
    assert not whole["log"] and not sharded["log"], sharded["log"]
    (*log, of_one), (*shared, of_each) = whole["outcome"], sharded["outcome"]
    for first, second in zip(log, shared, strict=True):
        assert second == pytest.approx(first, abs=1e-5, rel=1e-5)
    assert of_each["parameters"] < 0.6 * of_one["parameters"]
    one, other = (load_file(folder / f"{name}.partial/finished/model.safetensors") for name in names)
    assert {name: weight.shape for name, weight in one.items()} == {k: v.shape for k, v in other.items()}
    assert all((one[name] - other[name]).abs().max() < 1e-4 for name in one)
