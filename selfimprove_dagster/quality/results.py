"""What a quality check is, what it looks at and what it says."""

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
    """One of Great Expectations' expectations by class name: declaring it does not import the library."""

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name = name
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class Evidence:
    """What a check has gathered: a frame, what is expected of it, and words for either outcome.

    The frame has an `id` column and as few others as the expectations and a reader need. A null or a NaN in a
    column that an expectation names is unexpected, whatever the expectation (Great Expectations itself passes
    over them).

    `blocking` says whether a failure closes the gate where the experiment settles it and not the check.

    `found` completes "3 of 40 <unit> …" and `allowed` says what would be right. Where the expectations
    are of a statistic and not of rows, `statement` says its value and `evaluated` on how many rows it rests.
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
        """Evidence of one number that must lie within bounds; None lies within none."""
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
    """The check has nothing to hold against this partition, so it passes; `reason` says why."""

    reason: str


Gather = Callable[["Subject"], Evidence | NotApplicable]
"""Gathers what a check looks at."""


@dataclass(frozen=True)
class QualityCheck:
    """One statement about a table.

    A failed *blocking* check keeps the partition from being handed on; another one warns (evidence may say
    that this one blocks or not in an experiment). When a check
    failed on which the others rest (`foundation`), those are not evaluated and count as failed.
    """

    name: str
    blocking: bool
    description: str
    remedy: str
    gather: Gather = field(repr=False)
    foundation: bool = False


@dataclass(frozen=True)
class QualityResult:
    """What a check found in one partition.

    `reason` says in words what was found, what is allowed and, after a failure, what to do. `failing_ids` are
    the ids of the first unexpected rows, `table` shows them to people. Where a statistic is checked and not
    rows, `unexpected` counts the bounds that it breaks.
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
