"""RLHF, the baseline: a policy that learns from comparisons which people made. Group `rlhf`.

seed_pool ┬→ filtered_dataset ──────┬→ reward_model → fine_tuned_checkpoint → (shared stages)
          └→ supervised_checkpoint ─┘
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from selfimprove_dagster.assets.factory import stage_asset
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.preferences.stages import compared_pairs, preference_stages
from selfimprove_dagster.families.trained.checkpoints import fine_tuned, starting_model, trained_model
from selfimprove_dagster.families.trained.stages import drawn_pool, judging_stages
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.rlhf.settings import RlhfExperiment
from selfimprove_dagster.methods.rlhf.tables import (
    RLHF_DECISIONS,
    RLHF_FILTERED_DATASET,
    RLHF_SEED_POOL,
    RLHF_SUPERVISED_CHECKPOINT,
)
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.stage import Stage

seed_pool = drawn_pool(
    RLHF_SEED_POOL,
    RlhfExperiment,
    "The comparisons of this iteration. Those that no earlier iteration used come first.",
)


filtered_dataset = compared_pairs(
    RLHF_FILTERED_DATASET,
    RLHF_SEED_POOL,
    RLHF_DECISIONS,
    RlhfExperiment,
    "The pairs of responses as people chose. Each rule's word on each stands in rlhf/decisions.",
)


@stage_asset(
    RLHF_SUPERVISED_CHECKPOINT,
    deps=[RLHF_FILTERED_DATASET],
    description="The first step of RLHF: the model fine-tuned on the responses that people chose. Empty "
    "where supervised.steps is 0.",
    kinds={"pytorch", "huggingface"},
    holds_model=True,
)
def supervised_checkpoint(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], trainer: TrainerResource
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, RLHF_SUPERVISED_CHECKPOINT, RlhfExperiment)
    manifest, pairs = stage.read(RLHF_FILTERED_DATASET)
    if stage.experiment.supervised.steps == 0:
        activity = stage.activity(inputs=[manifest], parameters={"steps": 0})
        return stage.result(stage.store(activity, []), ["model_id"], {"reason": "supervised.steps is 0"})
    shown = pairs.select("prompt", "chosen").iter_rows()
    return fine_tuned(stage, trainer, manifest, starting_model(stage), shown, "supervised")


def after_supervised_step(stage: Stage[Any]) -> Champion:
    """The model of the supervised step; where there is none, the one that training starts from."""
    return trained_model(stage, RLHF_SUPERVISED_CHECKPOINT) or starting_model(stage)


rlhf_assets = [
    seed_pool,
    filtered_dataset,
    supervised_checkpoint,
    *preference_stages(RlhfExperiment, "rlhf", after_supervised_step, RLHF_SUPERVISED_CHECKPOINT),
    *judging_stages("rlhf", report=dialogue_evaluation_report),
]
