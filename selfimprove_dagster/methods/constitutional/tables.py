"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.families.dialogues.tables import _PROMPT
from selfimprove_dagster.table import (
    TEXT,
    Table,
    completions,
    decisions,
)

CAI_SEED_POOL = Table("constitutional/seed_pool", "prompt", noun="prompt", content=_PROMPT)
"""The prompts of one iteration; parent: the seed."""


CAI_RAW_GENERATIONS = completions(
    "constitutional/raw_generations", "gen", noun="first response", prompt_id=TEXT
)
"""First responses; parent: the prompt."""


def _round_of(name: str, tag: str, noun: str, **columns: Any) -> Table:
    return completions(
        f"constitutional/{name}",
        tag,
        noun=noun,
        prompt_id=TEXT,
        revises_id=TEXT,
        round=pl.Int32,
        principle=TEXT,
        **columns,
    )


CAI_CRITIQUES = _round_of("critiques", "crit", noun="critique")
"""Critiques, one a response and round; parents: the prompt, and the response that it is of (`revises_id`)."""


CAI_REVISIONS = _round_of("revisions", "rev", noun="revision", critique_id=TEXT)
"""Revisions, one a critique; parents: the prompt, the response that it revises, and the critique."""


CAI_DECISIONS = decisions("constitutional/decisions")
"""What each rule said of each revision and each helpful response."""


CAI_FILTERED_DATASET = Table(
    "constitutional/filtered_dataset",
    "ex",
    noun="training example",
    content={
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "prompt_id": TEXT,
        "round": pl.Int32,
    },
)
"""Revisions (format `revision`) and helpful responses (`helpful`); parents: the prompt, and what was written
last. `round` is that of the revision, 0 for a first response."""
