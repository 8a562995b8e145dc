"""The seeds of methods in which responses to people are judged: prompts, or comparisons."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.files import comparisons, prompts
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.seeds.kind import SeedKind, as_rows
from selfimprove_dagster.text import normalise_question

PROMPTS = SeedKind(
    SEED_PROMPTS,
    "prompt",
    lambda source: as_rows(prompts(source)),
    key=lambda row: normalise_question(row["prompt"]),
    reading=("prompt_field", "kind_field", "response_field", "rows", "longest"),
    texts=lambda row: [row["prompt"], row["response"] or ""],
)
"""What people say to a model, from a `PromptFile`."""


COMPARISONS = SeedKind(
    SEED_COMPARISONS,
    "prompt",
    lambda source: as_rows(comparisons(source)),
    key=lambda row: "\0".join(normalise_question(row[name]) for name in ("prompt", "chosen", "rejected")),
    reading=("prompt_field", "chosen_field", "rejected_field", "rows", "longest"),
    implied={"probability": 1.0},
    texts=lambda row: [row["prompt"], row["chosen"], row["rejected"]],
)
"""Comparisons that people made, from a `ComparisonFile`; nobody doubts their labels."""
