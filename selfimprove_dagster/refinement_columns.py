"""Which column comes from which, in the tables of refinement."""

from __future__ import annotations

from selfimprove_dagster import refinement_tables as t
from selfimprove_dagster.column_sources import Columns, drawn, each, new, of, same
from selfimprove_dagster.judge_tables import SEED_PROMPTS

_ASKED, _SAID = of(t.RF_SEED_POOL, "prompt"), of(t.RF_RAW_GENERATIONS, "text")

REFINEMENT_COLUMN_SOURCES: dict[str, Columns] = {
    t.RF_SEED_POOL.name: {
        "parents": of(SEED_PROMPTS, "id"),
        **same(SEED_PROMPTS, *t.RF_SEED_POOL.content),
    },
    t.RF_RAW_GENERATIONS.name: {
        **drawn(of(t.RF_SEED_POOL, "id"), _ASKED),
        "prompt_id": of(t.RF_SEED_POOL, "id"),
    },
    # Later steps are of earlier ones of the same table: what the first are of is told.
    t.REFINEMENTS.name: {
        **drawn([*of(t.RF_SEED_POOL, "id"), *of(t.RF_RAW_GENERATIONS, "id")], [*_ASKED, *_SAID]),
        **same(t.RF_RAW_GENERATIONS, "prompt_id"),
        "first_id": of(t.RF_RAW_GENERATIONS, "id"),
        **each([*_ASKED, *_SAID], "tokens_in", "tokens_out", "is_fine", "score", "stopped", "error"),
        **new("way", "kind", "round"),
    },
    # The exam draws its own answers.
    t.RF_EVALUATION.name: new("parents", *t.RF_EVALUATION.content, *t.RF_EVALUATION.measures),
}
