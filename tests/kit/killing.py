"""Runs iterations and kills them: a program, since its processes are forked before any thread is started.

    PYTHONPATH=tests python -m kit.killing FOLDER PLAN

Every attempt is a fork of this one warm process, which has imported everything and computed nothing. The
undisturbed attempt counts its moments (a shard half written, an fsync, a rename, a step of training, paths
that were drawn); others are killed with SIGKILL at one of them, or after some time. Prints what it did.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

import yaml

from kit.judging_home import EXPERIMENTS as JUDGED
from kit.sampling import all_methods, head, rank
from kit.small_lake import SMALL_EXPERIMENT

LANES = 2
"""Homes in which runs go on at the same time."""


@dataclass(frozen=True)
class Plan:
    """An experiment, and how often its process is killed: at counted moments by stage, in the order in which
    the stages run, and after random times. The former are spread over some homes.
    """

    experiment: dict[str, Any]
    kills: dict[str, int]
    by_time: int = 0
    homes: int = LANES

    @property
    def stages(self) -> list[str]:
        return list(self.kills)

    def sample(self, commit: str) -> Plan:
        """A plan of at most five kills: one in each of four stages, which rotate with the commit, and one by time."""
        due = [stage for stage, kills in self.kills.items() if kills]
        turn = sorted(due, key=lambda stage: rank(commit, stage))[:4]
        kills = {stage: int(stage in turn) for stage in self.kills}
        return replace(self, kills=kills, by_time=min(self.by_time, 1), homes=LANES)


PLANS = {
    "lmsi": Plan(
        {
            **SMALL_EXPERIMENT,
            "seeds": {"file": "embedded", "rows": "0:60", "licence": "Apache-2.0"},
            "sampling": {"questions": 24, "paths": 8, "shard_questions": 4},
            "training": {"steps": 6, "batch_size": 8, "save_every": 2},
            "budget": {"iterations": 1},
        },
        {
            "seed_pool": 1,
            "raw_generations": 8,
            "perplexity_scores": 2,
            "voted_answers": 2,
            "example_ratings": 1,
            "filtered_dataset": 3,
            "fine_tuned_checkpoint": 5,
            "evaluation": 4,
            "promotion": 1,
        },
        by_time=4,
        homes=4,
    ),
    "constitutional": Plan(
        {**JUDGED["cai"], "training": {"steps": 4, "save_every": 2}},
        {
            "seed_pool": 0,
            "raw_generations": 0,
            "revisions": 3,
            "example_perplexities": 0,
            "example_ratings": 0,
            "filtered_dataset": 0,
            "fine_tuned_checkpoint": 0,
            "evaluation": 1,
            "promotion": 0,
        },
    ),
    "rlaif": Plan(
        {
            **JUDGED["ai"],
            "reward_model": {"steps": 4, "save_every": 2},
            "training": {**JUDGED["ai"]["training"], "save_every": 1},
        },
        {
            "seed_pool": 0,
            "response_pairs": 0,
            "comparisons": 1,
            "ai_preferences": 0,
            "judge_checks": 0,
            "review_queue": 0,
            "filtered_dataset": 0,
            "reward_model": 1,
            "fine_tuned_checkpoint": 2,
            "evaluation": 0,
            "promotion": 0,
        },
    ),
}


def plan_of(name: str) -> Plan:
    """The whole plan of that name where a run tries all methods, else a sample of it."""
    return PLANS[name] if all_methods() else PLANS[name].sample(head())


@dataclass
class Moments:
    """Counts the moments of one attempt by stage; at `target` (a stage's place, a count) the process dies.

    `earlier` are the counts of the attempts before it in the same home.
    """

    plan: Plan
    earlier: Counter[str] = field(default_factory=Counter)
    target: tuple[int, int] | None = None
    journal: Path | None = None
    stage: str = "seed_pool"
    counts: Counter[str] = field(default_factory=Counter)

    def pass_one(self, torn: Callable[[], Any] | None = None) -> None:
        """One more moment; `torn` leaves its file half written, if this is where the process dies."""
        self.counts[self.stage] += 1
        count = self.earlier[self.stage] + self.counts[self.stage]
        if self.target is not None and (self.plan.stages.index(self.stage), count) >= self.target:
            if torn is not None:
                torn()
            self.write_down()
            os.killpg(os.getpid(), signal.SIGKILL)

    def write_down(self) -> None:
        if self.journal is not None:
            self.journal.write_text(json.dumps({"stage": self.stage, "counts": self.counts}))

    def install(self) -> None:
        """Wrap what the product calls at each moment. The product itself knows nothing of this."""
        import polars as pl
        from transformers import Trainer

        from selfimprove_dagster.quality.expectations import Validator
        from selfimprove_dagster.stage import StageContext
        from selfimprove_dagster.work.progress import ProgressReport

        begin = StageContext.__init__

        def entered(context: Any, **fields: Any) -> None:
            begin(context, **fields)
            if "_started" not in fields:  # else it is a copy for a table beside
                self.stage = context.table.stage

        StageContext.__init__ = entered  # type: ignore[method-assign, assignment]
        if self.target is not None:  # the attempt that ends runs its checks; for those that die, time counts
            Validator.__init__ = lambda _: None  # type: ignore[method-assign]
            Validator._validate = lambda *_: []  # type: ignore[method-assign]
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (os, "unlink"),
            (ProgressReport, "advance"),
            (Trainer, "training_step"),
        ):
            setattr(owner, name, self._passing(getattr(owner, name)))
        pl.DataFrame.write_parquet = self._tearing(pl.DataFrame.write_parquet)  # type: ignore[method-assign]
        Path.write_bytes = self._tearing(Path.write_bytes)  # type: ignore[method-assign]

    def _passing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def passed(*arguments: Any, **named: Any) -> Any:
            self.pass_one()
            return function(*arguments, **named)

        return passed

    def _tearing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def torn(*arguments: Any, **named: Any) -> Any:
            written = write(*arguments, **named)
            path = next(argument for argument in arguments if isinstance(argument, Path))
            self.pass_one(lambda: os.truncate(path, path.stat().st_size // 2))
            return written

        return torn


def new_home(folder: Path, plan: Plan = PLANS["lmsi"]) -> Path:
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "small.yaml").write_text(yaml.safe_dump({**plan.experiment, "name": "small"}))
    return folder


def run(folder: Path, moments: Moments) -> None:
    """One attempt at the iteration, in this process."""
    os.environ["SELFIMPROVE_HOME"] = str(folder / "home")
    os.environ["SELFIMPROVE_EXPERIMENTS"] = str(folder / "experiments")
    os.environ["DAGSTER_HOME"] = str(folder / "home" / "dagster")
    from selfimprove_dagster.families.dialogues import exam as dialogue_exam
    from selfimprove_dagster.families.tasks import exam as task_exam
    from selfimprove_dagster.home.home import Home
    from selfimprove_dagster.methods.lmsi import exam as lmsi_exam
    from selfimprove_dagster.runs import run_iteration

    lmsi_exam.PART_PATHS = task_exam.PART_PATHS = dialogue_exam.PART_PROMPTS = 8
    moments.install()
    home = Home.from_environment()
    problems = run_iteration(home, home.experiment("small"), 0)
    if problems:
        raise SystemExit("; ".join(problems))


def forked(folder: Path, work: Callable[[], None]) -> int:
    """Start `work` in a process (and process group) of its own; what it prints goes to `folder/log`."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(folder: Path, moments: Moments, after: float | None = None) -> bool:
    """One attempt; whether it was killed. One that ends by itself must end well."""
    journal = folder / "journal.json"
    journal.unlink(missing_ok=True)
    moments.journal = journal

    def work() -> None:
        run(folder, moments)
        moments.write_down()

    process = forked(folder, work)
    deadline = None if after is None else time.monotonic() + after
    while True:
        done, status = os.waitpid(process, os.WNOHANG if deadline else 0)
        if done:
            break
        if deadline and time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            deadline = None
        time.sleep(0.005)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, (folder / "log").read_text()[-4000:]
        return True
    assert os.WEXITSTATUS(status) == 0, (folder / "log").read_text()[-4000:]
    return False


def watch(folder: Path, parent: int) -> None:
    """Read all that is committed, again and again, and write down whatever is not whole."""
    import duckdb

    from selfimprove_dagster.lake.disk import file_checksum
    from selfimprove_dagster.lake.lake import Lake

    while os.getppid() == parent:
        for root in folder.glob("*/home/lake"):
            lake, catalog = Lake(root), root / "catalog.duckdb"
            for manifest in lake.manifests():
                rows = lake.read_whole(manifest)
                sums = {path.name: file_checksum(path) for path in manifest.paths}
                whole = (
                    len(rows) == manifest.rows == rows["id"].n_unique()
                    and {file.name: file.checksum for file in manifest.files} == sums
                )
                if not whole and manifest == lake.manifest(manifest.table, manifest.partition):
                    print(f"not whole: {manifest.directory}")
            if catalog.exists():
                with duckdb.connect(str(catalog), read_only=True) as connection:
                    connection.sql("SELECT count(*), count(DISTINCT id) FROM records").fetchall()
        (folder / "reads").open("a").write(".")
        time.sleep(0.5)


def kill_at_moments(home: Path, plan: Plan, targets: list[tuple[int, int]]) -> list[list[Any]]:
    """Runs in one home, each killed at its moment, and one that ends; where each was killed."""
    killed_at, earlier = [], Counter[str]()
    for target in [*targets, None]:
        killed = attempt(home, Moments(plan, earlier, target))
        assert killed == (target is not None), f"{target} in {home}: killed is {killed}"
        if target is not None:
            journal = json.loads((home / "journal.json").read_text())
            earlier += Counter(journal["counts"])
            killed_at.append([plan.stages[target[0]], target[1], journal["stage"]])
    return killed_at


def kill_after_seconds(home: Path, plan: Plan, draw: random.Random) -> int:
    """The same after random times; how many attempts that took."""
    killed = attempts = 0
    while killed < plan.by_time:
        killed += attempt(home, Moments(plan), after=draw.uniform(0.3, 6.0))
        attempts += 1
    assert not attempt(home, Moments(plan))
    return attempts


def warm_up(folder: Path, plan: Plan) -> Counter[str]:
    """Import what an iteration imports, found by running one in a fork; returns its moments by stage."""
    home = new_home(folder / "undisturbed", plan)

    def work() -> None:
        moments = Moments(plan, journal=home / "journal.json")
        run(home, moments)
        moments.write_down()
        (folder / "modules").write_text("\n".join(sorted(sys.modules)))

    assert os.waitpid(forked(home, work), 0)[1] == 0, (home / "log").read_text()[-4000:]
    for name in (folder / "modules").read_text().splitlines():
        if name != "__main__" and name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:  # modules that others make up as they go
                continue
    return Counter(json.loads((home / "journal.json").read_text())["counts"])


def main(folder: Path, plan: Plan) -> None:
    moments, draw = warm_up(folder, plan), random.Random(20_260_901)
    targets = sorted(
        (plan.stages.index(stage), draw.randint(1, moments[stage]))
        for stage, kills in plan.kills.items()
        for _ in range(kills)
    )
    homes = [new_home(folder / f"home-{number}", plan) for number in range(plan.homes)]
    by_time = new_home(folder / "home-by-time", plan) if plan.by_time else None
    watching = os.getpid()
    reader = forked(folder, lambda: watch(folder, watching))

    def lane(first: int) -> None:
        killed = [
            at
            for number in range(first, plan.homes, LANES)
            for at in kill_at_moments(homes[number], plan, targets[number :: plan.homes])
        ]
        attempts = kill_after_seconds(by_time, plan, draw) if by_time and first == 0 else 0
        (folder / f"lane-{first}.json").write_text(json.dumps([killed, attempts]))

    lanes = [forked(homes[first], lambda first=first: lane(first)) for first in range(LANES)]
    ended = [os.waitpid(process, 0)[1] for process in lanes]
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    assert ended == [0] * LANES, "".join((home / "log").read_text()[-4000:] for home in homes)
    killed, attempts = zip(
        *(json.loads((folder / f"lane-{n}.json").read_text()) for n in range(LANES)), strict=True
    )
    report = {"moments": moments, "killed": [at for lane in killed for at in lane], "by_time": plan.by_time}
    print(json.dumps({**report, "attempts_by_time": sum(attempts)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), plan_of(sys.argv[2]))
