"""Can a model judge itself: generation against discrimination (Jiang et al., 2404.04298, section 3).

    generation score      accuracy of a random sample: the share of a question's candidates that is right
    discrimination score  accuracy of the candidate that the same model picks among them
    discrimination gap    discrimination score − generation score, question by question

A model that picks at random has a gap of 0, so the generation score is the random baseline. The candidates
are shown as options in several orders, since models favour places; a pick is made over all of them, off the
options' probabilities or by reading the option that the model writes. The paper has one order and text
alone; that it is so, and that equal candidates stay options of their own, is as remembered.

Candidates are meant by their place among those of their question, from 0; an order lists them as shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_uppercase

from selfimprove_dagster.evaluation.measurement import PairedShares

Order = Sequence[int]


_BRACKETED = re.compile(r"\(([A-Z])\)")


_NAMED = r"(?:the )?(?:right |correct |best |better )?(?:answer|option|response|choice)(?: is)?:? "


_OPENING = re.compile(rf"(?:(?i:{_NAMED}))?\(?([A-Z])(?:[).:,\n]|$)")


_WORDED = re.compile(r"(?i:\b(?:answer(?: is)?|option|response|choice):? )\(?([A-Z])\b")


def draw_orders(count: int, shuffles: int, seed: int) -> list[list[int]]:
    """So many orders of `count` candidates: the rotations of a random one, then of another.

    Within `count` orders each candidate stands once in each place, so a place that is favoured favours none.
    """
    random = Random(seed)
    orders: list[list[int]] = []
    while len(orders) < shuffles:
        first = random.sample(range(count), count)
        orders += [first[turn:] + first[:turn] for turn in range(count)]
    return orders[:shuffles]


def read_choice(text: str, count: int) -> int | None:
    """Return the index of the option that a text names, of `count` options (A), (B), …; None if none.

    It names the option that it opens with, or else the only one in brackets, or else the only one after a word such as
    `option`. Marks of emphasis are left out.
    """
    said = re.sub(r"[*_`]", "", text).strip()
    opening = _OPENING.match(said)
    named = {opening[1]} if opening else {*_BRACKETED.findall(said)} or {*_WORDED.findall(said)}
    places = [ascii_uppercase.index(letter) for letter in named]
    return places[0] if len(places) == 1 and places[0] < count else None


def mean_probabilities(orders: Sequence[Order], probabilities: Sequence[Sequence[float]]) -> list[float]:
    """The probability of each candidate, averaged over the orders; `probabilities` are those of places."""
    means = [0.0] * len(orders[0])
    for order, of_places in zip(orders, probabilities, strict=True):
        for candidate, probability in zip(order, of_places, strict=True):
            means[candidate] += probability / len(orders)
    return means


def pick_likeliest(orders: Sequence[Order], probabilities: Sequence[Sequence[float]]) -> int:
    """Return the candidate with the highest mean probability over all orders, the earlier one in the first
    order if several are equal.
    """
    means = mean_probabilities(orders, probabilities)
    return max(orders[0], key=lambda candidate: means[candidate])


def pick_named(orders: Sequence[Order], choices: Sequence[int | None]) -> int | None:
    """The candidate that is named most often; of equals the one that was named first.

    `choices` has the place that was named in each order, None where nothing could be read. None where nothing
    could be read at all.
    """
    named = (order[place] for order, place in zip(orders, choices, strict=True) if place is not None)
    return next((candidate for candidate, _ in Counter(named).most_common(1)), None)


@dataclass(frozen=True)
class Gap:
    """Scores of one task and way of picking, from 0 to 1; the gap with its 95% interval."""

    questions: int
    generation: float
    discrimination: float
    gap: float
    low: float
    high: float


def measure_gap(shares: Sequence[float], picked: Sequence[bool | None]) -> Gap:
    """Return the gap, from the share of right candidates per question and whether the picked one is right.

    Where nothing was picked (None), the expectation of a random candidate is used: such a question does not
    contribute to the gap.
    """
    found = [share if right is None else float(right) for share, right in zip(shares, picked, strict=True)]
    paired = PairedShares.of(shares, found)
    low, high = paired.interval
    return Gap(paired.questions, paired.before, paired.after, paired.difference, low, high)
