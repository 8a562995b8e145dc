"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.table import (
    SOURCE,
    TEXT,
    Table,
    evaluation,
)

_PROMPT: dict[str, Any] = {"prompt": TEXT, "kind": TEXT, "response": TEXT, **SOURCE}


COMPARED: dict[str, Any] = {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT, **SOURCE}


SEED_PROMPTS = Table("seeds/prompts", "sprompt", noun="seed prompt", content=_PROMPT)
"""Prompts as they were imported, by file and line; `kind` and a person's `response` where the file has it."""


SEED_COMPARISONS = Table("seeds/comparisons", "scomp", noun="seed comparison", content=COMPARED)
"""Comparisons that people made, by file and line."""


def dialogue_evaluation(method: str) -> Table:
    """One row a held-out prompt, model and mode (greedy; revision_1, …; improved_1, …), with what the
    truth says of the response, and what the reward model does."""
    return evaluation(
        method,
        content={"helpful": pl.Boolean, "harmless": pl.Boolean},
        measures={"reward": pl.Float64},
        noun="held-out response",
    )
