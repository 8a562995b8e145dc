"""When to iterate again, and when to stop and why. Plain functions: sensors and the CLI both ask them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.errors import BudgetSpent
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Spent


@dataclass(frozen=True)
class Allowance:
    """What an experiment's budget leaves to a stage, when all others took `before`."""

    budget: BudgetSection
    before: Spent

    @classmethod
    def of(cls, lake: Lake, experiment: Experiment, table: str, iteration: int) -> Allowance:
        """That of the stage which makes `table` in `iteration`."""
        return cls(experiment.budget, _committed(lake, experiment, but=(table, iteration)))

    def check(self, spent: Spent, done: str) -> None:
        """Raise BudgetSpent where `spent` is too much; `done` says what is finished and kept."""
        if over := _overspent(self.budget, self.before + spent):
            raise BudgetSpent(f"{over.reason}; {done} are done and kept; {over.remedy}")


UNLIMITED = Allowance(BudgetSection(), Spent())


@dataclass(frozen=True)
class _Overspent:
    reason: str
    remedy: str


def _overspent(budget: BudgetSection, spent: Spent) -> _Overspent | None:
    remedy = "raise budget.{} in the experiment file and run again to go on"
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        reason = f"token budget spent: {spent.tokens:,} of {budget.tokens:,} tokens"
        return _Overspent(reason, remedy.format("tokens"))
    if budget.model_seconds is not None and spent.model_seconds >= budget.model_seconds:
        reason = f"model time spent: {spent.model_seconds:,.1f} of {budget.model_seconds:,.1f} seconds"
        return _Overspent(reason, remedy.format("model_seconds"))
    return None


def _committed(lake: Lake, experiment: Experiment, but: tuple[str, int] | None = None) -> Spent:
    """What the committed stages of all iterations took, one of them left out."""
    manifests = [one for method in experiment.chain for one in lake.manifests(f"{method}/*", experiment.name)]
    counted = (one.activity.about for one in manifests if (one.table, one.iteration) != but)
    return sum(map(_spent, counted), Spent())


def _seconds(about: Mapping[str, Any]) -> float:
    """How long a stage took; of attempts that were killed, what a model had done in them."""
    return max(float(about.get("seconds", 0.0)), _spent(about).model_seconds)


def _spent(about: Mapping[str, Any]) -> Spent:
    return Spent(int(about.get("tokens", 0)), float(about.get("model_seconds", 0.0)))
