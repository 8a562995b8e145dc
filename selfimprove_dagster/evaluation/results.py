"""Define what a method declares about its results, besides row counts and the accuracy of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest

Stages = Mapping[str, Manifest]
"""Maps a stage to its committed table, for one iteration."""


@dataclass(frozen=True)
class Change:
    """The change of the measure that a method improves: its value before and after, from 0 to 1.

    `difference` is computed on the same questions, with the bounds of its 95% interval. `way` names the
    strategy that is measured after, if there are several.
    """

    before: float | None = None
    after: float | None = None
    difference: tuple[float, float, float] | None = None
    way: str = ""


@dataclass(frozen=True)
class Results:
    """Facts about iterations that only the method can compute.

    `columns` returns further cells of the results table by heading, as text, and `about` explains them.
    `reason` describes the outcome of an iteration without promotion. `change` compares over the tables of all
    iterations, by stage. Missing functions have generic defaults.
    """

    columns: Callable[[Lake, Stages], Mapping[str, str]] = lambda lake, stages: {}
    about: str = ""
    reason: Callable[[Lake, Stages], str] = lambda lake, stages: ""
    change: Callable[[Lake, Mapping[str, Sequence[Manifest]]], Change] | None = None
