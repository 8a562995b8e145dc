"""Compute intervals and tests for accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, stdev

Z95 = 1.959963984540054

MOST_QUESTIONS = 10**9
"""More questions than any exam has."""


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers, with its 95% interval; without any answer its value is NaN."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        return self.correct / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson 1927); (0, 1) if nothing was measured."""
        if not self.total:
            return 0.0, 1.0
        from scipy.stats import binomtest  # importing it takes more than a second

        found = binomtest(self.correct, self.total).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if not self.total:
            return "not measured"
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class PairedComparison:
    """A comparison of two models on the same questions: questions that the second gained and lost."""

    questions: int
    gained: int
    lost: int

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> PairedComparison:
        """Compare the correctness of each question, in the same order."""
        pairs = list(zip(before, after, strict=True))
        return cls(
            questions=len(pairs),
            gained=sum(new and not old for old, new in pairs),
            lost=sum(old and not new for old, new in pairs),
        )

    @property
    def difference(self) -> float:
        """Return the accuracy after minus the accuracy before."""
        return (self.gained - self.lost) / self.questions if self.questions else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the difference (the adjusted Wald interval, Bonett and Price 2012)."""
        return _adjusted_wald(self.questions, self.gained, self.lost, Z95)

    def interval_at(self, level: float) -> tuple[float, float]:
        """Return the same interval with the confidence 1 − `level`."""
        return _adjusted_wald(self.questions, self.gained, self.lost, _quantile(level))

    def questions_to_tell(self, bound: float, level: float) -> int | None:
        """Return how many questions leave `bound` outside the interval at the same shares of gained and lost.

        None if no number does, since the difference equals the bound.
        """
        if not self.questions:
            return None
        return questions_to_tell(self.gained / self.questions, self.lost / self.questions, bound, level)

    @property
    def p_worse(self) -> float:
        """Return the p-value of the one-sided exact McNemar test that the second model is worse.

        It is the probability of this many losses or more if both are equally good; 1 if no question changed.
        """
        changed = self.gained + self.lost
        if not changed:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.lost, changed, alternative="greater").pvalue)


def questions_to_tell(gained: float, lost: float, bound: float, level: float) -> int | None:
    """Return the least number of questions whose interval of the difference leaves out `bound`.

    `gained` and `lost` are shares of the questions. None if no number does.
    """
    z = _quantile(level)

    def tells(questions: int) -> bool:
        low, high = _adjusted_wald(questions, gained * questions, lost * questions, z)
        return low > bound or high < bound

    enough = 1
    while not tells(enough):
        enough *= 2
        if enough > MOST_QUESTIONS:
            return None
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if tells(middle) else (middle, enough)
    return enough


def _quantile(level: float) -> float:
    """Return the quantile of the normal distribution for a two-sided interval with the confidence 1 − `level`."""
    return NormalDist().inv_cdf(1 - level / 2)


def _adjusted_wald(questions: float, gained: float, lost: float, z: float) -> tuple[float, float]:
    n = questions + 2
    gained, lost = (gained + 1) / n, (lost + 1) / n
    half = z * sqrt((gained + lost - (gained - lost) ** 2) / n)
    return max(-1.0, gained - lost - half), min(1.0, gained - lost + half)


@dataclass(frozen=True)
class MeanChange:
    """The mean change of a number between two models on the same questions, with its 95% interval."""

    questions: int
    mean: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> MeanChange | None:
        """Return the mean of the differences with its normal interval; None for fewer than two questions."""
        changes = [new - old for old, new in zip(before, after, strict=True)]
        if len(changes) < 2:
            return None
        mean, half = fmean(changes), Z95 * stdev(changes) / sqrt(len(changes))
        return cls(len(changes), mean, (mean - half, mean + half))


@dataclass(frozen=True)
class PairedShares:
    """Two shares from 0 to 1 per question, such as the share of correct samples.

    It gives their means, and the mean difference with its 95% interval.
    """

    questions: int
    before: float
    after: float
    squares: float
    """Sum of the squared differences."""

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> PairedShares:
        """Compare both shares of each question, in the same order."""
        changes = [new - old for old, new in zip(before, after, strict=True)]
        old, new = (fmean(shares) if shares else float("nan") for shares in (before, after))
        return cls(len(changes), old, new, sum(change * change for change in changes))

    @property
    def difference(self) -> float:
        """Return the second mean minus the first."""
        return self.after - self.before if self.questions else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the difference.

        It generalises the interval of `PairedComparison`, which adds one gained and one lost question, to
        fractional differences. Both are equal if every share is 0 or 1.
        """
        n = self.questions + 2
        mean = self.difference * self.questions / n
        half = Z95 * sqrt(((self.squares + 2) / n - mean**2) / n)
        return max(-1.0, mean - half), min(1.0, mean + half)
