"""Refined answers on the pages: accuracy by round and way, and all that was said to one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing
from selfimprove_dagster.families.preferences.explain import step_words
from selfimprove_dagster.families.refining.ways import OUTCOME
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.methods.refinement.exam import AfterRound, after_rounds, curves
from selfimprove_dagster.methods.refinement.explain import steps_of
from selfimprove_dagster.methods.refinement.tables import METHOD, REFINEMENTS
from selfimprove_dagster.table import Row

Stages = Mapping[str, Manifest]


_EXAM = ("mode", "source_file", "source_line", "correct", "helpful", "harmless", "tokens_in", "tokens_out")


def refining_of(lake: Lake, stages: Stages) -> dict[str, Any]:
    """What the exam of one iteration came to, as `judging_of` gives it for other methods."""
    ways = _curves(lake, stages)
    chart = None
    if ways:
        series = [
            {
                "name": way.replace("_", "-"),
                "values": [one.correct.value for one in rounds],
                "intervals": [one.correct.interval for one in rounds],
            }
            for way, rounds in ways.items()
        ]
        costs = "; ".join(f"{way.replace('_', '-')} {rounds[-1].tokens:,.0f}" for way, rounds in ways.items())
        first = next(iter(ways.values()))[0]
        chart = {
            "id": "rounds",
            "title": "Held-out accuracy over rounds",
            "about": "By way, with 95% intervals; round 0 is the first answer. Tokens a prompt, read and "
            f"drawn: {first.tokens:,.0f} for the first answer; with all rounds {costs}.",
            "percent": True,
            "x": [one.round for one in max(ways.values(), key=len)],
            "xlabel": "round",
            "series": series,
        }
    return {"rounds": chart, "models": [], "checks": [], "trained": [], "rollouts": None, "contests": []}


def refined_record(lake: Lake, row: Mapping[str, Any], withdrawn: set[str]) -> dict[str, Any] | None:
    """The steps of the one task that a record belongs to, as a chain; None for other records."""
    if row["table_name"] != REFINEMENTS.name:
        return None
    iteration = Iteration(lake, row["experiment"], row["iteration"], METHOD)
    chain = [one for one in steps_of(iteration, row["prompt_id"], row["way"]) if one["id"] not in withdrawn]
    return {"chain": [_step(one, row) for one in chain], "preference": None}


def _step(one: Row, row: Mapping[str, Any]) -> Row:
    kind = one.get("kind")
    label = f"{kind.capitalize()}, round {one['round']}" if kind else "First answer"
    text = one["text"] if not kind or (one["text"] and kind != OUTCOME) else step_words(one)
    return {"label": label, "id": one["id"], "text": text, "here": one["id"] == row["id"]}


def _curves(lake: Lake, stages: Stages) -> dict[str, list[AfterRound]]:
    if "evaluation" not in stages:
        return {}
    return curves(after_rounds(lake.read_columns(stages["evaluation"], list(_EXAM))))


_TASKS = f"""SELECT step.*, pool.prompt AS title FROM (FROM "refinement"."refinements" {HERE}) AS step
LEFT JOIN (SELECT id, prompt FROM "refinement"."seed_pool" {HERE}) AS pool ON pool.id = step.prompt_id"""


_WAY, _ROUND = Column("way", "way", "way"), Column("round", "round", "round", True)


REFINEMENT_STEPS = Listing(
    noun="step",
    about="All that was said while answers were refined. Nothing is trained on it.",
    text="prompt and what was said",
    asks="prompts and texts",
    needed=("refinements",),
    source=f"FROM ({_TASKS}) {HERE}",
    select="id, id AS link, left(title, 400) AS title, left(coalesce(text, error, ''), 400) AS body, way, "
    "kind, round, score",
    words=("title", "text"),
    facets=(Facet("way", "way"), Facet("kind", "kind")),
    columns=(_WAY, Column("kind", "kind", "kind"), _ROUND, Column("score", "score", "score", True)),
    default="way",
)


REFINEMENT_FAILURES = Listing(
    noun="task",
    about="Tasks that failed, each with its error and its last good answer.",
    text="prompt and last good answer",
    asks="prompts, answers and errors",
    needed=("refinements",),
    source=f"""FROM (SELECT *, stopped AS rule, error AS reason FROM ({_TASKS})) {HERE}
AND kind = 'outcome' AND stopped = 'failed'""",
    select="id, id AS link, rule, reason, NULL AS nearest_id, left(title, 400) AS title, "
    "left(coalesce(text, ''), 400) AS body, way, round",
    words=("title", "text", "reason"),
    facets=(Facet("way", "way"),),
    columns=(_WAY, _ROUND),
    default="way",
)


PAGES = None
CARD = None
