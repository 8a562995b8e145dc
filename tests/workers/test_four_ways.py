"""One small experiment, four ways: the ids of all rows are the same, and every path is there once.

On the disk with SQLite; on the disk with three workers; in an object store with Postgres; in an object store with a Ray
cluster of two nodes, one of which is killed while it works. The last one is on the disk where not all tests run, since
two servers and a cluster are much for two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from kit import object_stores, postgres, ray_cluster
from kit.sampling import all_methods
from kit.several_workers import SMALL, ids, ids_of, iteration

from selfimprove_dagster.lineage.verify import verify

pytestmark = pytest.mark.scale

EXPERIMENT = {**SMALL, "sampling": {"questions": 40, "paths": 8, "shard_questions": 2}}
PATHS = 40 * 8
WITHIN = 120.0
"""Seconds in which the stage ends whose workers lost a node."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The ids on the disk, with SQLite and one process."""
    found = ids_of(tmp_path_factory.mktemp("one"), EXPERIMENT)
    assert len({*found["lmsi/raw_generations"]}) == PATHS
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[object_stores.Server]:
    with object_stores.seaweedfs() as running:
        yield running


def in_store(server: object_stores.Server, folder: Path) -> dict[str, str]:
    """The variables of a home in an empty object store, which is mirrored in the folder."""
    return {
        **server.variables,
        "SELFIMPROVE_HOME": server.bucket(),
        "SELFIMPROVE_CACHE": str(folder / "cache"),
    }


def test_on_the_disk_with_three_workers(alone: dict[str, list[str]], tmp_path: Path) -> None:
    assert ids_of(tmp_path, EXPERIMENT, {"kind": "local", "count": 3}) == alone


def test_in_an_object_store_with_postgres(
    alone: dict[str, list[str]], server: object_stores.Server, tmp_path: Path
) -> None:
    with postgres.running() as database:
        variables = {**in_store(server, tmp_path), **database}
        with iteration(tmp_path, EXPERIMENT, variables=variables) as home:
            assert ids(home) == alone
            assert verify(home.lake).findings == []
            with dg.DagsterInstance.get() as instance:
                assert "postgres" in type(instance.event_log_storage).__module__
                assert len(instance.get_runs()) == 1


def test_with_a_ray_cluster_that_loses_a_node(
    alone: dict[str, list[str]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="pip install '.[ray]'")
    with ray_cluster.running() as cluster:
        workers = {"kind": "ray", "count": 4, "address": cluster.address}
        variables = in_store(request.getfixturevalue("server"), tmp_path) if all_methods() else {}

        def made(pattern: str) -> int:
            return len([*tmp_path.rglob(f"raw_generations/*/*/{pattern}")])

        with (
            ray_cluster.Killing(
                cluster, lambda: made("*.parquet") > 2, lambda: made("manifest.json") > 0
            ) as killing,
            iteration(tmp_path, EXPERIMENT, workers, variables) as home,
        ):
            found = ids(home)
        assert killing.seconds < WITHIN
        assert len([node for node in ray.nodes() if node["Alive"]]) == 1
    assert found == alone
    assert len({*found["lmsi/raw_generations"]}) == len(found["lmsi/raw_generations"]) == PATHS
