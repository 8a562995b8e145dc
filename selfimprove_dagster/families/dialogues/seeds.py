"""The seeds of methods in which responses to people are judged: prompts, or comparisons."""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.families.dialogues.files import read_comparisons, read_prompts
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import normalise_question


def _prompts(source: Any) -> tuple[list[Row], list[Rejected]]:
    prompts, rejected = read_prompts(source)
    return [vars(one) for one in prompts], rejected


def _comparisons(source: Any) -> tuple[list[Row], list[Rejected]]:
    comparisons, rejected = read_comparisons(source)
    return [vars(one) for one in comparisons], rejected


PROMPTS = SeedKind(
    SEED_PROMPTS,
    "prompt",
    _prompts,
    key=lambda row: normalise_question(row["prompt"]),
    reading=("prompt_field", "kind_field", "response_field", "rows", "longest"),
)
"""What people say to a model, from a `PromptFile`."""


COMPARISONS = SeedKind(
    SEED_COMPARISONS,
    "prompt",
    _comparisons,
    key=lambda row: "\0".join(normalise_question(row[name]) for name in ("prompt", "chosen", "rejected")),
    reading=("prompt_field", "chosen_field", "rejected_field", "rows", "longest"),
    implied={"probability": 1.0},
)
"""Comparisons that people made, from a `ComparisonFile`; nobody doubts their labels."""
