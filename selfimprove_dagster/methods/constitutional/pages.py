"""The pages of Constitutional AI: responses, their critiques and revisions, and the examples made of them."""

from __future__ import annotations

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.explorer.declare import AboutRecord, Pages, RecordBlock
from selfimprove_dagster.explorer.listings import FORMAT, HERE, Column, Facet, Listing, dropped
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.families.dialogues.export import asked
from selfimprove_dagster.families.dialogues.pages import charts, funnel, judging, measure, rounds_chart
from selfimprove_dagster.families.judging.pages import CHAIN
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import code_span

_REVISION_RULES = {
    "round": "of the round that is trained on, or helpful",
    "finished": "not cut off",
    "not_empty": "say something",
    "duplicate": "new",
    "helpful_share": "within the share of helpful responses",
}


_EXAMPLES = Listing(
    noun="example",
    about="",
    text="prompt and response",
    asks="prompts and responses",
    needed=("filtered_dataset",),
    source=f'FROM "constitutional"."filtered_dataset" {HERE}',
    select='id, id AS link, "format", left(question, 400) AS title, left(completion, 400) AS body, round',
    words=("question", "completion"),
    facets=(Facet("format", '"format"'),),
    columns=(FORMAT, Column("round", "round", "round", True)),
    default="format",
)


_TEXTS = f"""SELECT said.id AS of, pool.prompt AS title, said.text AS body FROM (
    SELECT id, prompt_id, text FROM "constitutional"."revisions" {HERE}
    UNION ALL SELECT id, prompt_id, text FROM "constitutional"."raw_generations" {HERE}
    UNION ALL SELECT id, id, response FROM "constitutional"."seed_pool" {HERE}
) AS said LEFT JOIN (FROM "constitutional"."seed_pool" {HERE}) AS pool ON pool.id = said.prompt_id"""


# ---- a record ----------------------------------------------------------------------------------------


def chain_of_record(about: AboutRecord) -> Row | None:
    """The revisions that a record belongs to, from the first response on; None for other records.

    Revoked texts are left out.
    """
    row, withdrawn = about.row, about.withdrawn
    if row["table_name"].split("/")[1] in _WITHOUT:
        return None
    story = Story(about.lineage, about.place, row)
    candidates = [one for one in story.candidates if one["id"] not in withdrawn]
    if not candidates:
        return None
    made_from = [one for one in story.line(candidates[-1]) if one["table_name"] in _CHAIN]
    chain = [one for one in sorted(made_from, key=_place) if one["id"] not in withdrawn]
    return {"chain": [_step(one, row) for one in chain]} if len(chain) > 1 else None


_CHAIN = (CAI_RAW_GENERATIONS.name, CAI_CRITIQUES.name, CAI_REVISIONS.name)
"""The tables of a chain, in the order of a round; a first response has no round."""


def _place(one: Row) -> tuple[int, int]:
    return one.get("round", 0), _CHAIN.index(one["table_name"])


_WITHOUT = ("fine_tuned_checkpoint", "evaluation", "promotion")
"""Stages whose rows belong to no chain."""


def _step(one: Row, row: Row) -> Row:
    stage = one["table_name"].split("/")[1]
    label = {"critiques": "Critique", "revisions": "Revision"}.get(stage, "First response")
    by = f", round {one['round']}, by principle {one['principle']}" if "round" in one else ""
    return {"label": label + by, "id": one["id"], "text": one["text"], "here": one["id"] == row["id"]}


# ---- export ------------------------------------------------------------------------------------------


def _words(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(CAI_REVISIONS.name, dataset.partition)
    sampling = drawn_with(drawn.activity)
    by_format = lake.read_columns(dataset, ["format"])["format"].value_counts().sort("format")
    counts = ", ".join(f"{count:,} of format {code_span(form)}" for form, count in by_format.iter_rows())
    return CardWords(
        truth=f"They are {counts}; people wrote the prompts, and the model criticised and revised its own "
        "responses by the principles of a constitution. No true answer was used.",
        sources=lake.read_ungated(lake.manifest(CAI_SEED_POOL.name, dataset.partition)),
        noun="prompts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n"
        f"{drawn.rows:,} revisions in all",
        decisions=("decisions",),
    )


PAGES = Pages(
    examples=_EXAMPLES,
    dropped={
        "candidates": dropped(
            "constitutional",
            "decisions",
            "Revisions of every round, first responses and helpful responses that are not trained on, each "
            "with the rule that dropped it.",
            "candidate",
            _TEXTS,
            ("seed_pool", "raw_generations", "revisions"),
            "prompt and response",
        )
    },
    funnel=funnel(
        {
            "seed_pool": "prompts",
            "raw_generations": "first responses",
            "critiques": "critiques",
            "revisions": "revisions",
        },
        "responses to choose from, of every round",
        "candidates",
        _REVISION_RULES,
        {"filtered_dataset": "training examples"},
    ),
    measure=measure,
    charts=charts(),
    blocks=[judging(rounds_chart)],
    record=[RecordBlock(CHAIN, chain_of_record)],
)
CARD = Card(
    _words,
    ("id", "prompt", "completion", "format", "question", "round"),
    asks=asked,
)
