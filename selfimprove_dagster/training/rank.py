"""One of the processes that train together: `python -m selfimprove_dagster.training.rank FOLDER` under torchrun.

Ray Train calls `main_in_ray` in each of its workers instead.

`FOLDER` is that of `launching.launch`. All output goes to a file there. Rank 0 reports by Dagster Pipes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfimprove_dagster.training import folders, ranks
from selfimprove_dagster.training.launching import JOB, reported
from selfimprove_dagster.work.spec import Spec

_PAUSE = 0.2
"""Seconds between two looks at the process that started this one."""


def main(folder: Path) -> None:
    """Run the job of `folder` as this rank; an exception is written there, too."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    rank = os.environ["RANK"]
    with (folder / f"rank-{rank}.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        asked = json.loads((folder / JOB).read_text(encoding="utf-8"))
        job = Spec(**asked["job"])
        if job.arguments["device"] != "cpu":
            ranks.use_own_gpu()
        if ranks.is_first():
            _report(job, asked["listeners"])
        else:
            job.call()
    except Exception as error:
        failure = {"kind": type(error).__name__, "message": str(error), "at": time.time()}
        folders.write_json(folder / f"failure-{rank}.json", failure)
        raise


def main_in_ray(asked: dict[str, str]) -> None:
    """Run the job of `asked["folder"]` as this rank, which Ray Train started."""
    main(Path(asked["folder"]))


def _report(job: Spec, listeners: list[str]) -> None:
    from dagster_pipes import open_dagster_pipes

    def reporting(name: str) -> Callable[[Any], None]:
        return lambda value: pipes.report_custom_message({name: value})

    with open_dagster_pipes() as pipes:
        nodes = ranks.started() // int(os.environ["LOCAL_WORLD_SIZE"])
        pipes.log.info(f"{ranks.started()} processes train together, nodes: {nodes}")
        outcome = job.call(**{name: reporting(name) for name in listeners})
        pipes.report_custom_message(reported(outcome))


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even where it waits for another rank."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
