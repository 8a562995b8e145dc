"""What an iteration of the demo costs besides the model's own work.

    python benchmarks/pipeline_cost.py [--iterations 1] [--out FILE.md]

Runs `selfimprove run demo` in a home of its own, in a process of its own, with timers around the parts. A
part that runs inside another counts for itself alone, so the parts add up to the wall time from start to
exit. Processor time is given beside it, since it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import _bootstrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "pipeline_cost.md"
MODEL = ("generation and evaluation", "training", "loading weights")
"""Parts that are the model's own work."""
REST = "interpreter, command line, exit"
WATCHED = {
    "selfimprove_dagster.language_model.transformers_engine": (
        ("TransformersLanguageModel", "generate score", "generation and evaluation"),
        ("TransformersLanguageModel", "__init__", "loading weights"),
    ),
    "transformers.trainer": (("Trainer", "train", "training"),),
    "selfimprove_dagster.training.run": (("", "load", "loading weights"),),
    "selfimprove_dagster.language_model.weights": (("", "model_id", "hashing weights"),),
    "selfimprove_dagster.quality.suites": (("", "run_suite", "checks: evidence"),),
    "selfimprove_dagster.quality.expectations": (
        ("Validator", "__init__ judge", "checks: Great Expectations"),
    ),
    "selfimprove_dagster.lake.lake": (
        (
            "Lake",
            "read read_ungated read_whole read_columns live_rows manifest manifests",
            "lake: reading",
        ),
        ("Lake", "record_checks", "lake: writing"),
        ("Lake", "refresh_catalog", "lake: catalogue of views"),
    ),
    "selfimprove_dagster.lake.partition": (("PartitionWriter", "write_shard commit", "lake: writing"),),
    "selfimprove_dagster.lake.records": (("", "build_records", "ids and hashes of records"),),
    "selfimprove_dagster.assets.factory": (("", "preview_table table_metadata", "previews"),),
    "dagster._core.definitions.job_definition": (("JobDefinition", "execute_in_process", "Dagster"),),
}
"""By module: class (none for a function), names, and the part that they count for."""


class Clock:
    """Wall and processor seconds of each part, what runs inside another part taken out of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        self._open = [REST]
        self._last = self._now()
        self.seconds[REST][2] = 1

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _charge(self) -> None:
        now, part = self._now(), self.seconds[self._open[-1]]
        part[0] += now[0] - self._last[0]
        part[1] += now[1] - self._last[1]
        self._last = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        self.seconds[name][2] += self._open[-2] != name
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time charged to the part `name`."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def watch(self, module: str) -> None:
        """Put the clock around what is watched of a module, before any other module takes it from there."""
        for owner, names, part in WATCHED.get(module, ()):
            place = getattr(sys.modules[module], owner) if owner else sys.modules[module]
            for name in names.split():
                setattr(place, name, self.around(part, getattr(place, name)))
        if module == "selfimprove_dagster.assets.factory":
            stage = sys.modules[module]
            plain = stage._with_plain_errors
            stage._with_plain_errors = lambda compute: plain(self.around("the stages themselves", compute))

    def report(self) -> dict[str, list[float]]:
        self._charge()
        return dict(self.seconds)


def run_watched(iterations: int, report: Path) -> None:
    """Run the demo in this process and write what each part took."""
    clock = Clock()
    load = _bootstrap._find_and_load

    def timed_load(name: str, import_: Any) -> Any:
        with clock.part("imports"):
            module = load(name, import_)
        clock.watch(name)
        return module

    _bootstrap._find_and_load = timed_load
    from selfimprove_dagster.cli.main import main

    sys.argv = ["selfimprove", "run", "demo", "--iterations", str(iterations)]
    with suppress(SystemExit):
        main()
    report.write_text(json.dumps(clock.report()))


def measure(iterations: int) -> tuple[float, dict[str, list[float]]]:
    """Wall seconds of the whole process, and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = {
            **os.environ,
            "SELFIMPROVE_HOME": f"{folder}/home",
            "DAGSTER_HOME": f"{folder}/home/dagster",
            "SELFIMPROVE_EXPERIMENTS": str(ROOT / "experiments"),
        }
        began = time.perf_counter()
        command = [sys.executable, __file__, "--iterations", str(iterations), "--watched", str(report)]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        wall = time.perf_counter() - began
        parts = json.loads(report.read_text())
    parts[REST][0] += wall - sum(seconds for seconds, _, _ in parts.values())
    return wall, parts


def main() -> None:
    parser = argparse.ArgumentParser(description="What the demo costs besides the model's work.")
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--watched", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watched:
        run_watched(options.iterations, options.watched)
        return
    load = os.getloadavg()[0]
    wall, parts = measure(options.iterations)
    others = {name: took for name, took in parts.items() if name not in MODEL}
    lines = [
        "# What the demo costs besides the model's work",
        "",
        f"`python benchmarks/pipeline_cost.py --iterations {options.iterations}`",
        "",
        "| part | calls | seconds | of the wall time | processor seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, group in (("model", {name: parts[name] for name in MODEL}), ("pipeline", others)):
        total = [sum(column) for column in zip(*group.values(), strict=True)]
        lines.append(
            f"| **{title}** | | **{total[0]:.1f}** | **{total[0] / wall:.1%}** | **{total[1]:.1f}** |"
        )
        for name, (seconds, processor, calls) in sorted(group.items(), key=lambda part: -part[1][0]):
            lines.append(f"| {name} | {calls:.0f} | {seconds:.1f} | {seconds / wall:.1%} | {processor:.1f} |")
    lines += [
        "",
        f"{wall:.1f} s from start to exit. Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load average {load:.1f} before the run.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
