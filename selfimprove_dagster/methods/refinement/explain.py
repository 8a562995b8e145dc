"""The words of explanations of refinements: what came of the answer. Nothing of it is trained on."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.refining.ways import FAILED, OUTCOME
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.story import Explain, Story
from selfimprove_dagster.methods.refinement.tables import REFINEMENTS, RF_EVALUATION, RF_RAW_GENERATIONS
from selfimprove_dagster.methods.refinement.words import step
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import count


def _verdict(story: Story) -> str | None:
    if story.place.table == RF_EVALUATION.name:
        return None
    outcomes = [row for row in [story.row, *story.after] if row.get("kind") == OUTCOME]
    if not outcomes:
        said = f"its answer was not refined in {story.iteration.key} yet"
    elif story.place.table == REFINEMENTS.name:
        said = f"it refines an answer, which {step(outcomes[-1])}"
    else:
        failed = sum(row["stopped"] == FAILED for row in outcomes)
        said = f"its answer was refined in {count(len(outcomes), 'way')}, {failed:,} failed"
    return f"{said}; nothing is trained on it"


def _passed(row: Row) -> bool | None:
    if row.get("kind") == OUTCOME:
        return bool(row["stopped"] != FAILED)
    return row.get("is_fine")


def steps_of(iteration: Iteration, prompt_id: str, way: str | None) -> list[Row]:
    """The first answer to a prompt, then the steps of one way, or of all, in the order in which they were made.

    Rows have `table_name`.
    """
    of_prompt = pl.col("prompt_id") == prompt_id
    wanted = of_prompt if way is None else of_prompt & (pl.col("way") == way)
    return [
        {**row, "table_name": schema.name}
        for schema, condition in ((RF_RAW_GENERATIONS, of_prompt), (REFINEMENTS, wanted))
        for row in iteration.rows(schema, condition)
    ]


EXPLAIN = Explain(noun="answer", asked="prompt", verdict=_verdict, passed=_passed)
WHAT_IF = "nothing is filtered, since nothing is trained on"
