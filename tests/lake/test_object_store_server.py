"""A home in a real object store (SeaweedFS): writers that race, that are killed, that are far away."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kit import racing
from kit.object_stores import Server, mirror, seaweedfs
from kit.sampling import all_methods, head
from kit.slow_link import slow_link
from kit.small_lake import SMALL_EXPERIMENT, activity_of, seed_draft, store

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.object_store import ObjectStore
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL

pytestmark = pytest.mark.scale

RACES = 20
KILLS = 30 if all_methods() else 5
ROUND_TRIP = 0.03
"""Seconds that an answer takes over a slow link."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with seaweedfs() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.variables.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """A folder for machines, with the address of an empty home."""
    (tmp_path / "address").write_text(server.bucket())
    return tmp_path


def started(what: str, folder: Path, name: str, number: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(racing.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "kit.racing", what, str(folder), name, str(number)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(program, env={**environment, "POLARS_MAX_THREADS": "1"}, text=True, **pipes)


def test_of_sixteen_writers_exactly_one_commits(folder: Path) -> None:
    racers = [started("race", folder, f"racer-{at}", RACES) for at in range(racing.PROCESSES)]
    said = [racer.communicate(timeout=240) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers), "".join(errors for _, errors in said)[-4000:]
    ended: dict[str, list[str]] = {}
    for out, _ in said:
        ended |= json.loads(out)
    lake = racing.machine(folder, "reader")
    for at, each in enumerate(zip(*ended.values(), strict=True)):
        locked = at < RACES // 2
        assert Counter(each) == {"committed": 1, "busy" if locked else "outrun": racing.RACERS - 1}, at
        winner = [*ended][each.index("committed")]
        assert lake.read(SEED_POOL.name, partition_of("demo", at))["question"].to_list() == [f"{winner}?"]
    assert verify(lake).findings == []


def test_a_killed_writer_leaves_what_another_machine_ends(folder: Path, tmp_path: Path) -> None:
    """Every writer dies at another request; each is of another machine than the one before."""
    writer = started("write", folder, "undisturbed", 0)
    out, errors = writer.communicate(timeout=120)
    assert writer.returncode == 0, errors
    requests = json.loads(out)["requests"]
    undisturbed = racing.machine(folder, "reader").read(SEED_POOL.name, partition_of("demo", 0))
    (folder / "address").write_text(f"{(folder / 'address').read_text()}-killed")
    draw, at = random.Random(head()), 0
    for at in range(KILLS):
        killed = started("write", folder, f"machine-{at}", draw.randint(1, requests))
        _, errors = killed.communicate(timeout=120)
        assert killed.returncode in (0, -9), errors
    last = started("write", folder, f"machine-{at + 1}", 0)
    assert last.communicate(timeout=120)[1] == "" and last.returncode == 0
    lake = racing.machine(folder, "late reader")
    assert lake.read(SEED_POOL.name, partition_of("demo", 0)).equals(undisturbed)
    report = verify(lake)
    assert (report.findings, report.notes, report.rows) == ([], [], racing.SHARDS)


def test_a_slow_link_is_crossed_as_seldom_as_possible(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand partitions are listed together and their manifests fetched together, once."""
    address, partitions = server.bucket(), 1_000
    near = Lake(mirror(tmp_path / "near", address) / "lake")
    manifest, _ = store(near, SEED_POOL, [seed_draft()])
    text = (manifest.directory / "manifest.json").read_text()
    assert isinstance(near.store, ObjectStore)
    for at in range(1, partitions):
        key = f"lake/lmsi/seed_pool/experiment=demo/iteration={at:03d}/manifest.json"
        near.store._put(key, text.replace('"iteration": "000"', f'"iteration": "{at:03d}"').encode())
    with slow_link(server.port, ROUND_TRIP) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        far = Lake(mirror(tmp_path / "far", f"{address}/") / "lake")
        seconds: dict[str, float] = {}

        def timed(what: str, action: Any) -> Any:
            began = time.monotonic()
            answer = action()
            seconds[what] = round(time.monotonic() - began, 3)
            return answer

        assert len(timed("all manifests", far.manifests)) == partitions
        assert len(timed("again, while the list is fresh", far.manifests)) == partitions
        time.sleep(1.1)
        assert len(timed("again", far.manifests)) == partitions
        timed("one partition", lambda: far.read(SEED_POOL.name, manifest.partition))
        activity = activity_of(SEED_POOL, iteration=partitions)
        rows = build_records(SEED_POOL, [seed_draft("far?")], activity)
        timed("a commit", lambda: far.write(SEED_POOL, activity, rows))
    print(seconds)
    assert seconds["all manifests"] < 10 and seconds["again"] < 3 and seconds["a commit"] < 5, seconds
    assert seconds["again, while the list is fresh"] < seconds["again"]


# ---- a whole home --------------------------------------------------------------------------------------


def selfimprove(*given: str, environment: dict[str, str]) -> str:
    """What a command prints; it must succeed."""
    program = [str(Path(sys.executable).parent / "selfimprove"), *given]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{given}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def ids(lake: Lake) -> dict[str, list[str]]:
    """The ids of all rows, by table and partition, in their order."""
    return {f"{one.table} {one.partition}": lake.read_whole(one)["id"].to_list() for one in lake.manifests()}


def test_an_experiment_on_two_machines_and_one_store_makes_the_ids_of_a_folder(
    server: Server, tmp_path: Path
) -> None:
    """The second machine goes on from the checkpoint that the first one trained."""
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    smaller = {"sampling": {"questions": 8, "paths": 8, "shard_questions": 4}}
    smaller["evaluation"] = {"file": "embedded", "rows": "0:8", "majority_questions": 2, "majority_paths": 2}
    (experiments / "small.yaml").write_text(json.dumps({**SMALL_EXPERIMENT, **smaller}))
    common = {**os.environ, "SELFIMPROVE_EXPERIMENTS": str(experiments), "OMP_NUM_THREADS": "1"}
    common.pop("DAGSTER_HOME", None)
    address = f"s3://homes/{uuid4().hex}/deep"
    one, two, three = (
        {**common, "SELFIMPROVE_HOME": address, "SELFIMPROVE_CACHE": str(tmp_path / name)}
        for name in ("one", "two", "three")
    )
    local = {**common, "SELFIMPROVE_HOME": str(tmp_path / "home")}
    selfimprove("run", "small", environment=local)
    selfimprove("run", "small", "--iterations", "1", environment=one)
    selfimprove("run", "small", environment=two)
    expected = ids(Lake(tmp_path / "home" / "lake"))
    (mirrored,) = (tmp_path / "two" / "homes").iterdir()
    assert ids(Lake(mirrored / "lake")) == expected and len(expected) > 15
    # A third machine has seen nothing yet.
    for command in (("status", "small"), ("lineage", "example", "small")):
        here, there = (selfimprove(*command, environment=environment) for environment in (local, three))
        hidden = ("checkpoint", "champion:")
        kept = [[line for line in text.splitlines() if not line.startswith(hidden)] for text in (here, there)]
        assert kept[0] == kept[1], command
    found = {
        selfimprove("lineage", "verify", environment=each).split("digest")[0].split(",")[0]
        for each in (two, three)
    }
    assert len(found) == 1 and "no findings" in selfimprove("lineage", "verify", environment=three)
    for name, environment in (("local", local), ("store", three)):
        selfimprove("export", "small", str(tmp_path / name), "--format", "jsonl", environment=environment)
        folder = str(tmp_path / f"{name}-model")
        selfimprove("export", "small", folder, "--format", "checkpoint", environment=environment)
    exported = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jsonl"))}
        for name in ("local", "store")
    ]
    assert exported[0] == exported[1] and exported[0]
    weights = [(tmp_path / f"{name}-model" / "model.safetensors").read_bytes() for name in ("local", "store")]
    assert weights[0] == weights[1]
