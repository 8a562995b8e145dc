"""When to iterate again, and when to stop and why. Plain functions: sensors and the CLI both ask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster import tables
from selfimprove_dagster.errors import BudgetSpent
from selfimprove_dagster.experiment import Experiment
from selfimprove_dagster.lake import Lake, Manifest, Spent
from selfimprove_dagster.partition import spent_on
from selfimprove_dagster.pit_seeds import newest_preferences
from selfimprove_dagster.sections import BudgetSection

_YIELDS = {
    "lmsi": ("raw_generations", "filtered_dataset", ("paths", "examples")),
    "toolformer": ("seed_pool", "filtered_dataset", ("texts", "texts with calls")),
    "constitutional": ("raw_generations", "filtered_dataset", ("responses", "examples")),
    "rlaif": ("ai_preferences", "filtered_dataset", ("pairs", "pairs kept")),
    "rlhf": ("seed_pool", "filtered_dataset", ("comparisons", "pairs kept")),
    "pit": ("seed_pool", "filtered_dataset", ("comparisons", "pairs kept")),
}
_YIELD_OF_TASKS = ("candidate_tasks", "accepted_tasks", ("candidates", "accepted tasks"))
"""What a method generates, what of it passes the filters, and what people call the two."""


@dataclass(frozen=True)
class IterationSummary:
    """What the stop rules need to know of a finished iteration.

    `candidates` and `yielded`: what was generated, and what of it passed the filters; `words` call them.
    """

    iteration: int
    promoted: bool
    candidates: int
    yielded: int
    tokens: int
    seconds: float
    model_seconds: float = 0.0
    promotion_activity_id: str = ""
    words: tuple[str, str] = ("paths", "examples")


@dataclass(frozen=True)
class Continue:
    """Run this iteration next. `after` names the decision that it follows from."""

    iteration: int
    after: str


@dataclass(frozen=True)
class Stop:
    """Do not go on, and why."""

    reason: str


def next_step(budget: BudgetSection, finished: Sequence[IterationSummary]) -> Continue | Stop:
    """What follows the finished iterations (in order): the next one, or a stop with its reason."""
    if not finished:
        return Continue(0, after="start")
    last = finished[-1]
    spent = sum((Spent(summary.tokens, summary.model_seconds) for summary in finished), Spent())
    hours = sum(summary.seconds for summary in finished) / 3600
    share = last.yielded / last.candidates if last.candidates else 0.0
    unpromoted = 0
    for summary in reversed(finished):
        if summary.promoted:
            break
        unpromoted += 1
    if last.iteration + 1 >= budget.iterations:
        done = last.iteration + 1
        return Stop(f"iteration budget spent: {done} of {budget.iterations} iterations are done")
    if over := _overspent(budget, spent):
        return Stop(over.reason)
    if budget.hours is not None and hours >= budget.hours:
        return Stop(f"hour budget spent: {hours:.2f} of {budget.hours:.2f} hours")
    if share < budget.minimum_yield:
        return Stop(
            f"yield near zero: {last.yielded:,} {last.words[1]} from {last.candidates:,} {last.words[0]} in "
            f"iteration {last.iteration}, {share:.2%} against at least {budget.minimum_yield:.2%}"
        )
    if unpromoted >= budget.patience:
        return Stop(f"no gain: none of the last {unpromoted} iterations was promoted")
    return Continue(last.iteration + 1, after=last.promotion_activity_id)


def decide_next(lake: Lake, experiment: Experiment) -> Continue | Stop:
    """What follows in an experiment: `next_step`, except that nothing starts before seeds were imported, or
    goes on while the stages of an unfinished iteration have spent the budget.
    """
    finished = finished_iterations(lake, experiment)
    giver = getattr(experiment.seeds, "experiment", None)
    if not finished and giver and newest_preferences(lake, giver, experiment.name, 0) is None:
        return Stop(f"not started: {giver}, whose preferences it learns from, has no dataset of them yet")
    if (
        not finished
        and not giver
        and not lake.manifests(tables.seeds_of(experiment.method).name, experiment.name)
    ):
        return Stop("not started: no seeds were imported; drop a file into its inbox, or start it by hand")
    step = next_step(experiment.budget, finished)
    if isinstance(step, Continue):
        left = lake.unfinished(f"{experiment.method}/*", experiment.name)
        spent = sum(map(spent_on, left), _committed(lake, experiment))
        if over := _overspent(experiment.budget, spent):
            return Stop(f"{over.reason} in the middle of iteration {step.iteration}; {over.remedy}")
    return step


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
    manifests = lake.manifests(f"{experiment.method}/*", experiment.name)
    counted = (one.activity.about for one in manifests if (one.table, one.iteration) != but)
    return sum(map(_spent, counted), Spent())


def _spent(about: Mapping[str, Any]) -> Spent:
    return Spent(int(about.get("tokens", 0)), float(about.get("model_seconds", 0.0)))


def finished_iterations(lake: Lake, experiment: Experiment) -> list[IterationSummary]:
    """Summaries of the experiment's iterations that came to a promotion decision, in order."""
    generated, passed, words = _YIELDS.get(experiment.method, _YIELD_OF_TASKS)
    by_iteration: dict[int, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        stage = manifest.table.split("/")[1]
        by_iteration.setdefault(manifest.iteration, {})[stage] = manifest
    summaries = []
    for iteration, stages in sorted(by_iteration.items()):
        if "promotion" not in stages:
            continue
        row = lake.read_ungated(stages["promotion"]).row(0, named=True)
        abouts = [manifest.activity.about for manifest in stages.values()]
        spent = sum(map(_spent, abouts), Spent())
        summaries.append(
            IterationSummary(
                iteration=iteration,
                promoted=row["promoted"],
                candidates=stages[generated].rows if generated in stages else 0,
                yielded=stages[passed].rows if passed in stages else 0,
                tokens=spent.tokens,
                seconds=sum(float(about.get("seconds", 0.0)) for about in abouts),
                model_seconds=spent.model_seconds,
                promotion_activity_id=stages["promotion"].activity.id,
                words=words,
            )
        )
    return summaries
