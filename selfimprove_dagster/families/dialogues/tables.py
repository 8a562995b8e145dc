"""The tables of dialogues: prompts and comparisons as they were imported, held-out prompts."""

from __future__ import annotations

from typing import Any, Unpack

import polars as pl

from selfimprove_dagster.column_sources import new
from selfimprove_dagster.families.dialogues import words
from selfimprove_dagster.families.dialogues.checks import DIALOGUE_EVALUATION_CHECKS
from selfimprove_dagster.families.trained.tables import evaluation
from selfimprove_dagster.table import SOURCE, TEXT, Facts, Table

PROMPT: dict[str, Any] = {"prompt": TEXT, "kind": TEXT, "response": TEXT, **SOURCE}


COMPARED: dict[str, Any] = {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT, **SOURCE}


SEED_PROMPTS = Table(
    "seeds/prompts",
    "sprompt",
    noun="seed prompt",
    sentence=words.prompt,
    content=PROMPT,
    sources=new("parents", *PROMPT),
)
"""Prompts as they were imported, by file and line; `kind` and a person's `response` where the file has it."""


SEED_COMPARISONS = Table(
    "seeds/comparisons",
    "scomp",
    noun="seed comparison",
    sentence=words.comparison,
    content=COMPARED,
    sources=new("parents", *COMPARED),
)
"""Comparisons that people made, by file and line."""


def dialogue_evaluation(method: str, checkpoint: Table, judged: bool = True, **facts: Unpack[Facts]) -> Table:
    """One row per held-out prompt, model and mode (greedy; revision_1, …; improved_1, …), with what the truth says
    of the response, and the reward of a reward model where there is one. `judged`: a model may judge the responses."""
    given: Facts = {"noun": "held-out response", "checks": DIALOGUE_EVALUATION_CHECKS, **facts}
    return evaluation(
        method,
        checkpoint,
        content={"helpful": pl.Boolean, "harmless": pl.Boolean},
        measures={"reward": pl.Float64},
        judged=judged,
        **given,
    )
