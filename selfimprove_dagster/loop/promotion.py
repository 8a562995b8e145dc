"""Decide promotion: a checkpoint becomes the champion if a paired comparison shows that it is good enough.

It is compared with the champion and with the base model, on the same questions. A comparison is good enough if
the interval of the difference lies above zero (rule `better`), or does not reach below a stated loss (rule
`not_worse`). Without enough questions neither can be shown, and the reason says how many would be needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfimprove_dagster.evaluation.measurement import (
    Accuracy,
    MeanChange,
    PairedComparison,
    questions_to_tell,
)
from selfimprove_dagster.experiment.sections import PromotionSection

EXAMPLE_GAIN = 0.05
"""The gain for which the reason states a number of questions if the measured difference cannot give one."""


@dataclass(frozen=True)
class Opponent:
    """A model that the challenger is compared with: its name in sentences, and both accuracies."""

    name: str
    before: Accuracy
    after: Accuracy
    comparison: PairedComparison


def decide_promotion(
    section: PromotionSection, opponents: Sequence[Opponent], reward: MeanChange | None = None
) -> tuple[bool, str]:
    """Return whether to promote, and the reason.

    The first opponent is the champion. `reward` is the change of the mean reward, against the champion, under
    the reward model that the challenger was trained against; see `reward_hacking`.
    """
    figures = "; ".join(_figures(one, section.level) for one in opponents)
    if not all(one.comparison.questions for one in opponents):
        return False, "not promoted: there was no held-out question to compare on"
    refused = [reason for one in opponents if (reason := _refusal(section, one))]
    if refused:
        return False, f"not promoted: {', and '.join(refused)}; {figures}"
    if hacked := reward_hacking(opponents[0].comparison, reward):
        return False, f"not promoted: {hacked}; {figures}"
    names = " and ".join(one.name for one in opponents)
    if section.rule == "better":
        return True, f"promoted: better than {names}; {figures}"
    return True, f"promoted: not worse than {names} by more than {section.margin:.1%}; {figures}"


def passes(rule: str, bound: float, low: float) -> bool:
    """Return whether an interval that starts at `low` meets the rule."""
    return low > bound if rule == "better" else low >= bound


def _refusal(section: PromotionSection, against: Opponent) -> str | None:
    """Return why the comparison with one opponent does not allow promotion, or None if it does."""
    comparison, bound = against.comparison, section.bound
    low, high = comparison.interval_at(section.level)
    if passes(section.rule, bound, low):
        return None
    if high < bound:
        by = f" by more than {section.margin:.1%}" if bound else ""
        return f"worse than {against.name}{by}"
    wanted = f"better than {against.name}"
    if section.rule == "not_worse":
        wanted = f"not worse than {against.name} by more than {section.margin:.1%}"
    needed = _needed(comparison, bound, section.level)
    return f"{comparison.questions:,} questions do not tell whether it is {wanted} {needed}"


def _needed(comparison: PairedComparison, bound: float, level: float) -> str:
    """Return how many questions would tell."""
    needed = comparison.questions_to_tell(bound, level)
    if needed is not None:
        return f"(about {needed:,} would, at the same shares of gained and lost questions)"
    gain = bound + EXAMPLE_GAIN
    changed = max((comparison.gained + comparison.lost) / comparison.questions, abs(gain))
    example = questions_to_tell((changed + gain) / 2, (changed - gain) / 2, bound, level)
    return f"(no number would at this difference; at {gain:+.1%} about {example:,} would)"


def _figures(against: Opponent, level: float) -> str:
    comparison = against.comparison
    low, high = comparison.interval_at(level)
    return (
        f"held-out accuracy of {against.name} {against.before} → {against.after}; difference "
        f"{comparison.difference:+.1%} [{low:+.1%}, {high:+.1%}] on {comparison.questions:,} questions, "
        f"{comparison.gained} gained and {comparison.lost} lost"
    )


def reward_hacking(comparison: PairedComparison, reward: MeanChange | None) -> str | None:
    """Return the evidence that the reward rose although the responses did not improve, or None."""
    if reward is None or reward.interval[0] <= 0 or comparison.difference > 0:
        return None
    low, high = reward.interval
    return (
        f"the reward model is fooled: its mean reward rose by {reward.mean:.3g} [{low:.3g}, {high:.3g}], and "
        f"{comparison.gained} responses became right while {comparison.lost} became wrong"
    )
