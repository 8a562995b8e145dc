"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.tables import COMPARED
from selfimprove_dagster.table import (
    Table,
    decisions,
    fine_tuned_checkpoint,
)

RLHF_SEED_POOL = Table("rlhf/seed_pool", "comp", noun="comparison", content=COMPARED)
"""The comparisons of one iteration; parent: the seed."""


RLHF_DECISIONS = decisions("rlhf/decisions")
"""What each rule said of each comparison."""


RLHF_SUPERVISED_CHECKPOINT = Table(
    "rlhf/supervised_checkpoint",
    "sft",
    noun="supervised model",
    content=fine_tuned_checkpoint("rlhf").content,
    measures=fine_tuned_checkpoint("rlhf").measures,
)
"""One row: the model fine-tuned on what people chose; none where there is no such step."""
