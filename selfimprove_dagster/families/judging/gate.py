"""Whether a model may judge itself, by its measured discrimination gap (Jiang et al., 2404.04298).

A judge that picks worse than chance makes training data worse than no judge at all, so a stage that relies on
it stops; where the measurement cannot tell, it warns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["go on", "warn", "stop"]


_SEVERITY: dict[Action, int] = {"go on": 0, "warn": 1, "stop": 2}


_ACTIONS: dict[str, Action] = {"ignore": "go on", "warn": "warn", "stop": "stop"}


@dataclass(frozen=True)
class MeasuredGap:
    """The gap of one task and way of picking with its 95% interval, as shares: 0.05 is five points."""

    task: str
    by: str
    gap: float
    low: float
    high: float
    questions: int

    def __str__(self) -> str:
        gap, low, high = (_points(value) for value in (self.gap, self.low, self.high))
        return f"discrimination gap {gap} [{low}, {high}] on {self.task}, by {self.by}"


@dataclass(frozen=True)
class Verdict:
    """What a stage in which a model judges itself is to do, and why."""

    action: Action
    reason: str


def decide(
    gaps: Sequence[MeasuredGap],
    *,
    least_gap: float = 0.0,
    on_failure: str = "stop",
    on_missing: str = "ignore",
    tasks: Sequence[str] | None = None,
) -> Verdict:
    """Return the verdict on a judge with these gaps; `on_failure` and `on_missing` are stop, warn or ignore.

    A gap fails whose whole interval lies below `least_gap`; one whose interval holds it warns, unless
    failures are ignored. `tasks` names those that must have been measured and that count, None all there are.
    The worst verdict counts, and its reasons are given.
    """
    counted = [one for one in gaps if not tasks or one.task in tasks]
    verdicts = [_verdict(one, least_gap, on_failure) for one in counted]
    measured = {one.task for one in counted}
    missing = sorted({*tasks} - measured) if tasks else [] if counted else ["any task"]
    verdicts += [
        Verdict(_ACTIONS[on_missing], f"no discrimination gap was measured on {task}") for task in missing
    ]
    worst = max((one.action for one in verdicts), key=_SEVERITY.__getitem__)
    return Verdict(worst, "; ".join(one.reason for one in verdicts if one.action == worst))


def _verdict(found: MeasuredGap, least_gap: float, on_failure: str) -> Verdict:
    bar = "chance" if least_gap == 0 else f"chance by {_points(least_gap)} (least_gap)"
    if found.high < least_gap:
        worse = "worse than chance" if found.high < 0 else f"not better than {bar}"
        return Verdict(_ACTIONS[on_failure], f"{found}: the model picks {worse}")
    if found.low < least_gap:
        action: Action = "go on" if on_failure == "ignore" else "warn"
        return Verdict(action, f"{found}: whether the model picks better than {bar} is not known")
    return Verdict("go on", f"{found}: the model picks no worse than {bar}")


def _points(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")
