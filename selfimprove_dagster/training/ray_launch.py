"""Start the processes that train together by Ray Train: `python -m selfimprove_dagster.training.ray_launch FOLDER`.

`FOLDER` is that of `launching.launch`, which runs this in place of torchrun for `launch.by: ray`. Ray places the
processes and makes their process group; each then runs `rank.main`, as under torchrun. The cluster is that of
`$RAY_ADDRESS`. Without it, one is started on this machine at 127.0.0.1, and ends with this process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from selfimprove_dagster.training import folders, ranks
from selfimprove_dagster.training.launching import JOB
from selfimprove_dagster.training.rank import main_in_ray
from selfimprove_dagster.training.settings import Launch

_HANDED_ON = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES", "OMP_NUM_THREADS", "PYTHONPATH")
"""Variables of this process that each of the processes has, too."""

_OBJECTS = 80 * 1024**2
"""Bytes of the object store of a cluster on this machine; training puts nothing there."""


def main(folder: Path) -> None:
    """Train, and end with code 1 if a process fails, as torchrun does."""
    asked = json.loads((folder / JOB).read_text(encoding="utf-8"))["job"]["arguments"]
    how, on_cpu = Launch(**asked["settings"]["launch"]), asked["device"] == "cpu"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        # Ray, which would use the machine's address, then listens on 127.0.0.1 alone. It is read at import.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        cores = max(how.total, os.cpu_count() or 1)
        local = {"include_dashboard": False, "num_cpus": cores, "object_store_memory": _OBJECTS}
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    variables = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, **local)
    on_cpu = on_cpu or not ray.cluster_resources().get("GPU")
    trainer = TorchTrainer(
        main_in_ray,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=how.total, use_gpu=not on_cpu),
        torch_config=TorchConfig(backend=ranks.backend(on_cpu), timeout_s=int(ranks.LIMIT.total_seconds())),
        run_config=RunConfig(
            name="run", storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for rank, failure in error.worker_failures.items():
            own = folder / f"failure-{rank}.json"
            ended = getattr(failure, "health_check_failure", failure)
            if isinstance(ended, ray.exceptions.RayActorError) and not own.exists():
                message = f"rank {rank} of {how.total} processes was ended; training can be resumed: {ended}"
                folders.write_json(own, {"kind": "RankKilled", "message": message, "at": time.time()})
        raise
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
