"""The grammar of the embedded base model: additive word problems and several ways to reason about each.

A problem is a starting amount and two to five changes of different sizes. Its answer does not depend on the
order in which the changes are applied, so one question has several correct reasoning paths: in the order of
the question, backwards, gains first, losses first, gains and losses added up on their own, or in words. A
path announces its plan and follows it. Paths go through different intermediate sums, so they fail
differently, which is what a majority vote over sampled paths needs.

Splits are decided by a hash of the problem's structure (start and multiset of signed changes), never by its
words: two problems with the same numbers and operations, in whatever order and phrasing, share a split.

Everything is drawn from a `random.Random` given by the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Literal

Split = Literal["pretraining", "seeds", "evaluation"]


LARGEST_AMOUNT = 60
"""Bound on the amount after each change, in the order of the question."""


LARGEST_TOTAL = 80
"""Bound on every number of a reasoning path."""


START_RANGE = (5, 40)


CHANGE_RANGE = (2, 9)


MINIMUM_STEPS, MAXIMUM_STEPS = 2, 5


_NAMES = {
    "he": ("Tom", "Ben", "Max", "Leo", "Sam", "Dan", "Jack", "Omar"),
    "she": ("Ann", "Mia", "Eva", "Zoe", "Lucy", "Nina", "Sara", "Kate"),
}


_OBJECTS = (
    "pens", "cups", "books", "coins", "cards", "apples", "stamps", "shells",
    "balls", "keys", "plates", "stones", "beads", "plums", "boxes", "toys",
)  # fmt: skip


_PERSON_GAINS = ("buys {n} {o}", "finds {n} {o}", "gets {n} {o}", "wins {n} {o}", "picks up {n} {o}")


_PERSON_LOSSES = (
    "gives away {n} {o}",
    "loses {n} {o}",
    "sells {n} {o}",
    "drops {n} {o}",
    "hands out {n} {o}",
)


_PLACES = ("box", "bag", "shop", "room", "van", "store")


_PLACE_GAINS = ("add {n} {o}", "put in {n} {o}", "bring {n} {o}", "store {n} {o}")


_PLACE_LOSSES = ("take out {n} {o}", "remove {n} {o}", "sell {n} {o}", "use {n} {o}")


@dataclass(frozen=True)
class Problem:
    """A question with what decides its answer: starting amount and signed changes, in question order."""

    question: str
    start: int
    changes: tuple[int, ...]

    @property
    def answer(self) -> int:
        """The true answer."""
        return self.start + sum(self.changes)

    @property
    def difficulty(self) -> int:
        """Number of changes, two to five."""
        return len(self.changes)

    @property
    def structure(self) -> str:
        """Start and sorted changes: the same for all phrasings and orders of the same sum."""
        return f"{self.start}:" + ",".join(f"{change:+d}" for change in sorted(self.changes))


@dataclass(frozen=True)
class Document:
    """A training text in two parts that are tokenised separately; `completion` is followed by end-of-text."""

    prompt: str
    completion: str


def split_of(problem: Problem) -> Split:
    """The split that the problem's structure belongs to: 10% evaluation, 25% seeds, 65% pretraining."""
    digest = hashlib.blake2b(problem.structure.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    if bucket < 10:
        return "evaluation"
    return "seeds" if bucket < 35 else "pretraining"


def make_problem(rng: Random, steps: int) -> Problem:
    """Draw a problem with `steps` changes of different sizes, its amount within 0 and `LARGEST_AMOUNT`."""
    while True:
        start = rng.randint(*START_RANGE)
        sizes = rng.sample(range(CHANGE_RANGE[0], CHANGE_RANGE[1] + 1), steps)
        changes = tuple(size * rng.choice((1, -1)) for size in sizes)
        totals = list(accumulate(changes, initial=start))
        if min(totals) >= 0 and max(totals) <= LARGEST_AMOUNT:
            return Problem(_phrase(rng, start, changes), start, changes)


def draw_problem(rng: Random, split: Split, shares: Sequence[float]) -> Problem:
    """Draw a problem of `split`; `shares` are the weights of 2, 3, 4 and 5 steps."""
    steps = rng.choices(range(MINIMUM_STEPS, MAXIMUM_STEPS + 1), shares)[0]
    while True:
        problem = make_problem(rng, steps)
        if split_of(problem) == split:
            return problem


def _phrase(rng: Random, start: int, changes: Sequence[int]) -> str:
    """The words of a question about a person's things (two thirds) or the things in a place."""
    thing = rng.choice(_OBJECTS)
    sentences: list[str] = []

    def say(gains: Sequence[str], losses: Sequence[str], change: int) -> str:
        # Repeating the object in every sentence would lengthen each prompt; the first change names it.
        words = rng.choice(gains if change > 0 else losses).format(n=abs(change), o="{o}")
        return words.replace("{o}", thing) if not sentences else words.replace(" {o}", "")

    if rng.random() < 2 / 3:
        pronoun = rng.choice(("he", "she"))
        name = rng.choice(_NAMES[pronoun])
        for change in changes:
            sentences.append(f"{pronoun.capitalize()} {say(_PERSON_GAINS, _PERSON_LOSSES, change)}.")
        ending = rng.choice(
            (
                f"How many {thing} does {name} have now?",
                f"How many {thing} does {pronoun} have in the end?",
                f"How many {thing} are left?",
            )
        )
        return " ".join((f"{name} has {start} {thing}.", *sentences, ending))
    place = rng.choice(_PLACES)
    for change in changes:
        sentences.append(f"They {say(_PLACE_GAINS, _PLACE_LOSSES, change)}.")
    opening = rng.choice((f"A {place} has {start} {thing}.", f"There are {start} {thing} in a {place}."))
    ending = rng.choice((f"How many {thing} are in the {place} now?", f"How many {thing} are left?"))
    return " ".join((opening, *sentences, ending))


def _chain(start: int, changes: Sequence[int]) -> list[str]:
    """`14+9=23. 23-5=18.`"""
    sentences = []
    for change in changes:
        sentences.append(f"{start}{change:+d}={start + change}.")
        start += change
    return sentences


def _in_order(problem: Problem) -> list[str]:
    """`Go in order. 14+9=23. 23-5=18.`"""
    return ["Go in order.", *_chain(problem.start, problem.changes)]


def _backwards(problem: Problem) -> list[str] | None:
    """`Go backwards.` and the changes from the last to the first."""
    return _announced("Go backwards.", problem.start, problem.changes[::-1])


def _gains_first(problem: Problem) -> list[str] | None:
    """`Gains first.`, then the losses, each in the order of the question."""
    gains, losses = _signed(problem)
    return _announced("Gains first.", problem.start, gains + losses) if gains and losses else None


def _losses_first(problem: Problem) -> list[str] | None:
    """`Losses first.`, then the gains, each in the order of the question."""
    gains, losses = _signed(problem)
    return _announced("Losses first.", problem.start, losses + gains) if gains and losses else None


def _grouped(problem: Problem) -> list[str] | None:
    """`Add up. 9+7=16. 14+16=30.`: the gains are added up, then go to the start; the losses likewise."""
    sentences, sums = ["Add up."], []
    for members in _signed(problem):
        if members:
            sizes = [abs(change) for change in members]
            sentences += _chain(sizes[0], sizes[1:])
            sums.append(sum(members))
    if len(sums) == len(problem.changes):
        return None  # nothing to add up: it would be a running chain
    return [*sentences, *_chain(problem.start, sums)] if _within(problem.start, sums) else None


def _worded(problem: Problem) -> list[str]:
    """`Start at 14. Plus 9 is 23. Minus 5 is 18.`"""
    total, sentences = problem.start, [f"Start at {problem.start}."]
    for change in problem.changes:
        total += change
        sentences.append(f"{'Plus' if change > 0 else 'Minus'} {abs(change)} is {total}.")
    return sentences


def _signed(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    gains = tuple(change for change in problem.changes if change > 0)
    return gains, tuple(change for change in problem.changes if change < 0)


def _announced(plan: str, start: int, order: Sequence[int]) -> list[str] | None:
    return [plan, *_chain(start, order)] if _within(start, order) else None


def _within(total: int, order: Sequence[int]) -> bool:
    """Whether the running total stays within 0 and `LARGEST_TOTAL`."""
    for change in order:
        total += change
        if not 0 <= total <= LARGEST_TOTAL:
            return False
    return True


_Style = Callable[[Problem], "list[str] | None"]


STYLES: dict[str, tuple[_Style, float]] = {
    "in_order": (_in_order, 0.25),
    "backwards": (_backwards, 0.22),
    "gains_first": (_gains_first, 0.18),
    "losses_first": (_losses_first, 0.18),
    "grouped": (_grouped, 0.10),
    "worded": (_worded, 0.07),
}
"""Styles of reasoning and their weights. A style that does not apply to a problem gives way to `in_order`."""


def make_reasoning(
    rng: Random, problem: Problem, style: str | None = None, weights: Mapping[str, float] | None = None
) -> str:
    """One correct reasoning path, without the closing sentence that states the answer.

    The style is drawn by `weights` (those of `STYLES` by default) where none is named.
    """
    if style is None:
        shares = weights or {name: weight for name, (_, weight) in STYLES.items()}
        style = rng.choices(list(shares), list(shares.values()))[0]
    return " ".join(STYLES[style][0](problem) or _in_order(problem))


def zero_shot_reasoning(question: str, reasoning: str, answer: int) -> Document:
    """Zero-shot chain of thought."""
    return Document(f"Q: {question}\nA: Let's think step by step.", f" {reasoning} The answer is {answer}.")


def zero_shot_direct(question: str, answer: int) -> Document:
    """Zero-shot, answer only."""
    return Document(f"Q: {question}\nA: The answer is", f" {answer}.")


def few_shot_reasoning(
    demonstrations: Sequence[tuple[str, str, int]], question: str, reasoning: str, answer: int
) -> Document:
    """Few-shot chain of thought; a demonstration is (question, reasoning, answer)."""
    shown = "".join(f"Q: {q}\nA: {r} The answer is {a}.\n\n" for q, r, a in demonstrations)
    return Document(f"{shown}Q: {question}\nA:", f" {reasoning} The answer is {answer}.")


def few_shot_direct(demonstrations: Sequence[tuple[str, int]], question: str, answer: int) -> Document:
    """Few-shot, answer only; a demonstration is (question, answer)."""
    shown = "".join(f"Q: {q}\nA: The answer is {a}.\n\n" for q, a in demonstrations)
    return Document(f"{shown}Q: {question}\nA:", f" The answer is {answer}.")
