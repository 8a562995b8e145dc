"""RLHF, the baseline: a policy that learns from comparisons which people made. Group `rlhf`.

seed_pool ┬→ filtered_dataset ──────┬→ reward_model → fine_tuned_checkpoint → (shared stages)
          └→ supervised_checkpoint ─┘
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.checkpoints import TrainingStage, starting_model
from assets.declared import stage_asset
from assets.dialogue_report import dialogue_evaluation_report
from assets.preferences import preference_stages, store_pairs
from assets.shared import drawn_pool, judging_stages
from assets.stage import Stage
from resources import TrainerResource
from selfimprove_dagster import judge_tables as t
from selfimprove_dagster.champion import Champion
from selfimprove_dagster.experiment import RlhfExperiment
from selfimprove_dagster.home import Home
from selfimprove_dagster.methods import preferences
from selfimprove_dagster.records import Parent

seed_pool = drawn_pool(
    t.RLHF_SEED_POOL,
    RlhfExperiment,
    "The comparisons of this iteration. Those that no earlier iteration used come first.",
)


@stage_asset(
    t.preference_dataset("rlhf"),
    deps=[t.RLHF_SEED_POOL],
    description="The pairs of responses as people chose. Each rule's word on each stands in rlhf/decisions.",
)
def filtered_dataset(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, t.preference_dataset("rlhf"), RlhfExperiment)
    pool_manifest, pool = stage.read(t.RLHF_SEED_POOL)

    def parents(row: dict[str, Any]) -> list[Parent]:
        return [Parent(row["candidate_id"], "comparison")]

    candidates = preferences.compared_candidates(pool)
    return store_pairs(stage, candidates, [pool_manifest], t.RLHF_DECISIONS, "people", parents)


@stage_asset(
    t.RLHF_SUPERVISED_CHECKPOINT,
    deps=[t.preference_dataset("rlhf")],
    description="The first step of RLHF: the model fine-tuned on the responses that people chose. Empty "
    "where supervised.steps is 0.",
    kinds={"pytorch", "huggingface"},
    holds_model=True,
)
def supervised_checkpoint(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], trainer: TrainerResource
) -> dg.MaterializeResult:
    from selfimprove_dagster.training.tokenising import tokenise_examples

    stage = Stage.begin(context, home, t.RLHF_SUPERVISED_CHECKPOINT, RlhfExperiment)
    experiment, section = stage.experiment, stage.experiment.supervised
    manifest, pairs = stage.read(t.preference_dataset("rlhf"))
    if section.steps == 0:
        activity = stage.activity(inputs=[manifest], parameters={"steps": 0})
        return stage.result(stage.store(activity, []), ["model_id"], {"reason": "supervised.steps is 0"})
    base = starting_model(stage)
    training = TrainingStage.begin(stage, manifest, base, {"supervised": section.model_dump()})
    with training.progress(section.steps) as on_log:
        outcome = trainer.fine_tune(
            experiment,
            base.path,
            tokenise_examples(base.path, pairs.select("prompt", "chosen").iter_rows()),
            training.output,
            seed=experiment.seed + stage.iteration,
            on_log=on_log,
            section=section,
        )
    return training.result(training.store(outcome), outcome)


def after_supervised_step(stage: Stage[Any]) -> Champion:
    """The model of the supervised step; where there is none, the one that training starts from."""
    _, trained = stage.read(t.RLHF_SUPERVISED_CHECKPOINT)
    if trained.is_empty():
        return starting_model(stage)
    path, model_id = trained.select("path", "model_id").row(0)
    return Champion(path, model_id, iteration=stage.iteration)


rlhf_assets = [
    seed_pool,
    filtered_dataset,
    supervised_checkpoint,
    *preference_stages(RlhfExperiment, "rlhf", after_supervised_step, t.RLHF_SUPERVISED_CHECKPOINT),
    *judging_stages("rlhf", report=dialogue_evaluation_report),
]
