"""The tables of refinement without training."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import Columns, drawn, each, new, of, same
from selfimprove_dagster.families.dialogues.tables import SEED_PROMPTS
from selfimprove_dagster.methods.refinement import tables as t
from selfimprove_dagster.table import DRAWN, TEXT, Table, completions, evaluation

METHOD = "refinement"


RF_SEED_POOL = Table(f"{METHOD}/seed_pool", "prompt", noun="prompt", content=SEED_PROMPTS.content)
"""The prompts of one iteration, which nobody trains on; parent: the seed."""


RF_RAW_GENERATIONS = completions(f"{METHOD}/raw_generations", "gen", noun="first answer", prompt_id=TEXT)
"""First answers; parent: the prompt."""


REFINEMENTS = Table(
    f"{METHOD}/refinements",
    "step",
    noun="refinement step",
    content={
        "prompt_id": TEXT,
        "first_id": TEXT,
        "way": TEXT,
        "kind": TEXT,
        "round": pl.Int32,
        **DRAWN,
        "tokens_in": pl.Int64,
        "tokens_out": pl.Int64,
        "is_fine": pl.Boolean,
        "stopped": TEXT,
        "error": TEXT,
    },
    measures={"logprobs": pl.List(pl.Float32), "score": pl.Float64},
)
"""Every answer, feedback, evaluation and reflection of each way, and at its end the outcome: the last good
answer with why it `stopped`, all its tokens, and the error of a task that failed. Where nothing was drawn
there is no `seed`. Parents: the prompt; of an answer the one that it replaces (`revision_of`) with the
feedback or reflections that it follows, of the others the answer that they are of; of an outcome its
`answer`."""


RF_EVALUATION = evaluation(
    METHOD,
    content={"helpful": pl.Boolean, "harmless": pl.Boolean, "stopped": TEXT, "error": TEXT},
    measures={"tokens_in": pl.Int64, "tokens_out": pl.Int64},
)
"""One row a held-out prompt and mode: `greedy` is the first answer, `self_refine_2` the answer after two
rounds, of tasks that stopped before too. `tokens_in` and `tokens_out` are all that it took so far, `stopped`
says why the task is done where it is."""


REFINEMENT_TABLES = (RF_SEED_POOL, RF_RAW_GENERATIONS, REFINEMENTS, RF_EVALUATION)
"""All of them, in the order in which the stages run."""


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
