"""A real Ray cluster of two nodes on this machine, which listens on 127.0.0.1."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Else Ray would use the machine's address. It is read at import.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


@dataclass
class Killing:
    """Kills a node as soon as some work has `begun`, and notes when, and when the work is `over`."""

    cluster: Any
    begun: Callable[[], bool]
    over: Callable[[], bool]
    moments: list[float] = field(default_factory=list)

    def __enter__(self) -> Killing:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        until = time.monotonic() + 10
        while len(self.moments) < 2 and time.monotonic() < until:
            time.sleep(0.05)

    def _run(self) -> None:
        while not self.begun():
            time.sleep(0.02)
        (other,) = [node for node in self.cluster.list_all_nodes() if node != self.cluster.head_node]
        self.cluster.remove_node(other, allow_graceful=False)
        self.moments.append(time.monotonic())
        while not self.over():
            time.sleep(0.1)
        self.moments.append(time.monotonic())

    @property
    def seconds(self) -> float:
        """Seconds from the kill to the end of the work."""
        killed, ended = self.moments
        return ended - killed


@contextmanager
def running() -> Iterator[Any]:
    """Two nodes, each with room for two workers; what joins is this process."""
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 1024**2}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        made.add_node(**node)
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
