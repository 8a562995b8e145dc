"""Supervised Constitutional AI (Bai et al., 2212.08073, section 3): whose principle a round follows, and
which revisions are learnt from, mixed with helpful responses.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from selfimprove_dagster.filters import apply_filters
from selfimprove_dagster.filters.chain import Filter, decision
from selfimprove_dagster.lots import lots, seed_of

REVISION, HELPFUL = "revision", "helpful"
"""The formats of examples."""
_ROUNDING = 1e-9


def choose_principle(names: Sequence[str], *drawn_for: str | int) -> str:
    """One of the names, as likely as any other. It follows from the seed and whatever else it is drawn for
    (the prompt, the round), not from the order of the names.
    """
    return min(names, key=lambda name: seed_of(*drawn_for, name))


def filter_revisions(
    candidates: pl.DataFrame, *, chosen_round: int, helpful_share: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The revisions and helpful responses worth training on, and a decision for each at every rule it
    reached.

    `candidates` has one row a revision of any round (format `revision`; round 0 is the first response) and
    one a helpful response (`helpful`): `candidate_id, prompt_id, prompt, kind, text, finish_reason, round,
    format`. Of the revisions those of `chosen_round` are kept; helpful responses are at most
    `helpful_share` of all that is kept, drawn by lot.
    """
    rules: list[Filter] = [
        _of_round(chosen_round),
        _finished,
        _not_empty,
        _first_of_its_text,
        _helpful_share_at_most(helpful_share, seed),
    ]
    return apply_filters(candidates, rules)


def _of_round(chosen: int) -> Filter:
    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        revision = pl.col("format") == REVISION
        reason = (
            pl.when(revision)
            .then(pl.format("of round {}; those of round {} are learnt", "round", pl.lit(chosen)))
            .otherwise(pl.lit("a helpful response, which has no rounds"))
        )
        return decision(
            candidates,
            "round",
            kept=~revision | (pl.col("round") == chosen),
            reason=reason,
            score=pl.col("round"),
            threshold=chosen,
        )

    return decide


def _finished(candidates: pl.DataFrame) -> pl.DataFrame:
    """What a person wrote has no finish reason, and is finished."""
    cut = (pl.col("finish_reason") == "length").fill_null(False)
    reason = pl.when(cut).then(pl.lit("cut off at the token limit")).otherwise(pl.lit("not cut off"))
    return decision(candidates, "finished", kept=~cut, reason=reason)


def _not_empty(candidates: pl.DataFrame) -> pl.DataFrame:
    says = pl.col("text").str.contains(r"\S")
    reason = pl.when(says).then(pl.lit("says something")).otherwise(pl.lit("says nothing"))
    return decision(candidates, "not_empty", kept=says, reason=reason)


def _first_of_its_text(candidates: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("candidate_id").first().over(pl.col("prompt"), pl.col("text").str.strip_chars())
    kept = pl.col("candidate_id") == first
    reason = (
        pl.when(kept)
        .then(pl.lit("nothing equal before it"))
        .otherwise(pl.format("prompt and text are those of {}", first))
    )
    return decision(
        candidates,
        "duplicate",
        kept=kept,
        reason=reason,
        nearest_id=pl.when(kept).then(None).otherwise(first),
    )


def _helpful_share_at_most(share: float, seed: int) -> Filter:
    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        helpful = pl.col("format") == HELPFUL
        revisions = candidates.filter(~helpful).height
        most = int(revisions * share / (1 - share) + _ROUNDING)
        drawn = candidates.with_columns(lots(candidates, ["prompt", "text"], seed_of(seed, "helpful share")))
        rank = pl.when(helpful).then(pl.col("lot").rank("ordinal").over("format"))
        reason = (
            pl.when(helpful)
            .then(
                pl.format(
                    "number {} of the helpful responses by lot, at most {} beside {} revisions",
                    rank,
                    pl.lit(most),
                    pl.lit(revisions),
                )
            )
            .otherwise(pl.lit("a revision; the share bounds helpful responses"))
        )
        return decision(
            drawn,
            "helpful_share",
            kept=~helpful | (rank <= most),
            reason=reason,
            score=rank,
            threshold=most,
        )

    return decide
