"""Measure part of a stage's work, and scale it to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, sqrt

from selfimprove_dagster.estimating.forecast import Range

MOST = 1_500
"""Items of a stage that a pilot works on at most."""


@dataclass(frozen=True)
class Effort:
    """What a pilot spends on a stage: at least `items`, where there are so many, in about `seconds`."""

    items: int = 48
    seconds: float = 20.0

    def __mul__(self, factor: int) -> Effort:
        return Effort(self.items * factor, self.seconds * factor)


USUAL = Effort()
"""The effort of a pilot on each stage."""


_FIRST = 4
_GROWTH = 3
_SHARE = 1 / 6
_FASTER = 1.15
_LEAST_ERROR = 0.02
_MOST_ERROR = 0.5


Peaks = Mapping[str, float]
"""Peaks of memory in bytes, as `work.memory.peak_memory` names them."""


def highest(*peaks: Peaks) -> Peaks:
    """Return the higher one of each of the peaks."""
    return {name: max(one.get(name, 0.0) for one in peaks) for one in peaks for name in one}


@dataclass(frozen=True)
class Took:
    """What work took: generated tokens, seconds, money (None without prices), and peaks of memory.

    `fullness` is the share of the rows that the engine has in memory at once, as `CountingModels` has it.
    """

    tokens: float = 0.0
    seconds: float = 0.0
    money: float | None = None
    peaks: Peaks = field(default_factory=dict)
    fullness: float = 0.0

    def __add__(self, other: Took) -> Took:
        money = [one for one in (self.money, other.money) if one is not None]
        return Took(
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            sum(money) if money else None,
            highest(self.peaks, other.peaks),
            max(self.fullness, other.fullness),
        )


@dataclass(frozen=True)
class Batch:
    """What the work on some items took."""

    items: int
    took: Took

    @property
    def most(self) -> float:
        """Return how many items the engine has in memory at once at most; infinite where it does not say."""
        return max(self.items / self.took.fullness, self.items) if self.took.fullness else inf


@dataclass(frozen=True)
class Piece:
    """Work of a stage, a part of which a pilot did in `batches`; an iteration does `items` of it.

    The largest batch of an iteration has `largest` items, 0 if it is not larger than those of the pilot.
    """

    items: float
    batches: Sequence[Batch]
    largest: float = 0.0

    @property
    def is_cut(self) -> bool:
        """Return whether a batch of an iteration is larger than those of the pilot."""
        return self.largest > max(batch.items for batch in self.batches)

    @property
    def is_extrapolated(self) -> bool:
        """Return whether the peaks of larger batches follow from the growth of the pilot's batches."""
        return len(self.batches) > 1 and self.batches[-1].items > self.batches[-2].items

    @property
    def peaks(self) -> Peaks:
        """Return the peaks of the largest batch: beyond the pilot's, they grow as between its last two batches."""
        most = self.took.peaks
        if not (self.is_cut and self.is_extrapolated):
            return most
        before, last = self.batches[-2:]
        further = (self.largest - last.items) / (last.items - before.items)
        grown = {
            name: peak + further * max(peak - before.took.peaks.get(name, peak), 0.0)
            for name, peak in last.took.peaks.items()
        }
        return highest(most, grown)

    @property
    def done(self) -> int:
        """Return the number of items that the pilot worked on."""
        return sum(batch.items for batch in self.batches)

    @property
    def took(self) -> Took:
        """Return what the pilot's work took."""
        return sum((batch.took for batch in self.batches), Took())

    @property
    def scale(self) -> float:
        """Return the factor from the pilot's work to all work."""
        return self.items / max(self.done, 1)

    @property
    def tokens(self) -> Range:
        """Return the tokens of all items; the error is twice the standard error between batches."""
        total = self.took.tokens * self.scale
        error = _LEAST_ERROR
        if len(self.batches) > 1 and total:
            mean = self.took.tokens / self.done
            squares = sum(
                batch.items * (batch.took.tokens / batch.items - mean) ** 2 for batch in self.batches
            )
            spread = 2 * sqrt(squares / (len(self.batches) - 1) / self.done) / mean
            error = min(max(spread, _LEAST_ERROR), _MOST_ERROR)
        error = 0.0 if self.done >= self.items else error
        return Range(total * (1 - error), total * (1 + error))

    @property
    def seconds(self) -> Range:
        """Return the seconds of all items.

        The higher rate is that of the last batch, as small ones are slower. The lower one is that of its growth against
        the batch before: it has no share in what every batch takes regardless of its size.
        """
        last = self.batches[-1]
        high = low = last.took.seconds / last.items
        if self.is_cut and self.is_extrapolated:
            before = self.batches[-2]
            further = (last.took.seconds - before.took.seconds) / (last.items - before.items)
            low = min(max(further, high / 2), high)
        return Range(self.items * low, self.items * high)

    @property
    def money(self) -> float | None:
        """Return the money of all items; None without prices."""
        money = self.took.money
        return None if money is None else money * self.scale


def grow(count: int, most_at_once: int, work: Callable[[slice], Took], effort: Effort) -> list[Batch]:
    """Work on growing batches of `count` items, until what an item takes is known.

    Small batches are slower per item than those of an iteration. So they grow, to at most `most_at_once` items, as long
    as the rate rises; but with enough items a sixth of all is sufficient. A pilot ends as well after the seconds of the
    effort, if there were two batches, and in any case after four times as many.
    """
    batches: list[Batch] = []
    done, size, started = 0, max(min(_FIRST, count // _GROWTH), 1), time.monotonic()
    while done < min(count, MOST):
        taken = min(size, most_at_once, count - done)
        batches.append(Batch(taken, work(slice(done, done + taken))))
        done, size = done + taken, size * _GROWTH
        seconds = time.monotonic() - started
        if seconds > effort.seconds * (1 if len(batches) > 1 else 4):
            break
        if done >= effort.items and (done >= count * _SHARE or not _gets_faster(batches)):
            break
    return batches


def _gets_faster(batches: Sequence[Batch]) -> bool:
    """Return whether the last batch took less time per item than the one before."""
    rates = [batch.items / max(batch.took.seconds, 1e-9) for batch in batches]
    return all(later > _FASTER * earlier for earlier, later in [*pairwise(rates)][-1:])
