"""Rules that several methods share where a model writes tasks: bans, held-out tasks, empty outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import polars as pl

from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.filters.contamination import text_keys
from selfimprove_dagster.filters.rules import Filter, decision


class Ban(Protocol):
    """Who banned an instruction, and why."""

    @property
    def by(self) -> str: ...
    @property
    def why(self) -> str: ...


def not_banned(bans: Mapping[str, Ban]) -> Filter:
    """Drop instructions that a person banned; `bans` are keyed by `normalise_instruction`."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found = [bans.get(normalise_instruction(text or "")) for text in candidates["instruction"]]
        told = ["banned by nobody" if ban is None else f"banned by {ban.by}: {ban.why}" for ban in found]
        judged = candidates.select("candidate_id").with_columns(
            pl.Series("kept", [ban is None for ban in found], dtype=pl.Boolean),
            pl.Series("told", told, dtype=pl.String),
        )
        return decision(judged, "banned", kept=pl.col("kept"), reason=pl.col("told"))

    return decide


def not_held_out(questions: Collection[str]) -> Filter:
    """Drop instances whose instruction and input are held out for evaluation: models invent such anew.

    `questions` are those of the evaluation, normalised or not.
    """
    known = set(text_keys(questions))

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        rows = candidates.select("instruction", "input").iter_rows()
        asked = [key in known for key in text_keys(f"{instruction}\n{given}" for instruction, given in rows)]
        judged = candidates.select("candidate_id").with_columns(pl.Series("asked", asked, dtype=pl.Boolean))
        reason = (
            pl.when("asked")
            .then(pl.lit("held out for evaluation"))
            .otherwise(pl.lit("not held out for evaluation"))
        )
        return decision(judged, "held_out", kept=~pl.col("asked"), reason=reason)

    return decide


def output_not_empty(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop instances whose output is white space or nothing."""
    length = pl.col("output").str.strip_chars().str.len_chars()
    reason = pl.format("an output of {} characters", length)
    return decision(candidates, "empty_output", kept=length > 0, reason=reason, score=length, threshold=1)
