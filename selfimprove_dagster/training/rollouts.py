"""Rollouts: the completions that a policy draws while it is trained, and the files that they lie in.

<output>.partial/rollouts/through-00000100.parquet   those of the steps since the file before, to step 100
<output>/rollouts.parquet                            all of them

A file is whole and flushed before the checkpoint of its step is marked complete, and those of later steps
than the checkpoint at which training resumes are deleted: a run that was killed has each rollout once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.disk import sync

ROLLOUTS = "rollouts.parquet"


_SCHEMA: dict[str, Any] = {
    "step": pl.Int32,
    "prompt": pl.Int32,
    "sample": pl.Int32,
    "prompt_token_ids": pl.List(pl.Int32),
    "completion_token_ids": pl.List(pl.Int32),
    "reward": pl.Float64,
    "advantage": pl.Float64,
}


@dataclass(frozen=True)
class Rollout:
    """One completion that the policy drew while it was trained.

    `step` counts from 1; `prompt` is the prompt's index among those given, `sample` the completion's within
    its group. An end token that was drawn, or the tokens of a stop string, are part of the completion. `reward` is what
    the callable gave, before any KL term, NaN where it gave none; `advantage` what the loss multiplied.
    """

    step: int
    prompt: int
    sample: int
    prompt_token_ids: list[int]
    completion_token_ids: list[int]
    reward: float
    advantage: float


def read_rollouts(path: Path) -> list[Rollout]:
    """All rollouts of a training run, in the order in which they were drawn."""
    return [Rollout(**row) for row in pl.read_parquet(path).iter_rows(named=True)]


class RolloutFiles:
    """The rollouts of a run that goes on, committed step by step in `folder`."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """`resumed_at`: the step of the checkpoint that training goes on from, 0 where it starts."""
        self._folder = folder
        self._pending: list[Rollout] = []
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.suffix != ".parquet" or int(path.stem.rpartition("-")[2]) > resumed_at:
                path.unlink()

    def add(self, rollouts: Sequence[Rollout]) -> None:
        self._pending += rollouts

    def commit(self, step: int) -> None:
        """Put down the rollouts up to `step`, durably."""
        path = self._folder / f"through-{step:08d}.parquet"
        temporary = temporary_path(path)
        self._frame().write_parquet(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(self._folder)
        self._pending = []

    def write(self, path: Path) -> None:
        """All rollouts, those that are not yet committed too, as one file."""
        committed = [pl.read_parquet(part) for part in sorted(self._folder.glob("*.parquet"))]
        pl.concat([*committed, self._frame()]).rechunk().write_parquet(path)

    def _frame(self) -> pl.DataFrame:
        return pl.DataFrame([asdict(rollout) for rollout in self._pending], schema=_SCHEMA)
