"""Every table of the lake: its columns, and the tag that opens the ids of its records."""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.method import Stage
from selfimprove_dagster.methods.constitutional import tables as constitutional
from selfimprove_dagster.methods.lmsi import tables as lmsi
from selfimprove_dagster.methods.pit import tables as pit
from selfimprove_dagster.methods.refinement import tables as refinement
from selfimprove_dagster.methods.rlaif import tables as rlaif
from selfimprove_dagster.methods.rlhf import tables as rlhf
from selfimprove_dagster.methods.self_instruct import tables as self_instruct
from selfimprove_dagster.methods.self_knowledge import tables as self_knowledge
from selfimprove_dagster.methods.toolformer import tables as toolformer
from selfimprove_dagster.methods.unnatural_instructions import tables as unnatural_instructions
from selfimprove_dagster.review.tables import REVIEW_LABELS
from selfimprove_dagster.seeds.tables import REJECTED_SEEDS, SEEDS
from selfimprove_dagster.table import Table

JUDGE_METHODS = ("constitutional", "rlaif", "rlhf", "pit")


JUDGE_TABLES = (SEED_PROMPTS, SEED_COMPARISONS, *constitutional.TABLES, *rlaif.TABLES, *rlhf.TABLES)


TASK_TABLES = (SEED_TASKS, *self_instruct.TABLES, *unnatural_instructions.TABLES)


TABLES = {
    table.name: table
    for table in (
        SEEDS,
        REJECTED_SEEDS,
        lmsi.DEMONSTRATIONS,
        *lmsi.TABLES,
        *TASK_TABLES,
        toolformer.SEED_TEXTS,
        *toolformer.TABLES,
        *JUDGE_TABLES,
        *refinement.TABLES,
        *self_knowledge.TABLES,
        *pit.TABLES,
        REVIEW_LABELS,
    )
}


MODELS = tuple(dict.fromkeys(table.stage for table in TABLES.values() if table.holds_model))
"""The stages whose rows are models that were trained."""


def of(method: str, stage: str) -> Table:
    """The table of a stage. Raises PartitionMissing for a method that has no such stage."""
    if f"{method}/{stage}" not in TABLES:
        raise PartitionMissing(f"the method {method} has no stage {stage}: there is nothing to look for")
    return TABLES[f"{method}/{stage}"]


def pending(method: str) -> list[Stage[Any]]:
    """The stages of a method whose stages are not declared yet."""

    def run(context: Any) -> Any:
        raise NotImplementedError

    return [Stage((table,), run) for table in TABLES.values() if table.method == method]
