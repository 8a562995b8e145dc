"""Where a record of refinement stands: all that was said to its prompt in its way, and what came of it.

Nothing of it is trained on, so nothing is in a dataset.
"""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.preferences.explain import sentence, step_words
from selfimprove_dagster.families.refining.ways import FAILED, OUTCOME
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.explanation import Explanation, count, explanation
from selfimprove_dagster.lineage.iteration import Iteration, Step, all_revoked, rows_of
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.refinement import tables as t
from selfimprove_dagster.table import Row


def explain_refined(lake: Lake, lineage: Lineage, place: Place) -> Explanation:
    """The explanation of a record of refinement, seeds included."""
    row = lineage.rows([place.id], withdrawn=True)[place.id]
    gone = all_revoked(lake, place.experiment, {place.id, row.get("prompt_id", "")})
    if place.iteration is None:
        return _explain_seed(lake, place, row, gone)
    iteration = Iteration(lake, place.experiment, place.iteration, t.METHOD)
    prompt_id = row.get("prompt_id", place.id)
    prompt = iteration.row(t.RF_SEED_POOL, "id", prompt_id)
    chain = steps_of(iteration, prompt_id, row.get("way"))
    outcomes = [one for one in chain if one.get("kind") == OUTCOME]
    if place.table == t.REFINEMENTS.name and outcomes:
        verdict = f"it refines an answer, which {step_words(outcomes[-1])}"
    elif not outcomes:
        verdict = f"its answer was not refined in {iteration.key} yet"
    else:
        failed = sum(one["stopped"] == FAILED for one in outcomes)
        verdict = f"its answer was refined in {count(len(outcomes), 'way')}, {failed:,} failed"
    shown = chain if place.table == t.REFINEMENTS.name else [*chain[:1], *outcomes]
    told = lineage.rows([one["id"] for one in shown], withdrawn=True)
    steps = [
        Step(one["table_name"], sentence(told[one["id"]]), one["id"], passed=_passed(one)) for one in shown
    ]
    if gone:
        verdict = f"{gone[0].reason}, so it is no longer handed on; otherwise: {verdict}"
    return explanation(
        place, f"{verdict}; nothing is trained on it", steps=(*iteration.source(prompt), *steps, *gone)
    )


def steps_of(iteration: Iteration, prompt_id: str, way: str | None) -> list[Row]:
    """The first answer to a prompt, then the steps of one way, or of all, in the order of their making.

    Rows have `table_name`.
    """
    of_prompt = pl.col("prompt_id") == prompt_id
    wanted = of_prompt if way is None else of_prompt & (pl.col("way") == way)
    return [
        {**row, "table_name": schema.name}
        for schema, condition in ((t.RF_RAW_GENERATIONS, of_prompt), (t.REFINEMENTS, wanted))
        for row in iteration.rows(schema, condition)
    ]


def _passed(row: Row) -> bool | None:
    if row.get("kind") == OUTCOME:
        return bool(row["stopped"] != FAILED)
    return row.get("is_fine")


def _explain_seed(lake: Lake, place: Place, row: Row, gone: list[Step]) -> Explanation:
    accepted = Step(place.table, sentence(row), place.id, passed=True)
    of_seed = pl.col("parents").list.eval(pl.element().struct.field("id")).list.contains(place.id)
    uses = [
        manifest.iteration
        for manifest in lake.manifests(t.RF_SEED_POOL.name, place.experiment)
        if rows_of(manifest, of_seed)
    ]
    where = f"a prompt of {row['source_file']}, line {row['source_line']}"
    verdict = f"{where}: used in {count(len(uses), 'iteration')}; nothing is trained on it"
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    return explanation(place, verdict, in_dataset=None, steps=(accepted, *gone))


EXPLAIN = None
WHAT_IF = None
