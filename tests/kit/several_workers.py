"""One iteration of an experiment, with and without several workers: the ids of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit import homes
from kit.small_lake import SMALL_EXPERIMENT
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.runs import run_iteration

SMALL: dict[str, Any] = {
    **SMALL_EXPERIMENT,
    "method": "lmsi",
    "sampling": {"questions": 24, "paths": 8, "shard_questions": 2},
    "budget": {"iterations": 1},
}


def iteration(folder: Path, experiment: Mapping[str, Any], workers: Mapping[str, Any] | None = None) -> Home:
    """A home in which the first iteration has run, with these workers or in one process."""
    run = {"run": {"workers": dict(workers)}} if workers else {}
    home = homes.make_home(folder, {**experiment, "name": "small", **run})
    with homes.entered(home):
        problems = run_iteration(home, home.experiment("small"), 0)
        assert problems == [], problems
    return home


def ids(home: Home) -> dict[str, list[str]]:
    """The ids of all rows by table, in their order."""
    return {
        one.table: home.lake.read_whole(one)["id"].to_list()
        for one in home.lake.manifests(experiment="small")
    }
