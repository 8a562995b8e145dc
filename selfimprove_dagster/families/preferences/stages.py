"""The stages that RLAIF and RLHF share: from pairs of responses to a policy that learnt from them.

filtered_dataset → reward_model → fine_tuned_checkpoint → (shared stages)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import dagster as dg
import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.assets.factory import number, preview_records, stage_asset
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.families.judging.trust import heed_self_knowledge
from selfimprove_dagster.families.preferences import filters as preferences
from selfimprove_dagster.families.preferences.policies import (
    Reward,
    fit_reward_model,
    optimise_policy,
    store_rollouts,
)
from selfimprove_dagster.families.preferences.settings import PreferenceExperiment
from selfimprove_dagster.families.trained.checkpoints import TrainingStage
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.constitutional.constitutional import choose_principle
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.methods.rlaif.settings import RlaifExperiment
from selfimprove_dagster.methods.rlhf.settings import RlhfExperiment
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.stage import Stage, store_decisions
from selfimprove_dagster.table import Table

Start = Callable[[Stage[Any]], Champion]
"""The model that reward model and policy start from."""


def store_pairs(
    stage: Stage[Any],
    candidates: pl.DataFrame,
    inputs: Sequence[Manifest],
    decisions_table: Table,
    labelled_by: str,
    parents: Callable[[dict[str, Any]], list[Parent]],
) -> dg.MaterializeResult:
    """filtered_dataset: the pairs that pass every rule, with the probability that the chosen is better."""
    section = stage.experiment.preferences
    kept, decisions = preferences.filter_preferences(candidates, section.minimum_margin)
    activity = stage.activity(inputs=inputs, parameters={"preferences": section.model_dump()})
    store_decisions(stage, decisions_table, decisions, inputs, activity.id)
    pairs = preferences.oriented(kept)
    drafts = [
        Draft(
            content={
                "question": row["prompt"],
                "format": "preference",
                "prompt": dialogue_prompt(row["prompt"]),
                "chosen": f" {row['chosen'].strip()}",
                "rejected": f" {row['rejected'].strip()}",
                "prompt_id": row["prompt_id"],
                "labelled_by": labelled_by,
            },
            parents=parents(row),
            measures={
                "probability": preferences.hard(row["probability"])
                if section.hard_labels
                else row["probability"]
            },
        )
        for row in pairs.iter_rows(named=True)
    ]
    manifest = stage.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    return stage.result(
        manifest,
        preview=["prompt", "chosen", "rejected", "probability"],
        metadata={
            "candidates": candidates.height,
            "kept_share": number(manifest.rows / max(candidates.height, 1)),
            "mean_probability": number(pairs["probability"].mean()),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": stage.lineage_page,
            "preview_records": dg.MetadataValue.md(preview_records(stage.lake, manifest)),
        },
    )


def compared_pairs(
    schema: Table,
    pool_table: Table,
    decisions_table: Table,
    kind: type[RlhfExperiment] | type[PitExperiment],
    description: str,
) -> dg.AssetsDefinition:
    """filtered_dataset, where comparisons were made before: those of the pool that pass every rule."""

    @stage_asset(schema, deps=[pool_table], description=description)
    def filtered_dataset(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]
    ) -> dg.MaterializeResult:
        stage = Stage.begin(context, home, schema, kind)
        pool_manifest, pool = stage.read(pool_table)

        def parents(row: dict[str, Any]) -> list[Parent]:
            return [Parent(row["candidate_id"], "comparison")]

        candidates = preferences.compared_candidates(pool)
        giver = stage.experiment.taught_by
        by = f"the experiment {giver}" if giver else "people"
        return store_pairs(stage, candidates, [pool_manifest], decisions_table, by, parents)

    return filtered_dataset


def preference_stages(
    kind: type[PreferenceExperiment], method: str, start: Start, start_table: Table | None = None
) -> list[dg.AssetsDefinition]:
    """reward_model → fine_tuned_checkpoint; what they start from is trained by the stage of `start_table`."""
    dataset, reward_table = tables.of(method, "filtered_dataset"), tables.of(method, "reward_model")
    checkpoint = tables.of(method, "fine_tuned_checkpoint")
    before = [start_table] if start_table is not None else []

    @stage_asset(
        reward_table,
        deps=[dataset, *before],
        description="A model that tells the better response, trained with TRL's RewardTrainer on labels that "
        "are probabilities. Empty where training needs none (DPO, direct RLAIF).",
        kinds={"pytorch", "huggingface"},
        holds_model=True,
    )
    def reward_model(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], trainer: TrainerResource
    ) -> dg.MaterializeResult:
        return _train_reward_model(Stage.begin(context, home, reward_table, kind), trainer, dataset, start)

    @stage_asset(
        checkpoint,
        deps=[dataset, reward_table],
        description="The policy, optimised with TRL: by GRPO or RLOO against the reward with a KL term, or "
        "by DPO on the pairs. All that it wrote meanwhile stands in the table of rollouts.",
        kinds={"pytorch", "huggingface"},
        holds_model=True,
    )
    def fine_tuned_checkpoint(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        trainer: TrainerResource,
        language_model: LanguageModelResource,
    ) -> dg.MaterializeResult:
        stage = Stage.begin(context, home, checkpoint, kind)
        if stage.experiment.training.algorithm == "dpo":
            return _train_on_pairs(stage, trainer, dataset, start)
        return _train_policy(stage, trainer, language_model, dataset, reward_table, start)

    return [reward_model, fine_tuned_checkpoint]


def _train_reward_model(
    stage: Stage[Any], trainer: TrainerResource, dataset: Table, start: Start
) -> dg.MaterializeResult:
    from selfimprove_dagster.training.comparisons import tokenise_comparisons

    experiment = stage.experiment
    manifest, pairs = stage.read(dataset)
    if not experiment.rewards_with_model:
        algorithm, reward = experiment.training.algorithm, experiment.training.reward
        activity = stage.activity(inputs=[manifest], parameters={"algorithm": algorithm, "reward": reward})
        reason = f"not needed: training.algorithm is {algorithm}, training.reward is {reward}"
        return stage.result(stage.store(activity, []), ["model_id"], {"reason": reason})
    section, share = experiment.reward_model, experiment.preferences.held_out_share
    out = preferences.split_held_out(pairs["question"].to_list(), share, experiment.seed)
    base = start(stage)
    training = TrainingStage.begin(
        stage, manifest, base, {"reward_model": section.model_dump(), "held_out_share": share}
    )
    columns = ["prompt", "chosen", "rejected", "probability"]
    held_out = tokenise_comparisons(base.path, pairs.filter(pl.Series(out)).select(columns).iter_rows())
    shown = tokenise_comparisons(base.path, pairs.filter(~pl.Series(out)).select(columns).iter_rows())
    outcome, judge = fit_reward_model(training, trainer, section, shown)
    with closing(judge):
        accuracy = judge.accuracy(held_out) if held_out else None
    measured = {"held_out_pairs": len(held_out), "held_out_accuracy": accuracy}
    shown_numbers = {"held_out_pairs": len(held_out), "held_out_accuracy": number(accuracy)}
    return training.result(training.store(outcome, measures=measured), outcome, shown_numbers)


def _train_on_pairs(
    stage: Stage[Any], trainer: TrainerResource, dataset: Table, start: Start
) -> dg.MaterializeResult:
    from selfimprove_dagster.training.comparisons import tokenise_comparisons

    section = stage.experiment.training
    manifest, pairs = stage.read(dataset)
    base = start(stage)
    training = TrainingStage.begin(stage, manifest, base, {"training": section.model_dump()})
    store_rollouts(training, tables.of(stage.experiment.method, "rollouts"), [], None, [])
    columns = ["prompt", "chosen", "rejected", "probability"]
    with training.progress(section.steps) as on_log:
        outcome = trainer.optimise_preferences(
            stage.experiment,
            section,
            base.path,
            tokenise_comparisons(base.path, pairs.select(columns).iter_rows()),
            training.output,
            seed=stage.experiment.seed + stage.iteration,
            on_log=on_log,
        )
    return training.result(training.store(outcome), outcome)


def _train_policy(
    stage: Stage[Any],
    trainer: TrainerResource,
    language_model: LanguageModelResource,
    dataset: Table,
    reward_table: Table,
    start: Start,
) -> dg.MaterializeResult:
    section = stage.experiment.training
    manifest, pairs = stage.read(dataset)
    reward_manifest, rewarding = stage.read(reward_table)
    base = start(stage)
    prompts = pairs.select("prompt_id", "question", "prompt").unique(
        "question", keep="first", maintain_order=True
    )
    with _rewarding(stage, language_model, rewarding, base, prompts) as (reward, reward_id, shaping, told):
        training = TrainingStage.begin(
            stage,
            manifest,
            base,
            {"training": section.model_dump(), "rewarded_by": reward_id, **shaping},
            inputs=[reward_manifest],
            about=told,
        )
        return optimise_policy(
            training,
            trainer,
            section,
            prompts,
            (reward, reward_id),
            tables.of(stage.experiment.method, "rollouts"),
            told,
        )


@contextmanager
def _rewarding(
    stage: Stage[Any],
    language_model: LanguageModelResource,
    rewarding: pl.DataFrame,
    base: Champion,
    prompts: pl.DataFrame,
) -> Iterator[tuple[Reward, str, dict[str, Any], dict[str, str]]]:
    """What rewards completions, the id of the model that does, the settings that shape its rewards, and what
    was measured of it.
    """
    experiment = stage.experiment
    if experiment.rewards_with_model:
        from selfimprove_dagster.training.reward import RewardModel

        path, model_id = rewarding.select("path", "model_id").row(0)
        judge = RewardModel.open(path, experiment.model.device)
        try:
            yield judge.score, model_id, {}, {}
        finally:
            judge.close()
        return
    from selfimprove_dagster.training.tokenising import decoder, prompt_token_ids

    assert isinstance(experiment, RlaifExperiment)
    constitution = experiment.constitution.load()
    names = [principle.name for principle in constitution.principles]
    section = experiment.judge.model
    path = None if section else base.path
    with language_model.open(section or experiment.model, path, scores=True) as model:
        verdict = heed_self_knowledge(stage, experiment.self_knowledge, model.model_id, "probability")
        asked = {
            tuple(ids): (
                row["question"],
                constitution[choose_principle(names, experiment.seed, "rating", row["question"])].rating,
            )
            for ids, row in zip(
                prompt_token_ids(base.path, prompts["prompt"].to_list()),
                prompts.iter_rows(named=True),
                strict=True,
            )
        }
        texts = decoder(base.path)

        def reward(read: list[list[int]], written: list[list[int]]) -> list[float]:
            about = [asked[tuple(ids)] for ids in read]
            return rate(
                model, [prompt for prompt, _ in about], [question for _, question in about], texts(written)
            )

        yield reward, model.model_id, {"constitution": constitution.hash}, verdict
