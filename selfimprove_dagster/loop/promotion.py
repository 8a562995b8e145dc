"""Decide promotion: a checkpoint becomes the champion unless a paired test finds it worse."""

from __future__ import annotations

from selfimprove_dagster.evaluation.measurement import Accuracy, MeanChange, PairedComparison


def decide_promotion(
    champion: Accuracy,
    challenger: Accuracy,
    comparison: PairedComparison,
    level: float,
    reward: MeanChange | None = None,
) -> tuple[bool, str]:
    """Return whether to promote, and the reason.

    The test is McNemar's, exact and one-sided: the probability of this many lost questions or more if the
    challenger is as good as the champion. At `level` or below, the challenger counts as worse. `reward` is
    the change of the mean reward under the reward model that the challenger was trained against; see
    `reward_hacking`.
    """
    low, high = comparison.interval
    figures = (
        f"held-out accuracy {champion} → {challenger}; difference {comparison.difference:+.1%} "
        f"[{low:+.1%}, {high:+.1%}] on {comparison.questions:,} questions, "
        f"{comparison.gained} gained and {comparison.lost} lost, p(worse) = {comparison.p_worse:.3g}"
    )
    if comparison.questions == 0:
        return False, "not promoted: there was no held-out question to compare on"
    if comparison.p_worse <= level:
        return False, f"not promoted: worse than the champion at level {level:g}; {figures}"
    if hacked := reward_hacking(comparison, reward):
        return False, f"not promoted: {hacked}; {figures}"
    if low > 0:
        return True, f"promoted: better than the champion; {figures}"
    return True, f"promoted: not worse than the champion at level {level:g}; {figures}"


def reward_hacking(comparison: PairedComparison, reward: MeanChange | None) -> str | None:
    """Return the evidence that the reward rose although the responses did not improve, or None."""
    if reward is None or reward.interval[0] <= 0 or comparison.difference > 0:
        return None
    low, high = reward.interval
    return (
        f"the reward model is fooled: its mean reward rose by {reward.mean:.3g} [{low:.3g}, {high:.3g}], and "
        f"{comparison.gained} responses became right while {comparison.lost} became wrong"
    )
