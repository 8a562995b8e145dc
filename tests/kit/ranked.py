"""Trains with several ranks, and kills some: a program, since its processes are forked before any thread is started.

    PYTHONPATH=tests python -m kit.ranked PLAN

`PLAN` is a JSON file with a list of attempts, which are made one after another. Every rank is a fork of this one warm
process, which has imported everything and computed nothing; torchrun would import for seconds. Like torchrun, this
ends the other ranks when one has failed. Prints what came of each attempt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

WARM = ("torch", "trl", "datasets", "transformers.models.llama", "torch.distributed.fsdp")


@dataclass(frozen=True)
class Attempt:
    """A job (a spec as JSON) by so many ranks; rank `kill[0]` is killed at its moment number `kill[1]`."""

    job: dict[str, Any]
    ranks: int = 1
    kill: tuple[int, int] | None = None


@dataclass(frozen=True)
class Made:
    """What came of an attempt: what rank 0 returned, and by rank the moments and the end (negative: a signal)."""

    outcome: Any = None
    moments: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    log: str = ""


def count_moments(kill_at: int | None) -> list[int]:
    """Count what this rank does to files, and its steps of training, from now on; it dies at one of them."""
    from transformers import Trainer

    count = [0]

    def passing(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def passed(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return passed

    places = [(os, name) for name in ("fsync", "replace", "rename", "unlink")]
    import torch

    for owner, name in [*places, (torch, "save"), (Trainer, "training_step")]:
        setattr(owner, name, passing(getattr(owner, name)))
    return count


def run_rank(attempt: Attempt, rank: int, port: int, folder: Path) -> None:
    """One rank, in this process."""
    import torch

    from selfimprove_dagster.work.spec import Spec

    torch.set_num_threads(1)
    if attempt.ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        os.environ |= {"WORLD_SIZE": str(attempt.ranks), "LOCAL_WORLD_SIZE": str(attempt.ranks)}
    kill_at = attempt.kill[1] if attempt.kill and attempt.kill[0] == rank else None
    count = count_moments(kill_at)
    outcome = Spec(**attempt.job).call()
    plain = asdict(outcome) if hasattr(outcome, "__dataclass_fields__") else outcome
    (folder / f"{rank}.json").write_text(json.dumps([count[0], plain], default=str))


def forked(work: Callable[[], None], log: Path) -> int:
    """Start `work` in a process of its own, with its output in `log`."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make(attempt: Attempt, folder: Path) -> Made:
    """Start the ranks of an attempt and wait for all."""
    from selfimprove_dagster.language_model.serving import free_port

    folder.mkdir()
    port = free_port()
    logs = [folder / f"{rank}.log" for rank in range(attempt.ranks)]
    running = {
        forked(lambda rank=rank: run_rank(attempt, rank, port, folder), log): rank  # type: ignore[misc]
        for rank, log in enumerate(logs)
    }
    ended = [0] * attempt.ranks
    deadline = time.monotonic() + 300
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            ended[running.pop(process)] = os.waitstatus_to_exitcode(status)
        if any(ended) or time.monotonic() > deadline:
            for other in running:
                os.kill(other, signal.SIGTERM)
        time.sleep(0.01)
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return Made(
        found[0][1] if found and not any(ended) else None,
        [moments for moments, _ in found],
        ended,
        "\n".join(log.read_text()[-3000:] for log in logs) if any(ended) else "",
    )


def main(plan: Path) -> None:
    for name in WARM:
        import_module(name)
    from trl import DPOTrainer, GRPOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer  # noqa: F401

    attempts = [Attempt(**one) for one in json.loads(plan.read_text())]
    folder = plan.parent / f"{plan.stem}-attempts"
    folder.mkdir()
    made = [make(attempt, folder / str(number)) for number, attempt in enumerate(attempts)]
    plan.with_suffix(".made").write_text(json.dumps([asdict(one) for one in made]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
