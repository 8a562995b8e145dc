"""Statistics of tools: how calls were used, the loss of plain texts, and the calls that help most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.methods.toolformer.exam import PLAIN, WITH_TOOLS, WITHOUT
from selfimprove_dagster.methods.toolformer.rules import LOSS_REDUCTION


@dataclass(frozen=True)
class CallUse:
    """Shares of 1, over the beginnings that were completed with tools; None where there is nothing to divide by.

    `called`: texts in which a call was opened. `well_formed`: calls that could be read. `with_result`: calls that
    gave a result. Among texts with a result, `helped` are right with tools and wrong without, `hurt` the reverse.
    """

    called: float | None
    well_formed: float | None
    with_result: float | None
    helped: float | None
    hurt: float | None


def call_use(rows: pl.DataFrame, role: str) -> CallUse:
    """How a model (champion or challenger) used its calls, from the rows of an evaluation."""
    place = ["source_file", "source_line"]
    own = rows.filter(role=role)
    with_tools = own.filter(mode=WITH_TOOLS).with_columns(pl.col("calls").fill_null([]))
    calls = with_tools.select(pl.col("calls").explode(empty_as_null=False)).unnest("calls")
    has_result = pl.col("calls").list.eval(pl.element().struct.field("result").is_not_null()).list.any()
    both = (
        with_tools.filter(has_result.fill_null(False))
        .select(*place, then="correct")
        .join(own.filter(mode=WITHOUT).select(*place, before="correct"), on=place)
    )
    return CallUse(
        called=_mean(with_tools["calls"].list.len() > 0),
        well_formed=_mean(calls["tool"].is_not_null()),
        with_result=_mean(calls["result"].is_not_null()),
        helped=_mean(both["then"] & ~both["before"]),
        hurt=_mean(both["before"] & ~both["then"]),
    )


def plain_losses(rows: pl.DataFrame) -> dict[str, float]:
    """Mean negative log-probability of plain texts in nats per token, by role; empty without plain texts."""
    plain = rows.filter(mode=PLAIN).group_by("role", maintain_order=True)
    return dict(plain.agg(pl.col("nats").sum() / pl.col("tokens").sum()).iter_rows())


BEST_AND_WORST = 10
"""Calls of each tool that are listed."""


def best_and_worst(
    candidates: pl.DataFrame | pl.LazyFrame,
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Each tool with the calls that lower the loss most, and those that raise it most, extremes first.

    `candidates` are those of `toolboxes.call_candidates`; besides the calls that are listed, only ids are held.
    """
    scored = candidates.lazy().with_columns(LOSS_REDUCTION).drop_nulls("loss_reduction")
    ranked = (
        scored.select("candidate_id", "tool", "loss_reduction")
        .collect()
        .sort("loss_reduction", descending=True, maintain_order=True)
    )
    for (tool,), part in ranked.group_by("tool", maintain_order=True):
        best, worst = part.head(BEST_AND_WORST), part.tail(BEST_AND_WORST).reverse()
        yield str(tool), _calls(scored, best), _calls(scored, worst)


def _calls(scored: pl.LazyFrame, ranked: pl.DataFrame) -> pl.DataFrame:
    """The ranked calls with all their columns, in their order."""
    ids = ranked.select("candidate_id")
    calls = scored.join(ids.lazy(), on="candidate_id", how="semi").collect()
    return ids.join(calls, on="candidate_id", maintain_order="left")


def _mean(flags: pl.Series) -> float | None:
    return float(flags.cast(pl.Float64).mean()) if len(flags) else None  # type: ignore[arg-type]
