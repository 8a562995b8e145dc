"""Which of the sampled calls become training data (Schick et al., 2302.04761, sections 2 and 4.1).

A candidate is a call at a place: `candidate_id, text_id, position, tool, arguments, result, problem` (why there is no
result, or null), and the losses `loss_no_call, loss_call, loss_call_with_result`, null where they were not needed,
and where there is a column `unscored` that says why they could not be computed. Thresholds can be changed and the
rules run again over one scoring pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from selfimprove_dagster.filters.rules import Filter, apply_filters, decision
from selfimprove_dagster.lots import lots
from selfimprove_dagster.tools.calls import Call, PlacedCall, interleave

PAPER_THRESHOLDS: Mapping[str, float] = {
    "QA": 1.0,
    "WikiSearch": 1.0,
    "Calendar": 1.0,
    "Calculator": 0.5,
    "MT": 0.5,
}
"""τ_f of each tool."""


TABLE_THRESHOLDS = (0.5, 1.0, 2.0)
"""τ_f at which the paper counts examples."""


LOSS_REDUCTION = (
    pl.when(~pl.any_horizontal(pl.col("loss_no_call", "loss_call").is_null()))
    .then(pl.min_horizontal("loss_no_call", "loss_call"))
    .otherwise(None)
    - pl.col("loss_call_with_result")
).alias("loss_reduction")
"""L⁻ − L⁺ of each candidate; null where one of the three is."""


_MOST_REDUCTION = pl.col("loss_reduction").fill_null(
    pl.col("loss_no_call") - pl.col("loss_call_with_result").fill_null(0.0)
)
"""The most that L⁻ − L⁺ can be: L⁻ is at most the loss without a call, and no loss is below 0."""


@dataclass(frozen=True)
class CallThresholds:
    """Which calls are kept; None or False switches a rule off. `loss_reduction` is τ_f by tool."""

    loss_reduction: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_THRESHOLDS))
    other_tools: float = 1.0
    one_at_a_position: bool = True
    most_texts: int | None = 25_000
    by_lot: bool = False
    """Keep as many calls of each tool as would pass, but others: the control of an ablation."""


def filter_calls(
    candidates: pl.DataFrame, thresholds: CallThresholds, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The calls worth training on, with their `loss_reduction`, and a decision at every rule they reached."""
    kept, decisions = filter_within_texts(candidates, thresholds)
    on_all = filter_over_texts([candidates], thresholds, seed)
    dropped = on_all.filter(~pl.col("kept")).select("candidate_id")
    kept = kept.join(dropped, on="candidate_id", how="anti", maintain_order="left")
    return kept, pl.concat([decisions, on_all])


def filter_within_texts(
    candidates: pl.DataFrame, thresholds: CallThresholds
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `filter_calls` decides text by text: all calls of a text are among the candidates."""
    filters: list[Filter] = [has_result, drop_repeated_calls]
    if not thresholds.by_lot:
        filters.append(reduces_loss(thresholds.loss_reduction, thresholds.other_tools))
        if thresholds.one_at_a_position:
            filters.append(best_at_its_position)
    return apply_filters(candidates.with_columns(LOSS_REDUCTION), filters)


def filter_over_texts(parts: Iterable[pl.DataFrame], thresholds: CallThresholds, seed: int) -> pl.DataFrame:
    """What `filter_calls` decides over all texts: the decisions on the calls that `filter_within_texts` keeps.

    `parts` are the candidates, those of a text in one part. The ids, tools, inputs and places of the kept calls are
    held.
    """
    calls = [pl.DataFrame(schema=_PLACE)]
    passing: Counter[str] = Counter()
    for part in parts:
        calls.append(filter_within_texts(part, thresholds)[0].select(_PLACE.keys()))
        if thresholds.by_lot:
            passing.update(filter_within_texts(part, replace(thresholds, by_lot=False))[0]["tool"])
    filters: list[Filter] = [drawn_by_lot(dict(passing), seed)] if thresholds.by_lot else []
    if thresholds.most_texts is not None:
        filters.append(at_most_texts_per_tool(thresholds.most_texts, seed))
    return apply_filters(pl.concat(calls), filters)[1]


_PLACE = {
    "candidate_id": pl.String,
    "text_id": pl.String,
    "position": pl.Int32,
    "tool": pl.String,
    "arguments": pl.String,
    "text_key": pl.Int64,
}


_EMPTY = pl.col("result").fill_null("").str.strip_chars() == ""


def has_result(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop calls that could not be read or made, with their `problem`, and those that returned nothing."""
    problem = pl.col("problem")
    reason = problem.fill_null(
        pl.when(_EMPTY)
        .then(pl.lit("the tool returned nothing"))
        .otherwise(pl.lit("the tool returned a result"))
    )
    return decision(candidates, "has_result", kept=problem.is_null() & ~_EMPTY, reason=reason)


def drop_repeated_calls(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep the first of several equal calls at one position: samples often agree."""
    first = pl.col("candidate_id").first().over("text_id", "position", "tool", "arguments")
    kept = pl.col("candidate_id") == first
    reason = (
        pl.when(kept)
        .then(pl.lit("no equal call before it"))
        .otherwise(pl.format("the same call as {}", first))
    )
    nearest = pl.when(kept).then(None).otherwise(first)
    return decision(candidates, "repeated_call", kept=kept, reason=reason, nearest_id=nearest)


def reduces_loss(thresholds: Mapping[str, float], other_tools: float = 1.0) -> Filter:
    """Keep calls with L⁻ − L⁺ ≥ τ_f of their tool; what was not scored, since it could not pass or be scored, is
    dropped.

    Raises ValueError where a call was not scored that could pass: it was scored for a higher τ_f.
    """

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        score = pl.col("loss_reduction")
        threshold = pl.col("tool").replace_strict(
            list(thresholds), list(thresholds.values()), default=other_tools, return_dtype=pl.Float64
        )
        unscored = _unscored(candidates)
        _check_scored(candidates.filter(unscored.is_null()), threshold)
        reason = pl.format("lowers the loss by {} nats against at least {}", score.round(4), threshold)
        bounded = pl.format(
            "lowers the loss by at most {} nats against at least {}", _MOST_REDUCTION.round(4), threshold
        )
        reason = pl.when(score.is_null()).then(pl.coalesce(unscored, bounded)).otherwise(reason)
        verdicts = decision(candidates, "loss_reduction", kept=score >= threshold, reason=reason, score=score)
        return verdicts.with_columns(candidates.select(threshold.alias("threshold"))["threshold"])

    return decide


def _unscored(candidates: pl.DataFrame | pl.LazyFrame) -> pl.Expr:
    """Why each call could not be scored; null where it could, or need not be."""
    known = "unscored" in candidates.collect_schema()
    return pl.col("unscored") if known else pl.lit(None, pl.String)


def best_at_its_position(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep the call that lowers the loss most among those at one position; of equal ones the first.

    The paper does not say what becomes of several; two calls in a row would answer the same need twice.
    """
    place = ("text_id", "position")
    best = pl.col("candidate_id").sort_by("loss_reduction", descending=True, maintain_order=True).first()
    best = best.over(place)
    kept = pl.col("candidate_id") == best
    reason = (
        pl.when(kept)
        .then(pl.lit("the most helpful call at its position"))
        .otherwise(pl.format("{} at the same position helps more", best))
    )
    nearest = pl.when(kept).then(None).otherwise(best)
    score = pl.col("loss_reduction")
    return decision(candidates, "best_at_position", kept=kept, reason=reason, score=score, nearest_id=nearest)


def drawn_by_lot(counts: Mapping[str, int], seed: int) -> Filter:
    """Keep `counts` randomly sampled calls of each tool, one per position, whatever their loss."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        candidates = candidates.with_columns(
            lots(candidates, ["tool", "text_key", "position", "arguments"], seed)
        )
        first = pl.col("lot") == pl.col("lot").min().over("text_id", "position")
        rank = pl.when(first).then(pl.col("lot")).rank("ordinal").over("tool")
        most = pl.col("tool").replace_strict(counts, default=0, return_dtype=pl.Int64)
        reason = pl.format("number {} of its tool by lot, at most {}", rank, most)
        reason = reason.fill_null(pl.lit("another call at its position was drawn"))
        return decision(candidates, "drawn_by_lot", kept=rank <= most, reason=reason, score=rank)

    return decide


def at_most_texts_per_tool(most: int, seed: int) -> Filter:
    """Keep the calls of at most `most` randomly sampled texts per tool (the paper's 25k examples)."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        candidates = candidates.with_columns(lots(candidates, ["tool", "text_key"], seed))
        rank = pl.col("lot").rank("dense").over("tool")
        reason = pl.format("text number {} of its tool by lot, at most {}", rank, pl.lit(most))
        return decision(
            candidates, "texts_per_tool", kept=rank <= most, reason=reason, score=rank, threshold=most
        )

    return decide


def counts_at(
    candidates: pl.DataFrame | pl.LazyFrame, thresholds: Sequence[float] = TABLE_THRESHOLDS
) -> pl.DataFrame:
    """The paper's table 2: `tool, threshold, examples, calls` with a loss reduction of at least each.

    An example is a text with at least one such call of the tool. Equal calls at one position count once.
    Every tool has a row at every threshold. Raises ValueError where a call was not scored that could pass.
    """
    rows = candidates.lazy()
    usable = (
        rows.filter(pl.col("problem").is_null() & ~_EMPTY & _unscored(rows).is_null())
        .unique(["text_id", "position", "tool", "arguments"], keep="first", maintain_order=True)
        .with_columns(LOSS_REDUCTION)
        .select("candidate_id", "text_id", "tool", "loss_no_call", "loss_call_with_result", "loss_reduction")
        .collect()
    )
    tools = rows.select(pl.col("tool").unique(maintain_order=True)).collect()
    counted = []
    for threshold in thresholds:
        _check_scored(usable, pl.lit(threshold))
        passing = usable.filter(pl.col("loss_reduction") >= threshold)
        counts = passing.group_by("tool").agg(
            pl.col("text_id").n_unique().alias("examples"), pl.len().alias("calls")
        )
        counted.append(
            tools.join(counts, on="tool", how="left", maintain_order="left").select(
                "tool",
                pl.lit(threshold, dtype=pl.Float64).alias("threshold"),
                pl.col("examples", "calls").fill_null(0).cast(pl.Int64),
            )
        )
    return pl.concat(counted)


def training_texts(kept: pl.DataFrame, texts: Mapping[str, str]) -> pl.DataFrame:
    """One row a text with kept calls: `text_id, text` (with its calls, x*), `candidate_ids`, `tools`.

    All of a text's calls go into one example, in the order of their positions.
    """
    rows = []
    for (text_id,), calls in kept.sort("position", maintain_order=True).group_by(
        "text_id", maintain_order=True
    ):
        placed = [
            PlacedCall(row["position"], Call(row["tool"], row["arguments"], row["result"]))
            for row in calls.iter_rows(named=True)
        ]
        rows.append(
            {
                "text_id": text_id,
                "text": interleave(texts[str(text_id)], placed),
                "candidate_ids": calls["candidate_id"].to_list(),
                "tools": calls["tool"].unique(maintain_order=True).to_list(),
            }
        )
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "text_id": pl.String,
        "text": pl.String,
        "candidate_ids": pl.List(pl.String),
        "tools": pl.List(pl.String),
    }
    return pl.DataFrame(rows, schema=schema)


def _check_scored(candidates: pl.DataFrame, threshold: pl.Expr) -> None:
    """Raise ValueError unless every candidate that could pass the threshold was scored."""
    open_ones = candidates.filter(
        pl.col("loss_reduction").is_null() & _MOST_REDUCTION.ge(threshold).fill_null(True)
    )
    if not open_ones.is_empty():
        raise ValueError(
            f"{open_ones.height} calls, the first {open_ones['candidate_id'][0]}, could pass but were not "
            "scored to the end: score again with a least reduction of no more than the threshold"
        )
