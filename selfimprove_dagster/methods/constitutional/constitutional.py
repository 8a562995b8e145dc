"""Supervised Constitutional AI (Bai et al., 2212.08073, section 3): whose principle a round follows, and
which revisions are learnt from, mixed with helpful responses.
"""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.dialogues.files import HELPFUL as OF_HELPFUL
from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.filters.rules import Filter, apply_filters, decision
from selfimprove_dagster.lots import lots, seed_of

REVISION, HELPFUL = "revision", "helpful"
"""The formats of examples."""


_ROUNDING = 1e-9


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


CANDIDATE = ("candidate_id", "prompt_id", "prompt", "kind", "text", "finish_reason", "round", "format")
"""The columns of a candidate of `methods.constitutional.filter_revisions`."""


def revision_candidates(
    pool: pl.DataFrame, responses: pl.DataFrame, revisions: pl.DataFrame, human_responses: bool
) -> pl.DataFrame:
    """The revisions of every round, the first responses as round 0, then one response a helpful prompt.

    With `human_responses` that is a person's where the pool has one; it goes by the id of its prompt.
    """
    prompts = pool.select("prompt", "kind", "response", prompt_id="id")
    drawn = responses.select("prompt_id", "text", "finish_reason", candidate_id="id").with_columns(
        round=pl.lit(0, pl.Int32)
    )
    revised = revisions.select("prompt_id", "text", "finish_reason", "round", candidate_id="id")
    by_model = pl.concat([drawn, revised], how="diagonal").join(
        prompts, on="prompt_id", how="inner", maintain_order="left"
    )
    by_people = prompts.filter(kind=OF_HELPFUL).filter(pl.col("response").is_not_null() & human_responses)
    answered = by_people["prompt_id"].implode()
    helpful = by_model.filter(pl.col("kind") == OF_HELPFUL, round=0).filter(
        ~pl.col("prompt_id").is_in(answered)
    )
    parts = [
        by_model.filter(kind=RED_TEAM).with_columns(format=pl.lit(REVISION)),
        by_people.with_columns(
            candidate_id="prompt_id",
            text="response",
            finish_reason=pl.lit(None, pl.String),
            round=pl.lit(0, pl.Int32),
            format=pl.lit(HELPFUL),
        ),
        helpful.with_columns(format=pl.lit(HELPFUL)),
    ]
    return pl.concat([part.select(CANDIDATE) for part in parts])
