"""The pages of Unnatural Instructions: those of its family, with its outputs and paraphrases."""

from __future__ import annotations

from selfimprove_dagster.explorer.listings import SO_FAR, dropped
from selfimprove_dagster.families.tasks.pages import card, examples, pages

_TEXTS = (
    "SELECT id AS of, instruction AS title, concat_ws(' → ', nullif(input, ''), trim(text)) AS body "
    f'FROM "unnatural_instructions"."task_outputs" {SO_FAR} UNION ALL '
    f'SELECT id, instruction, text FROM "unnatural_instructions"."paraphrases" {SO_FAR}'
)


PAGES = pages(
    "unnatural_instructions",
    examples("unnatural_instructions", ()),
    "input",
    dropped(
        "unnatural_instructions",
        "decisions",
        "Outputs and paraphrases of all iterations so far that did not become training examples, each with "
        "the rule that dropped it.",
        "output or paraphrase",
        _TEXTS,
        ("task_outputs", "paraphrases"),
        "instruction and what was generated for it",
    ),
    "Outputs and paraphrases",
)
CARD = card("unnatural_instructions")
