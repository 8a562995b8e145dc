"""Enforce the budget of an experiment within its stages."""

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
    """The part of an experiment's budget that is left to a stage after all others used `before`."""

    budget: BudgetSection
    before: Spent

    @classmethod
    def of(cls, lake: Lake, experiment: Experiment, table: str, iteration: int) -> Allowance:
        """Return the allowance of the stage that makes `table` in `iteration`."""
        return cls(experiment.budget, _committed(lake, experiment, but=(table, iteration)))

    def check(self, spent: Spent, done: str) -> None:
        """Raise BudgetSpent if `spent` exceeds the budget; `done` states what is finished and kept."""
        if over := _overspent(self.budget, self.before + spent):
            raise BudgetSpent(f"{over.reason}; {done} are finished and kept; {over.remedy}")


UNLIMITED = Allowance(BudgetSection(), Spent())


@dataclass(frozen=True)
class _Overspent:
    reason: str
    remedy: str


def _overspent(budget: BudgetSection, spent: Spent) -> _Overspent | None:
    remedy = "raise budget.{} in the experiment file and run again to resume"
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        reason = f"token budget spent: {spent.tokens:,} of {budget.tokens:,} tokens"
        return _Overspent(reason, remedy.format("tokens"))
    if budget.model_seconds is not None and spent.model_seconds >= budget.model_seconds:
        reason = f"model time spent: {spent.model_seconds:,.1f} of {budget.model_seconds:,.1f} seconds"
        return _Overspent(reason, remedy.format("model_seconds"))
    if budget.money is not None and spent.money >= budget.money:
        reason = f"money spent: {dollars(spent.money)} of {dollars(budget.money)}"
        return _Overspent(reason, remedy.format("money"))
    return None


def _committed(lake: Lake, experiment: Experiment, but: tuple[str, int] | None = None) -> Spent:
    """Return the use of the committed stages of all iterations, except one of them."""
    manifests = [one for method in experiment.chain for one in lake.manifests(f"{method}/*", experiment.name)]
    counted = (one.activity.about for one in manifests if (one.table, one.iteration) != but)
    return sum(map(_spent, counted), Spent())


def _seconds(about: Mapping[str, Any]) -> float:
    """Return the duration of a stage, including the model time of killed attempts."""
    return max(float(about.get("seconds", 0.0)), _spent(about).model_seconds)


def _spent(about: Mapping[str, Any]) -> Spent:
    return Spent(
        int(about.get("tokens", 0)), float(about.get("model_seconds", 0.0)), float(about.get("money", 0.0))
    )


def money_line(lake: Lake, experiment: Experiment) -> str:
    """Return what the answers of an experiment cost so far, and its limit, in words; empty if nothing is paid."""
    spent, limit = _committed(lake, experiment).money, experiment.budget.money
    if not spent and limit is None:
        return ""
    return f"cost so far: {dollars(spent)}" + (f" of {dollars(limit)}" if limit is not None else "")


def dollars(money: float) -> str:
    """Format an amount of money, with more places for less than a dollar."""
    return f"${money:,.2f}" if money >= 1 or money == 0 else f"${money:,.4f}"
