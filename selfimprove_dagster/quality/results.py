"""Define quality checks, their evidence and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from selfimprove_dagster.quality.subject import Subject

MOST_FAILING_IDS = 20


MOST_SAMPLE_ROWS = 10


class Expect:
    """An expectation of Great Expectations by class name; declaring it does not import the library."""

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name = name
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class Evidence:
    """The evidence of a check: a frame, the expectations about it, and texts for either outcome.

    The frame has an `id` column and only the other columns that the expectations and a reader need. A null or
    a NaN in a column of an expectation always counts as unexpected (Great Expectations itself skips them).

    `blocking` overrides the `blocking` of the check if the experiment decides it.

    `found` completes "3 of 40 <unit> …", and `allowed` states what is required. If the expectations concern a
    statistic and not rows, `statement` states its value and `evaluated` is the number of rows behind it.
    """

    frame: pl.DataFrame
    expectations: tuple[Expect, ...]
    allowed: str
    found: str = "do not"
    unit: str = "rows"
    statement: str | None = None
    evaluated: int | None = None
    observed: Mapping[str, float | int | str] = field(default_factory=dict)
    blocking: bool | None = None

    @classmethod
    def of_number(
        cls,
        name: str,
        value: float | None,
        *,
        least: float | None = None,
        most: float | None = None,
        statement: str,
        allowed: str,
        evaluated: int,
        observed: Mapping[str, float | int | str] | None = None,
        blocking: bool | None = None,
    ) -> Evidence:
        """Return the evidence of a number that must be within bounds; None is outside any bounds."""
        frame = pl.DataFrame({"id": [name], name: [value]}, schema={"id": pl.String, name: pl.Float64})
        shown = {} if value is None else {name: value}
        return cls(
            frame,
            (Expect("ExpectColumnValuesToBeBetween", column=name, min_value=least, max_value=most),),
            allowed,
            statement=statement,
            evaluated=evaluated,
            observed={**shown, **(observed or {})},
            blocking=blocking,
        )


@dataclass(frozen=True)
class NotApplicable:
    """The result of a check that does not apply to a partition and therefore passes, with the reason."""

    reason: str


Gather = Callable[["Subject"], Evidence | NotApplicable]
"""Collects the evidence of a check."""


@dataclass(frozen=True)
class QualityCheck:
    """A statement about a table, and how to check it.

    If a *blocking* check fails, later stages cannot read the partition; other checks only warn. Evidence may
    override this for an experiment. If a `foundation` check fails, the checks that depend on it are not
    evaluated and count as failed.
    """

    name: str
    blocking: bool
    description: str
    remedy: str
    gather: Gather = field(repr=False)
    foundation: bool = False


@dataclass(frozen=True)
class QualityResult:
    """The result of a check for one partition.

    `reason` states what was found, what is allowed and, after a failure, what to do. `failing_ids` are the
    ids of the first unexpected rows, and `table` shows these rows. For a statistic, `unexpected` counts the
    violated bounds.
    """

    name: str
    passed: bool
    blocking: bool
    reason: str
    evaluated: int = 0
    unexpected: int = 0
    failing_ids: list[str] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)
    observed: dict[str, float | int | str] = field(default_factory=dict)
