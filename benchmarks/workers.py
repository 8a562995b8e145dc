"""What a worker costs beside its work: the way of a shard of 3 MB to the stage, and the start.

    python benchmarks/workers.py [--out FILE.md]

The shard has completions as the embedded model draws them. A process of this machine, and an actor of a Ray cluster of
this machine, keep it and send it when they are asked, so that only the way is measured. Ray is left out where it is not
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.experiment.sections import WorkerResources, WorkersSection
from selfimprove_dagster.language_model import Generation, SamplingParameters, open_language_model

RESULTS = Path(__file__).parent / "results" / "workers.md"
BYTES = 3_000_000
TIMES = 30

ECHO = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
shard = connection.recv()
while connection.recv():
    connection.send(("answer", shard))
"""


def shard() -> list[list[Generation]]:
    """Completions that take about 3 MB."""
    model = open_language_model(BASE_MODEL, device="cpu")
    prompts = model.encode_prompts(["Q: Lucy has 4 balls. She gets 2 more. How many has she?\nA:"] * 64)
    made: list[list[Generation]] = []
    while len(pickle.dumps(made)) < BYTES:
        seeds = [[*range(len(made), len(made) + 8)]] * len(prompts)
        made += model.generate(prompts, seeds, SamplingParameters(max_tokens=96))
    model.close()
    return made


def milliseconds(call: Callable[[], Any], times: int = TIMES) -> list[float]:
    """The milliseconds of each call, after two that do not count."""
    found = []
    for at in range(times + 2):
        started = time.perf_counter()
        call()
        if at > 1:
            found.append((time.perf_counter() - started) * 1000)
    return found


def local(shard: Any) -> tuple[list[float], float]:
    """The way of a shard through a socket, and the start of a worker."""
    from selfimprove_dagster.workers.process import LocalWorker

    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", ECHO, str(theirs.fileno())]
        echo = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    connection = Connection(ours.detach())
    connection.send(shard)

    def call() -> None:
        connection.send("generate")
        connection.recv()

    way = milliseconds(call)
    echo.kill()
    echo.wait()
    started = time.perf_counter()
    LocalWorker(0, str(BASE_MODEL), {"device": "cpu"}, WorkerResources()).close()
    return way, time.perf_counter() - started


def on_ray(shard: Any) -> tuple[list[float], float]:
    """The way of a shard from an actor, and the start of a worker in a cluster that runs."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that it listens on 127.0.0.1 alone
    import ray

    from selfimprove_dagster.workers.on_ray import RayWorkers

    workers = RayWorkers(
        WorkersSection(kind="ray", address="local"), str(BASE_MODEL), {"device": "cpu"}, lambda line: None
    )

    class Echo:
        def __init__(self, shard: Any) -> None:
            self.shard = shard

        def give(self) -> Any:
            return self.shard

    actor = ray.remote(Echo).remote(shard)
    way = milliseconds(lambda: ray.get(actor.give.remote()))
    ray.kill(actor)
    started = time.perf_counter()
    workers.start(0).close()
    took = time.perf_counter() - started
    ray.shutdown()
    return way, took


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    load, made = os.getloadavg()[0], shard()
    size, tokens = len(pickle.dumps(made)) / 1e6, sum(one.tokens for group in made for one in group)
    lines = [
        "# What a worker costs beside its work",
        "",
        "`python benchmarks/workers.py`",
        "",
        f"A shard of {sum(map(len, made)):,} completions, {tokens:,} tokens, {size:.1f} MB, comes from a worker, "
        f"{TIMES} times. Most of it is the time in which Python makes the objects, as it does without workers. The "
        "start is that of a worker with the embedded model.",
        "",
        "| worker | median | fastest | slowest | start |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, measure in (("local", local), ("ray", on_ray)):
        if name == "ray" and importlib.util.find_spec("ray") is None:
            continue
        way, start = measure(made)
        figures = (statistics.median(way), min(way), max(way))
        lines.append(f"| {name} | {' | '.join(f'{one:.1f} ms' for one in figures)} | {start:.1f} s |")
    tail = f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {load:.1f} before."
    asked.out.write_text("\n".join([*lines, "", tail, ""]))
    print(asked.out.read_text())


if __name__ == "__main__":
    main()
