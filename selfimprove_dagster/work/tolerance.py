"""Find the rows of a stage that could not be generated or scored, and stop a stage with too many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

from selfimprove_dagster.errors import TooManyFailed
from selfimprove_dagster.filters.rules import FAILED
from selfimprove_dagster.table import Table

NAMED = 3
"""Number of failed prompts that an error names."""


def has_failed(table: Table) -> pl.Expr | None:
    """Return which rows of a table could not be generated or scored; None if its rows cannot fail.

    Their `problem` starts with one of the reasons FAILED. Other problems are faults of what a model wrote.
    """
    if "problem" not in table.polars:
        return None
    return pl.col("problem").str.contains(f"^({'|'.join(FAILED)}): ").fill_null(False)


def asked_in(table: Table) -> pl.Expr:
    """Return what rows that failed together have in common: their prompt, or else what they were made from."""
    return (
        pl.col("prompt")
        if "prompt" in table.content
        else pl.col("parents").list.eval(pl.element().struct.field("id")).list.join(" ")
    )


@dataclass(frozen=True)
class Tolerance:
    """The maximum share of a stage's rows that may fail, from 0 to 1.

    `places` takes failed rows (`id`, `parents`) and returns, by id, the file and line of the seed behind each.
    """

    failed_share: float = 1.0
    places: Callable[[pl.DataFrame], Mapping[str, str]] = lambda rows: {}


ANY_FAILURES = Tolerance()
"""Tolerates that every row fails."""


@dataclass
class Failures:
    """Counts the rows of a stage's table, and keeps those that failed, with what each was `asked`."""

    tolerance: Tolerance
    table: Table
    rows: int = 0
    failed: list[pl.DataFrame] = field(default_factory=list)

    @property
    def are_possible(self) -> bool:
        """Return whether rows of the table can fail."""
        return has_failed(self.table) is not None

    def add(self, rows: pl.DataFrame) -> None:
        """Count the rows of a shard."""
        failed = has_failed(self.table)
        if failed is not None and "problem" in rows.columns:  # a shard of an earlier version may lack it
            self.rows += len(rows)
            found = rows.filter(failed)
            self.failed.append(found.select("id", "parents", "problem", asked=asked_in(self.table)))

    def may_pass(self, rows: pl.DataFrame, finished: float) -> bool:
        """Return whether a server failed on some of the rows, which may succeed at another time, and the others that
        failed are not too many; `finished` as in `check`.
        """
        if not self.are_possible or not rows["problem"].str.starts_with("failed:").any():
            return False
        lasting = sum((~one["problem"].str.starts_with("failed:")).sum() for one in self.failed)
        return lasting <= self.tolerance.failed_share * self._total(finished)

    def _total(self, finished: float) -> int:
        """Return the number of rows of the whole stage, as far as it can be known."""
        return round(self.rows / finished) if finished else 0

    def check(self, finished: float, kept: str) -> None:
        """Raise TooManyFailed if more than the tolerated share of all rows failed, of which there are some for each
        unit of work.

        `finished` is the share of the work that is done, and `kept` says what of it is kept. The rows of a single
        prompt are not too many, unless the tolerated share is 0.
        """
        share, total = self.tolerance.failed_share, self._total(finished)
        count = sum(map(len, self.failed))
        if count <= share * total:
            return
        prompts = pl.concat(self.failed).unique("asked", keep="first", maintain_order=True)
        if len(prompts) == 1 and share > 0:
            return
        named = prompts.head(NAMED)
        places = self.tolerance.places(named)
        said = "; ".join(
            f"{places.get(row['id'], row['id'])}: {row['problem']}" for row in named.iter_rows(named=True)
        )
        raise TooManyFailed(
            f"{count:,} of {self.rows:,} rows of {self.table.name} failed, and tolerance.failed_share allows "
            f"{share:.1%} of {total:,}. The first: {said}. {kept} are finished and kept: raise tolerance.failed_share "
            "in the experiment file and run again to resume, or correct the cause; leave_out takes out seeds by their "
            "lines"
        )
