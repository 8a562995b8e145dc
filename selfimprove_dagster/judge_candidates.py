"""What the filters of Constitutional AI, RLAIF and RLHF choose from, as the stored tables say it."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.dialogue_files import HELPFUL as OF_HELPFUL
from selfimprove_dagster.dialogue_files import RED_TEAM
from selfimprove_dagster.methods.constitutional import HELPFUL, REVISION

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
