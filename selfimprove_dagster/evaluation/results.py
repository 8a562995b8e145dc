"""What a method declares of its results, besides the rows that are counted and the accuracy of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest

Stages = Mapping[str, Manifest]
"""The committed tables of one iteration, by stage."""


@dataclass(frozen=True)
class Change:
    """How what a method improves changed: its measure before and after, from 0 to 1.

    `difference` is on the same questions, with the bounds of its 95% interval. `way` names what is measured after,
    where there are several.
    """

    before: float | None = None
    after: float | None = None
    difference: tuple[float, float, float] | None = None
    way: str = ""


@dataclass(frozen=True)
class Results:
    """Facts of iterations that only the method can read.

    `columns` gives further cells of the results table by heading, in words, and `about` says what they mean. `reason`
    says what came out of an iteration in which nothing is promoted. `change` compares, over the tables of all
    iterations by stage. What is left out is generic.
    """

    columns: Callable[[Lake, Stages], Mapping[str, str]] = lambda lake, stages: {}
    about: str = ""
    reason: Callable[[Lake, Stages], str] = lambda lake, stages: ""
    change: Callable[[Lake, Mapping[str, Sequence[Manifest]]], Change] | None = None
