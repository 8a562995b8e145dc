"""Supervised Constitutional AI (Bai et al., 2212.08073, section 3): whose principle a round follows, and
which revisions are learnt from, mixed with helpful responses.
"""

from __future__ import annotations

from typing import TypeVar

import polars as pl

from selfimprove_dagster.families.dialogues.files import HELPFUL as OF_HELPFUL
from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.filters.rules import FAILED, Filter, apply_filters, decision
from selfimprove_dagster.lots import lots, seed_of

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


REVISION, HELPFUL = "revision", "helpful"
"""The formats of examples."""


_ROUNDING = 1e-9


def filter_revisions(
    candidates: pl.DataFrame, *, chosen_round: int, helpful_share: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the revisions and helpful responses to train on, and the decision of every rule that each one
    reached.

    `candidates` has one row per revision of any round (format `revision`; round 0 is the first response) and
    one per helpful response (`helpful`): `candidate_id, prompt_id, prompt, kind, text, finish_reason, round,
    format, is_revised`. Of the revisions those of `chosen_round` are kept; helpful responses are at most
    `helpful_share` of all that is kept, randomly sampled.
    """
    ranks = rank(candidates.lazy(), chosen_round=chosen_round, seed=seed)
    return decide_on_revisions(
        with_ranks(candidates.lazy(), ranks).collect(),
        chosen_round=chosen_round,
        helpful_share=helpful_share,
        revisions=revisions_in(ranks),
    )


def decide_on_revisions(
    candidates: pl.DataFrame, *, chosen_round: int, helpful_share: float, revisions: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions of `filter_revisions` on some of the candidates, `with_ranks` among all of them.

    `revisions` is how many revisions of all candidates are kept.
    """
    rules: list[Filter] = [
        _of_round(chosen_round),
        _finished,
        _not_empty,
        _first_of_its_text,
        _helpful_share_at_most(helpful_share, revisions),
    ]
    return apply_filters(candidates, rules)


def rank(candidates: pl.LazyFrame, *, chosen_round: int, seed: int) -> pl.DataFrame:
    """What two rules need to know of all candidates: `candidate_id, format, first_id, rank`.

    One row for each candidate that is of the chosen round, finished and not empty. `first_id` is the first candidate
    of the same prompt and text, `rank` the place of a helpful response in a random order. Both follow from all
    candidates, so that their ids are held in memory; texts are hashed as they are read.
    """
    lot = pl.struct("prompt", "text").map_batches(
        lambda rows: lots(rows.struct.unnest(), ["prompt", "text"], seed_of(seed, "helpful share")),
        return_dtype=pl.Float64,
        is_elementwise=True,
    )
    kept = (
        candidates.filter(_is_of_round(chosen_round), ~_IS_CUT, _SAYS_SOMETHING)
        .select(
            "candidate_id",
            "format",
            lot=lot,
            prompt=pl.col("prompt").hash(),
            text=pl.col("text").str.strip_chars().hash(),
        )
        .collect(engine="streaming")
        .with_columns(first_id=pl.col("candidate_id").first().over("prompt", "text"))
    )
    helpful = kept.filter(pl.col("candidate_id") == pl.col("first_id"), format=HELPFUL)
    ranks = helpful.select("candidate_id", rank=pl.col("lot").rank("ordinal"))
    return kept.select("candidate_id", "format", "first_id").join(
        ranks, on="candidate_id", how="left", maintain_order="left"
    )


def revisions_in(ranks: pl.DataFrame) -> int:
    """How many revisions are kept, from the table of `rank`."""
    return ranks.filter(pl.col("candidate_id") == pl.col("first_id"), format=REVISION).height


def with_ranks(candidates: pl.LazyFrame, ranks: pl.DataFrame) -> pl.LazyFrame:
    """The candidates with the columns `first_id` and `rank` of `rank`, null where it has no row."""
    found = ranks.lazy().select("candidate_id", "first_id", "rank")
    return candidates.join(found, on="candidate_id", how="left", maintain_order="left")


_IS_REVISION = pl.col("format") == REVISION

# What a person wrote has no finish reason, and is finished.
_IS_CUT = (pl.col("finish_reason") == "length").fill_null(False)

_SAYS_SOMETHING = pl.col("text").str.contains(r"\S")


def _is_of_round(chosen: int) -> pl.Expr:
    return ~_IS_REVISION | (pl.col("round") == chosen)


def _of_round(chosen: int) -> Filter:
    ended = (
        pl.when((pl.col("round") >= chosen) | pl.col("is_revised"))
        .then(pl.lit(""))
        .when(_SAYS_SOMETHING)
        .then(pl.lit(", of which there is no revision"))
        .otherwise(pl.lit(", which says nothing"))
    )

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        reason = (
            pl.when(_IS_REVISION)
            .then(pl.format("of round {}{}; those of round {} are learnt", "round", ended, pl.lit(chosen)))
            .otherwise(pl.lit("a helpful response, which has no rounds"))
        )
        return decision(
            candidates,
            "round",
            kept=_is_of_round(chosen),
            reason=reason,
            score=pl.col("round"),
            threshold=chosen,
        )

    return decide


def _finished(candidates: pl.DataFrame) -> pl.DataFrame:
    reason = pl.when(_IS_CUT).then(pl.lit("cut off at the token limit")).otherwise(pl.lit("not cut off"))
    return decision(candidates, "finished", kept=~_IS_CUT, reason=reason)


def _not_empty(candidates: pl.DataFrame) -> pl.DataFrame:
    failed = pl.col("finish_reason").is_in(FAILED)
    reason = (
        pl.when(_SAYS_SOMETHING)
        .then(pl.lit("says something"))
        .when(failed)
        .then(pl.format("could not be generated: {}", "finish_reason"))
        .otherwise(pl.lit("says nothing"))
    )
    return decision(candidates, "not_empty", kept=_SAYS_SOMETHING, reason=reason)


def _first_of_its_text(candidates: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("first_id")
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


def _helpful_share_at_most(share: float, revisions: int) -> Filter:
    most = int(revisions * share / (1 - share) + _ROUNDING)

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        place = pl.col("rank")
        reason = (
            pl.when(~_IS_REVISION)
            .then(
                pl.format(
                    "number {} of the helpful responses by lot, at most {} beside {} revisions",
                    place,
                    pl.lit(most),
                    pl.lit(revisions),
                )
            )
            .otherwise(pl.lit("a revision; the share bounds helpful responses"))
        )
        return decision(
            candidates,
            "helpful_share",
            kept=_IS_REVISION | (place <= most),
            reason=reason,
            score=place,
            threshold=most,
        )

    return decide


CANDIDATE = (
    *("candidate_id", "prompt_id", "prompt", "kind", "text", "finish_reason", "round", "format"),
    "is_revised",
)
"""The columns of a candidate of `methods.constitutional.filter_revisions`."""


def revision_candidates(pool: Frame, responses: Frame, revisions: Frame, human_responses: bool) -> Frame:
    """The revisions of every round, the first responses as round 0, then one response a helpful prompt.

    With `human_responses` that is a person's where the pool has one; it goes by the id of its prompt.
    """
    prompts = pool.select("prompt", "kind", "response", prompt_id="id")
    drawn = responses.select("prompt_id", "text", "finish_reason", candidate_id="id").with_columns(
        round=pl.lit(0, pl.Int32)
    )
    revised = revisions.select("prompt_id", "text", "finish_reason", candidate_id="id", round="round")
    later = revisions.select(candidate_id="revises_id", is_revised=pl.lit(True)).unique("candidate_id")
    by_model = (
        pl.concat([drawn, revised])
        .join(prompts.drop("response"), on="prompt_id", how="inner", maintain_order="left")
        .join(later, on="candidate_id", how="left", maintain_order="left")
        .with_columns(pl.col("is_revised").fill_null(False))
    )
    by_people = prompts.filter(kind=OF_HELPFUL).filter(pl.col("response").is_not_null() & human_responses)
    helpful = by_model.filter(kind=OF_HELPFUL, round=0).join(
        by_people, on="prompt_id", how="anti", maintain_order="left"
    )
    parts = [
        by_model.filter(kind=RED_TEAM).with_columns(format=pl.lit(REVISION)),
        by_people.with_columns(
            candidate_id="prompt_id",
            text="response",
            finish_reason=pl.lit(None, pl.String),
            round=pl.lit(0, pl.Int32),
            format=pl.lit(HELPFUL),
            is_revised=pl.lit(False),
        ),
        helpful.with_columns(format=pl.lit(HELPFUL)),
    ]
    return pl.concat([part.select(CANDIDATE) for part in parts])
