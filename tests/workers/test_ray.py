"""Workers in a real Ray cluster of two nodes on this machine, one of which is killed while they work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.several_workers import SMALL, ids, iteration

from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.sections import ModelSection, WorkersSection
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.workers.models import SharedModels

pytestmark = pytest.mark.scale
# So that Ray, which would use the machine's address, listens on 127.0.0.1 alone. It is read at import.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray = pytest.importorskip("ray", reason="pip install '.[ray]'")

EXPERIMENT = {**SMALL, "sampling": {"questions": 40, "paths": 8, "shard_questions": 2}}
SECTION = ModelSection(path=str(BASE_MODEL), device="cpu")
WITHIN = 120.0
"""Seconds in which the stage ends whose workers lost a node."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with room for two workers; what joins is this process."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {
        "num_cpus": 2,
        "object_store_memory": 80 * 1024**2,
    }
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def test_what_cannot_start_says_what_to_do(cluster: Any) -> None:
    def opened(**settings: Any) -> None:
        workers = WorkersSection(kind="ray", **settings)
        models = SharedModels(LanguageModelResource(), workers, lambda line: None)
        with models.open(SECTION):
            pass

    with pytest.raises(ModelUnavailable, match=r"no Ray cluster at 127\.0\.0\.1:9"):
        opened(address="127.0.0.1:9")
    with pytest.raises(
        ModelError, match=r"no worker with 7 cores and 0 GPUs was ready .* lower run\.workers\.count"
    ):
        opened(address=cluster.address, resources={"cpus": 7}, patience=3)
    opened(address=cluster.address)


def test_a_killed_node_costs_what_its_workers_were_at(tmp_path: Path, cluster: Any) -> None:
    moments: list[float] = []

    def kill() -> None:
        folder = tmp_path / "ray" / "home" / "lake" / "lmsi" / "raw_generations"
        while len([*folder.rglob("*.parquet")]) < 3:
            time.sleep(0.02)
        (other,) = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
        cluster.remove_node(other, allow_graceful=False)
        moments.append(time.monotonic())
        while not [*folder.rglob("manifest.json")]:
            time.sleep(0.1)
        moments.append(time.monotonic())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    workers = {"kind": "ray", "count": 4, "address": cluster.address}
    home = iteration(tmp_path / "ray", EXPERIMENT, workers)
    killer.join(10)
    killed, ended = moments
    assert ended - killed < WITHIN
    assert len([node for node in ray.nodes() if node["Alive"]]) == 1
    found = ids(home)
    assert found == ids(iteration(tmp_path / "one", EXPERIMENT))
    drawn = found["lmsi/raw_generations"]
    assert len(drawn) == len({*drawn}) == 40 * 8, "each path once"
