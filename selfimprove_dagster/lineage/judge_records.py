"""What the filters choose from where a model or people judge, as the tables of one iteration hold it.

Of Constitutional AI a *candidate* is a revision of some round, a first response or a person's (which goes by
the id of its prompt), of RLAIF a preference, of RLHF and PIT a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from selfimprove_dagster import judge_tables as t
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.pit_tables import PIT_SEED_POOL
from selfimprove_dagster.records import Row, TableSchema

NOUNS = {
    "constitutional": "candidate",
    "rlaif": "preference",
    "rlhf": "comparison",
    "pit": "comparison",
}
"""What people call what the filters of a method choose from."""
CANDIDATES = {
    "constitutional": (t.CAI_REVISIONS, t.CAI_RAW_GENERATIONS, t.CAI_SEED_POOL),
    "rlaif": (t.RLAIF_AI_PREFERENCES,),
    "rlhf": (t.RLHF_SEED_POOL,),
    "pit": (PIT_SEED_POOL,),
}
POOLS = {
    "constitutional": t.CAI_SEED_POOL,
    "rlaif": t.RLAIF_SEED_POOL,
    "rlhf": t.RLHF_SEED_POOL,
    "pit": PIT_SEED_POOL,
}
COMPARED = ("rlhf", "pit")
"""Methods whose seeds are comparisons, which are what their filters choose from."""
OF_EXAMPLE = ("improver_dataset", "gap_pairs", "policy_references")
"""Stages whose rows were made of an example, the pair `example_id`."""
MADE_FROM = ("completion", "preference", "comparison")
"""The roles of the candidate that an example was made from."""


def candidates_of(iteration: Iteration, row: Row) -> list[Row]:
    """The candidates that a row of this iteration is, is about, was made from or was used for."""
    stage, method = row["table_name"].split("/")[1], iteration.method
    if stage in ("decisions", "review_queue"):
        wanted = pl.col("id") == row["candidate_id" if stage == "decisions" else "item_id"]
    elif stage == "filtered_dataset":
        made = [edge["id"] for edge in row["parents"] if edge["role"] in MADE_FROM]
        wanted = pl.col("id").is_in(made or [row["prompt_id"]])
    elif stage in OF_EXAMPLE:
        example = iteration.row(iteration.table("filtered_dataset"), "id", row["example_id"])
        wanted = pl.col("id") == example.get("prompt_id", row["prompt_id"])
    elif stage == "critiques":
        wanted = pl.col("id").is_in(
            [one["id"] for one in iteration.rows(t.CAI_REVISIONS, pl.col("critique_id") == row["id"])]
        )
    elif stage == "response_pairs":
        return iteration.rows(t.RLAIF_AI_PREFERENCES, pl.col("response_ids").list.contains(row["id"]))
    elif stage == "comparisons":
        first, second = row["response_ids"]
        pair = pl.col("response_ids").list
        return iteration.rows(t.RLAIF_AI_PREFERENCES, (pair.get(0) == first) & (pair.get(1) == second))
    elif stage == "seed_pool" and method not in COMPARED:
        return _of_prompt(iteration, row["id"])
    else:
        wanted = pl.col("id") == row["id"]
    return [found for schema in CANDIDATES[method] for found in _tabled(iteration, schema, wanted)]


def _of_prompt(iteration: Iteration, prompt: str) -> list[Row]:
    """The candidates of a prompt that were decided on, and those that may be."""
    of = pl.col("prompt_id") == prompt
    if iteration.method == "rlaif":
        return _tabled(iteration, t.RLAIF_AI_PREFERENCES, of)
    found = [
        *_tabled(iteration, t.CAI_SEED_POOL, pl.col("id") == prompt),
        *_tabled(iteration, t.CAI_RAW_GENERATIONS, of),
        *sorted(_tabled(iteration, t.CAI_REVISIONS, of), key=lambda row: int(row["round"])),
    ]
    known = _decided(iteration, found)
    return [row for row in found if row["id"] in known] if known else found[1:]


def _tabled(iteration: Iteration, schema: TableSchema, wanted: pl.Expr) -> list[Row]:
    return [{**row, "table_name": schema.name} for row in iteration.rows(schema, wanted)]


def _decided(iteration: Iteration, candidates: Sequence[Row]) -> set[str]:
    ids = [row["id"] for row in candidates]
    rows = iteration.rows(iteration.table("decisions"), pl.col("candidate_id").is_in(ids))
    return {row["candidate_id"] for row in rows}


def chain_to(iteration: Iteration, candidate: Row) -> list[Row]:
    """First response, critique, revision …, in the order in which they were written, up to this one.

    Only what a person wrote has none. Rows have `table_name`.
    """
    found: list[Row] = []
    ahead = candidate["id"]
    while revised := next(iter(_tabled(iteration, t.CAI_REVISIONS, pl.col("id") == ahead)), None):
        critiques = _tabled(iteration, t.CAI_CRITIQUES, pl.col("id") == revised["critique_id"])
        found = [*critiques, revised, *found]
        ahead = revised["revises_id"]
    return [*_tabled(iteration, t.CAI_RAW_GENERATIONS, pl.col("id") == ahead), *found]
