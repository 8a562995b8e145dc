"""The tables of refinement without training."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import drawn, each, new, of, pooled, same
from selfimprove_dagster.families.dialogues.checks import FIRST_RESPONSE_CHECKS, PROMPT_POOL_CHECKS
from selfimprove_dagster.families.dialogues.tables import PROMPT, SEED_PROMPTS
from selfimprove_dagster.families.dialogues.words import prompt
from selfimprove_dagster.families.refining.ways import prompt_of
from selfimprove_dagster.families.trained.tables import evaluation
from selfimprove_dagster.methods.refinement import words
from selfimprove_dagster.methods.refinement.checks import REFINEMENT_CHECKS, REFINEMENT_EVALUATION_CHECKS
from selfimprove_dagster.table import DRAWN, PROBLEM, TEXT, Draw, Table, completions

METHOD = "refinement"


RF_SEED_POOL = Table(
    f"{METHOD}/seed_pool",
    "prompt",
    noun="prompt",
    sentence=prompt,
    content=PROMPT,
    sources=pooled(SEED_PROMPTS, PROMPT),
    checks=PROMPT_POOL_CHECKS,
)
"""The prompts of one iteration, which nobody trains on; parent: the seed."""


RF_RAW_GENERATIONS = completions(
    f"{METHOD}/raw_generations",
    "gen",
    noun="first answer",
    content={"prompt_id": TEXT},
    sources={
        **drawn(of(RF_SEED_POOL, "id"), of(RF_SEED_POOL, "prompt")),
        "prompt_id": of(RF_SEED_POOL, "id"),
    },
    checks=FIRST_RESPONSE_CHECKS,
    draw=Draw("responses", prompt="response"),
)
"""First answers; parent: the prompt."""


_SHOWN = [*of(RF_SEED_POOL, "prompt"), *of(RF_RAW_GENERATIONS, "text")]


# Later steps are of earlier ones of the same table: sources are those of the first ones.
REFINEMENTS = Table(
    f"{METHOD}/refinements",
    "step",
    noun="refinement step",
    sentence=words.refinement,
    said=words.said,
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
    measures={"logprobs": pl.List(pl.Float32), "score": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **drawn([*of(RF_SEED_POOL, "id"), *of(RF_RAW_GENERATIONS, "id")], _SHOWN),
        **same(RF_RAW_GENERATIONS, "prompt_id"),
        "first_id": of(RF_RAW_GENERATIONS, "id"),
        **each(_SHOWN, "tokens_in", "tokens_out", "is_fine", "score", "stopped", "error", "problem"),
        **new("way", "kind", "round"),
    },
    checks=REFINEMENT_CHECKS,
    draw=Draw("refining", prompt_of=lambda row: prompt_of(row["way"], row["kind"])),
)
"""Every answer, feedback, evaluation and reflection of each way, and at its end the outcome: the last good answer
with why it `stopped`, all its tokens, and the error of a task that failed. Where nothing was drawn there is no
`seed`, and a step for which the model could not be asked has a `problem`. Parents: the prompt; of an answer the one
that it replaces (`revision_of`) with the feedback or reflections that it follows, of the others the answer that they
are of; of an outcome its `answer`."""


RF_EVALUATION = evaluation(
    METHOD,
    checkpoint=None,  # the exam draws its own answers
    content={"helpful": pl.Boolean, "harmless": pl.Boolean, "stopped": TEXT, "error": TEXT},
    measures={"tokens_in": pl.Int64, "tokens_out": pl.Int64},
    checks=REFINEMENT_EVALUATION_CHECKS,
)
"""One row a held-out prompt and mode: `greedy` is the first answer, `self_refine_2` the answer after two
rounds, of tasks that stopped before too. `tokens_in` and `tokens_out` are all that it took so far, `stopped`
says why the task is done where it is."""


TABLES = (
    RF_SEED_POOL,
    RF_RAW_GENERATIONS,
    REFINEMENTS,
    RF_EVALUATION,
)
"""In the order of the pipeline."""
