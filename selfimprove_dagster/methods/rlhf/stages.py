"""RLHF, the baseline: a policy that learns from comparisons which people made. Group `rlhf`.

seed_pool ┬→ filtered_dataset ──────┬→ reward_model → fine_tuned_checkpoint → (shared stages)
          └→ supervised_checkpoint ─┘
"""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.preferences.stages import compared_pairs, preference_stages
from selfimprove_dagster.families.trained.checkpoints import (
    fine_tuned,
    starting_model,
    trained_model,
)
from selfimprove_dagster.families.trained.stages import drawn_pool, judging_stages
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.rlhf.settings import RlhfExperiment
from selfimprove_dagster.methods.rlhf.tables import (
    RLHF_DECISIONS,
    RLHF_FILTERED_DATASET,
    RLHF_SEED_POOL,
    RLHF_SUPERVISED_CHECKPOINT,
    TABLES,
)
from selfimprove_dagster.stage import Result, StageContext, stage

seed_pool = drawn_pool(
    RLHF_SEED_POOL,
    "The comparisons of this iteration. Those that no earlier iteration used come first.",
)


filtered_dataset = compared_pairs(
    RLHF_FILTERED_DATASET,
    RLHF_SEED_POOL,
    RLHF_DECISIONS,
    "The pairs of responses between which people chose. The decision of each rule on each pair is in "
    "rlhf/decisions.",
)


@stage(
    RLHF_SUPERVISED_CHECKPOINT,
    after=["filtered_dataset"],
    description="The first step of RLHF: the model fine-tuned on the responses that people chose. Empty "
    "where supervised.steps is 0.",
    kinds=["pytorch", "huggingface"],
    uses=["trainer"],
)
def supervised_checkpoint(context: StageContext[RlhfExperiment]) -> Result:
    if context.experiment.supervised.steps == 0:
        manifest, _ = context.scan(RLHF_FILTERED_DATASET)
        activity = context.activity(inputs=[manifest], parameters={"steps": 0})
        return context.result(context.store(activity, []), ["model_id"], {"reason": "supervised.steps is 0"})
    columns = ("prompt", "chosen", "question")
    return fine_tuned(context, RLHF_FILTERED_DATASET, starting_model(context), columns, name="supervised")


def after_supervised_step(context: StageContext[Any]) -> Champion:
    """The model of the supervised step; where there is none, the one that training starts from."""
    return trained_model(context, RLHF_SUPERVISED_CHECKPOINT) or starting_model(context)


STAGES = [
    seed_pool,
    filtered_dataset,
    supervised_checkpoint,
    *preference_stages(TABLES, after_supervised_step, before=["supervised_checkpoint"]),
    *judging_stages(TABLES, report=dialogue_evaluation_report),
]
