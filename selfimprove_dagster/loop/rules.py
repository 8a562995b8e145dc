"""Decide whether to iterate again or to stop, and why. Sensors and the CLI call the same plain functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, Spent, spent_on
from selfimprove_dagster.work.budget import _committed, _overspent, _seconds, _spent


@dataclass(frozen=True)
class IterationSummary:
    """The facts of a finished iteration that stopping rules need.

    `promoted` is None if no model is trained. `candidates` and `yielded` count what was generated and what
    was kept, and `words` are their names. Both counts are None for a method that declares no yield.
    """

    iteration: int
    promoted: bool | None
    candidates: int | None
    yielded: int | None
    tokens: int
    seconds: float
    model_seconds: float = 0.0
    money: float = 0.0
    decided_by: str = ""
    words: tuple[str, str] = ("candidates", "kept")

    @property
    def share(self) -> float | None:
        """Return the share of candidates that was kept, from 0 to 1; None if the method declares no yield."""
        if self.candidates is None or self.yielded is None:
            return None
        return self.yielded / self.candidates if self.candidates else 0.0


@dataclass(frozen=True)
class Continue:
    """Run this iteration next (in a chain, this method of it). `after` names the decision that it follows."""

    iteration: int
    after: str
    method: str = ""

    @property
    def in_words(self) -> str:
        """Return a description for people."""
        return f"iteration {self.iteration} of {self.method}"


@dataclass(frozen=True)
class Stop:
    """Stop, with the reason. `started` is False if nothing has run yet, for want of seeds."""

    reason: str
    started: bool = True

    @property
    def in_words(self) -> str:
        """Return a description for people."""
        return self.reason if self.started else f"not started: {self.reason}"


def next_step(budget: BudgetSection, finished: Sequence[IterationSummary]) -> Continue | Stop:
    """Return what follows the finished iterations (in order): the next one, or a stop with its reason."""
    if not finished:
        return Continue(0, after="start")
    last = finished[-1]
    spent = sum((Spent(one.tokens, one.model_seconds, one.money) for one in finished), Spent())
    hours = sum(summary.seconds for summary in finished) / 3600
    share = last.share
    unpromoted = 0
    for summary in reversed(finished):
        if summary.promoted is not False:
            break
        unpromoted += 1
    if last.iteration + 1 >= budget.iterations:
        done = last.iteration + 1
        return Stop(f"iteration budget spent: {done} of {budget.iterations} iterations are done")
    if over := _overspent(budget, spent):
        return Stop(over.reason)
    if budget.hours is not None and hours >= budget.hours:
        return Stop(f"hour budget spent: {hours:.2f} of {budget.hours:.2f} hours")
    if share is not None and share < budget.minimum_yield:
        return Stop(
            f"yield near zero: {last.yielded:,} {last.words[1]} from {last.candidates:,} {last.words[0]} in "
            f"iteration {last.iteration}, {share:.2%} against at least {budget.minimum_yield:.2%}"
        )
    if unpromoted >= budget.patience:
        return Stop(f"no gain: none of the last {unpromoted} iterations was promoted")
    return Continue(last.iteration + 1, after=last.decided_by)


def next_turn(lake: Lake, experiment: Experiment) -> Continue | Stop:
    """Return what runs next in an experiment: the next method of an unfinished iteration, or `next_step`."""
    turns = [finished_iterations(lake, experiment, method) for method in experiment.chain]
    last = [finished[-1].iteration if finished else -1 for finished in turns]
    for method, before, done in zip(experiment.chain[1:], turns, last[1:], strict=False):
        if done < last[0]:
            return Continue(last[0], before[-1].decided_by, method)
    by_iteration: dict[int, list[IterationSummary]] = {}
    for one in (one for finished in turns for one in finished):
        by_iteration.setdefault(one.iteration, []).append(one)
    step = next_step(experiment.budget, [_together(each) for _, each in sorted(by_iteration.items())])
    return replace(step, method=experiment.chain[0]) if isinstance(step, Continue) else step


def _together(turns: Sequence[IterationSummary]) -> IterationSummary:
    """Summarise one iteration of all methods of a chain. Its yield is the highest of its methods."""
    promotions = [one.promoted for one in turns if one.promoted is not None]
    return replace(
        max(turns, key=lambda one: -1.0 if one.share is None else one.share),
        promoted=any(promotions) if promotions else None,
        tokens=sum(one.tokens for one in turns),
        seconds=sum(one.seconds for one in turns),
        model_seconds=sum(one.model_seconds for one in turns),
        money=sum(one.money for one in turns),
        decided_by=turns[-1].decided_by,
    )


def decide_next(lake: Lake, experiment: Experiment) -> Continue | Stop:
    """Return what runs next in an experiment: `next_turn`, with two exceptions.

    Nothing starts before seeds are imported, or continues if an unfinished iteration has spent the budget.
    """
    step = next_turn(lake, experiment)
    if isinstance(step, Continue):
        first = step.iteration == 0 and step.method == experiment.chain[0]
        seeds, giver = registry.method(step.method).seeds, experiment.taught_by
        if first and giver and seeds and seeds.teacher and not seeds.teacher.newest(lake, experiment, 0):
            reason = f"its seeds come from the dataset of {giver}, which has none yet"
            return Stop(reason, started=False)
        imported = seeds is None or giver or lake.manifests(seeds.kind.table.name, experiment.name)
        if first and not imported:
            return Stop(
                "no seeds were imported yet; put a seed file into its inbox, or run "
                f"`selfimprove run {experiment.name}`",
                started=False,
            )
        left = [one for method in experiment.chain for one in lake.unfinished(f"{method}/*", experiment.name)]
        spent = sum(map(spent_on, left), _committed(lake, experiment))
        if over := _overspent(experiment.budget, spent):
            return Stop(f"{over.reason} during iteration {step.iteration}; {over.remedy}")
    return step


def finished_iterations(
    lake: Lake, experiment: Experiment, method: str | None = None
) -> list[IterationSummary]:
    """Return summaries of the iterations that `method`, by default the experiment's own, finished."""
    method = method or experiment.method
    declared = registry.method(method)
    end, yields = declared.experiment.ends_with, declared.yields
    by_iteration: dict[int, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{method}/*", experiment.name):
        stage = manifest.table.split("/")[1]
        by_iteration.setdefault(manifest.iteration, {})[stage] = manifest
    summaries = []
    for iteration, stages in sorted(by_iteration.items()):
        if end not in stages:
            continue
        promoted = lake.read_ungated(stages["promotion"])["promoted"][0] if "promotion" in stages else None
        abouts = [manifest.activity.about for manifest in stages.values()]
        spent = sum(map(_spent, abouts), Spent())
        summaries.append(
            IterationSummary(
                iteration=iteration,
                promoted=promoted,
                candidates=_rows(stages, yields.generated) if yields else None,
                yielded=_rows(stages, yields.kept) if yields else None,
                tokens=spent.tokens,
                seconds=sum(map(_seconds, abouts)),
                model_seconds=spent.model_seconds,
                money=spent.money,
                decided_by=stages[end].activity.id,
                words=yields.words if yields else IterationSummary.words,
            )
        )
    return summaries


def _rows(stages: Mapping[str, Manifest], stage: str) -> int:
    return stages[stage].rows if stage in stages else 0
