"""One small iteration, wherever it runs: by several workers, in an object store, with Postgres."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import homes
from kit.daemons import ROOT
from kit.small_lake import SMALL_EXPERIMENT
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.runs import run_iteration

SMALL: dict[str, Any] = {
    **SMALL_EXPERIMENT,
    "method": "lmsi",
    "sampling": {"questions": 24, "paths": 8, "shard_questions": 2},
    "budget": {"iterations": 1},
}


@contextmanager
def iteration(
    folder: Path,
    experiment: Mapping[str, Any],
    workers: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Home]:
    """A home in which the first iteration has run, with these workers or in one process.

    `variables` are set meanwhile: SELFIMPROVE_HOME for a home elsewhere, and those of Postgres for Dagster's storage.
    """
    run = {"run": {"workers": dict(workers)}} if workers else {}
    made = homes.make_home(folder, {**experiment, "name": "small", **run})
    with homes.entered(made), pytest.MonkeyPatch.context() as patch:
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        home = Home.from_environment()
        if variables and "SELFIMPROVE_POSTGRES_HOST" in variables:
            made.dagster.mkdir(parents=True)
            shutil.copy(ROOT / "deploy" / "dagster.yaml", made.dagster)
        problems = run_iteration(home, home.experiment("small"), 0)
        assert problems == [], problems
        yield home


def ids(home: Home) -> dict[str, list[str]]:
    """The ids of all rows by table, in their order."""
    return {
        one.table: home.lake.read_whole(one)["id"].to_list()
        for one in home.lake.manifests(experiment="small")
    }


def ids_of(
    folder: Path, experiment: Mapping[str, Any], workers: Mapping[str, Any] | None = None
) -> dict[str, list[str]]:
    """The ids of an iteration in a home on the disk."""
    with iteration(folder, experiment, workers) as home:
        return ids(home)
