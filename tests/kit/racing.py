"""A process that writes to a lake in an object store, as on a machine of its own: it races others, or is killed.

    PYTHONPATH=tests python -m kit.racing race FOLDER NAME RACES    # by the address in FOLDER/address
    PYTHONPATH=tests python -m kit.racing write FOLDER NAME KILL    # dies at its KILL-th request that changes the store

Machines are folders in FOLDER. Racers wait for each other there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kit.object_stores import mirror
from kit.small_lake import activity_of, seed_draft
from selfimprove_dagster.errors import PartitionBusy
from selfimprove_dagster.lake import lake as lake_module
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import held
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL

RACERS, PROCESSES = 16, 4
SHARDS = 3


def machine(folder: Path, name: str) -> Lake:
    """The lake as a machine sees it."""
    return Lake(mirror(folder / name, (folder / "address").read_text()) / "lake")


def meet(folder: Path, name: str, point: str) -> None:
    """Wait until all racers are at this point."""
    (folder / point).mkdir(exist_ok=True)
    (folder / point / name).touch()
    deadline = time.monotonic() + 60
    while len(list((folder / point).iterdir())) < RACERS:
        assert time.monotonic() < deadline, f"some racer never came to {point}"
        time.sleep(0.005)


def race(folder: Path, name: str, races: int) -> dict[str, list[str]]:
    """The races of some machines, each a thread; how each race of each ended."""
    names = [f"{name}-{at}" for at in range(RACERS // PROCESSES)]
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda one: race_alone(folder, one, races), names), strict=True))


def race_alone(folder: Path, name: str, races: int) -> list[str]:
    """Write the same partitions as all others at the same time; how each race ended.

    In the first half, one gets the lock and keeps it until all have asked for it. In the second half, all take
    themselves for its holder, as those do whose leases were taken over, and one commits.
    """
    lake, ended = machine(folder, name), []
    for at in range(races):
        is_locked = at < races // 2
        lake_module.held = held if is_locked else lambda *_: nullcontext()  # type: ignore[assignment, misc]
        activity = activity_of(SEED_POOL, iteration=at, parameters={"racer": name})
        rows = build_records(SEED_POOL, [seed_draft(f"{name}?")], activity)
        meet(folder, name, f"start-{at}")
        try:
            with lake.writer(SEED_POOL, activity) as writer:
                writer.write_shard(0, rows)
                meet(folder, name, f"asked-{at}")
                writer.commit()
                ended.append("committed")
        except PartitionBusy as error:
            if is_locked:
                meet(folder, name, f"asked-{at}")
            ended.append("busy" if "is being written" in str(error) else "outrun")
    return ended


def write(folder: Path, name: str, kill: int) -> dict[str, Any]:
    """Write and commit a partition of some shards; the process dies at a request, which was or was not answered."""
    from selfimprove_dagster.lake.object_store import ObjectStore

    lake, requests = machine(folder, name), 0

    def counted(request: Callable[..., Any]) -> Callable[..., Any]:
        def passed(*arguments: Any, **named: Any) -> Any:
            nonlocal requests
            requests += 1
            if requests == kill and kill % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = request(*arguments, **named)
            if requests == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return passed

    ObjectStore._put = counted(ObjectStore._put)  # type: ignore[method-assign]
    ObjectStore.delete = counted(ObjectStore.delete)  # type: ignore[method-assign]
    activity = activity_of(SEED_POOL, parameters={"shards": SHARDS})
    with lake.writer(SEED_POOL, activity) as writer:
        for at in sorted({*range(SHARDS)} - writer.committed_shards):
            writer.write_shard(at, build_records(SEED_POOL, [seed_draft(f"{at}?", at)], activity))
        writer.commit()
    return {"requests": requests}


if __name__ == "__main__":
    work = {"race": race, "write": write}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
