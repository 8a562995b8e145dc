"""The tables of steps, and of tasks that failed, where answers are refined."""

from __future__ import annotations

from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing

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
