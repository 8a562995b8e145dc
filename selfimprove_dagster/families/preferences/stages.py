"""The stages that RLAIF and RLHF share: from pairs of responses to a policy that learnt from them.

filtered_dataset → reward_model → fine_tuned_checkpoint → (shared stages)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.preferences import filters as preferences
from selfimprove_dagster.families.preferences.policies import (
    Reward,
    fit_reward_model,
    optimise_policy,
    store_rollouts,
)
from selfimprove_dagster.families.trained.checkpoints import TrainingStage
from selfimprove_dagster.families.trained.stages import named
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

Start = Callable[[StageContext[Any]], Champion]
"""The model that reward model and policy start from."""

Rewarded = tuple[Reward, str, dict[str, Any], dict[str, str]]
"""What rewards completions, the id of the model that does, the settings that shape its rewards, and what was
measured of it."""

Rewarding = Callable[[StageContext[Any], Champion, pl.DataFrame], AbstractContextManager[Rewarded]]
"""Opens what rewards completions of the prompts, by the model that the policy starts from."""


def store_pairs(
    context: StageContext[Any],
    candidates: pl.LazyFrame,
    inputs: Sequence[Manifest],
    decisions_table: Table,
    labelled_by: str,
    roles: Mapping[str, str],
) -> Result:
    """filtered_dataset: the pairs that pass every rule, with the probability that the chosen is better.

    `candidates` are the rows of the first of the `inputs`. `roles` are those of a pair's parents, each by the
    column of `oriented` that has the parent's id.
    """
    section = context.experiment.preferences
    activity = context.activity(inputs=inputs, parameters={"preferences": section.model_dump()})
    decisions, manifest, _ = context.map_together(
        candidates,
        Spec.of(choose_pairs, labelled_by=labelled_by, roles=dict(roles)),
        activity,
        (decisions_table, context.deciding(decisions_table, inputs, activity.id)),
    )
    count = context.lake.live_rows(inputs[0])
    return context.result(
        manifest,
        preview=["prompt", "chosen", "rejected", "probability"],
        metadata={
            "candidates": count,
            "kept_share": number(manifest.rows / max(count, 1)),
            **context.measure(manifest, mean_probability=pl.col("probability").mean()),
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


def choose_pairs(
    shard: Shard[Any, Row], *, labelled_by: str, roles: Mapping[str, str]
) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on pairs, and the examples that are made of those which every rule keeps."""
    section = shard.experiment.preferences
    kept, decisions = preferences.filter_preferences(shard.frame, section.minimum_margin)
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
            parents=[Parent(row[column], role) for column, role in roles.items()],
            measures={
                "probability": preferences.hard(row["probability"])
                if section.hard_labels
                else row["probability"]
            },
        )
        for row in preferences.oriented(kept).iter_rows(named=True)
    ]
    return decision_drafts(decisions, registry.table(shard.activity.table)), drafts


def compared_pairs(
    schema: Table,
    pool_table: Table,
    decisions_table: Table,
    description: str,
) -> Stage:
    """filtered_dataset, where comparisons were made before: those of the pool that pass every rule."""

    @stage(decisions_table, schema, after=[pool_table.stage], description=description)
    def filtered_dataset(context: StageContext[Any]) -> Result:
        pool_manifest, pool = context.scan(pool_table)
        giver = context.experiment.taught_by
        return store_pairs(
            context,
            preferences.compared_candidates(pool),
            [pool_manifest],
            decisions_table,
            labelled_by=f"the experiment {giver}" if giver else "people",
            roles={"candidate_id": "comparison"},
        )

    return filtered_dataset


def preference_stages(
    tables: Sequence[Table], start: Start, before: Sequence[str] = (), judged: Rewarding | None = None
) -> list[Stage]:
    """reward_model → fine_tuned_checkpoint of the method whose tables these are.

    `start` gives the model that both start from, which the stages `before` train. `judged` opens what rewards
    completions where the experiment does without a reward model.
    """
    dataset, reward_table = named(tables, "filtered_dataset"), named(tables, "reward_model")
    rollouts, checkpoint = named(tables, "rollouts"), named(tables, "fine_tuned_checkpoint")

    @stage(
        reward_table,
        after=[dataset.stage, *before],
        description="A model that tells the better response, trained with TRL's RewardTrainer on labels that "
        "are probabilities. Empty where training needs none (DPO, direct RLAIF).",
        kinds=["pytorch", "huggingface"],
        uses=["trainer"],
    )
    def reward_model(context: StageContext[Any]) -> Result:
        return _train_reward_model(context, dataset, start)

    @stage(
        rollouts,
        checkpoint,
        after=[dataset.stage, reward_table.stage],
        description="The policy, optimised with TRL: by GRPO or RLOO against the reward with a KL term, or "
        "by DPO on the pairs. All that it wrote meanwhile stands in the table of rollouts.",
        kinds=["pytorch", "huggingface"],
        uses=["trainer"],
    )
    def fine_tuned_checkpoint(context: StageContext[Any]) -> Result:
        if context.experiment.training.algorithm == "dpo":
            return _train_on_pairs(context, dataset, rollouts, start)
        rewarding = _with_model(reward_table) if context.experiment.rewards_with_model else judged
        assert rewarding is not None, "the experiment is rewarded by a model, or its method says by what"
        return _train_policy(context, dataset, reward_table, rollouts, start, rewarding)

    return [reward_model, fine_tuned_checkpoint]


def _train_reward_model(context: StageContext[Any], dataset: Table, start: Start) -> Result:
    from selfimprove_dagster.training.comparisons import tokenise_comparisons

    experiment = context.experiment
    manifest, pairs = context.read(dataset)
    if not experiment.rewards_with_model:
        algorithm, reward = experiment.training.algorithm, experiment.training.reward
        activity = context.activity(inputs=[manifest], parameters={"algorithm": algorithm, "reward": reward})
        reason = f"not needed: training.algorithm is {algorithm}, training.reward is {reward}"
        return context.result(context.store(activity, []), ["model_id"], {"reason": reason})
    section, share = experiment.reward_model, experiment.preferences.held_out_share
    out = preferences.split_held_out(pairs["question"].to_list(), share, experiment.seed)
    base = start(context)
    training = TrainingStage.begin(
        context, manifest, base, {"reward_model": section.model_dump(), "held_out_share": share}
    )
    columns = ["prompt", "chosen", "rejected", "probability"]
    held_out = tokenise_comparisons(base.path, pairs.filter(pl.Series(out)).select(columns).iter_rows())
    shown = tokenise_comparisons(base.path, pairs.filter(~pl.Series(out)).select(columns).iter_rows())
    outcome, judge = fit_reward_model(training, section, shown)
    with closing(judge):
        accuracy = judge.accuracy(held_out) if held_out else None
    measured = {"held_out_pairs": len(held_out), "held_out_accuracy": accuracy}
    shown_numbers = {"held_out_pairs": len(held_out), "held_out_accuracy": number(accuracy)}
    return training.result(training.store(outcome, measures=measured), outcome, shown_numbers)


def _train_on_pairs(context: StageContext[Any], dataset: Table, rollouts: Table, start: Start) -> Result:
    from selfimprove_dagster.training.comparisons import tokenise_comparisons

    section = context.experiment.training
    manifest, pairs = context.read(dataset)
    base = start(context)
    training = TrainingStage.begin(context, manifest, base, {"training": section.model_dump()})
    store_rollouts(training, rollouts, [], None, [])
    columns = ["prompt", "chosen", "rejected", "probability"]
    with training.progress(section.steps) as on_log:
        outcome = context.trainer.optimise_preferences(
            context.experiment,
            section,
            base.path,
            tokenise_comparisons(base.path, pairs.select(columns).iter_rows()),
            training.output,
            seed=context.experiment.seed + context.iteration,
            on_log=on_log,
        )
    return training.result(training.store(outcome), outcome)


def _train_policy(
    context: StageContext[Any],
    dataset: Table,
    reward_table: Table,
    rollouts: Table,
    start: Start,
    rewarding: Rewarding,
) -> Result:
    section = context.experiment.training
    manifest, pairs = context.read(dataset)
    reward_manifest, _ = context.read(reward_table)
    base = start(context)
    prompts = pairs.select("prompt_id", "question", "prompt").unique(
        "question", keep="first", maintain_order=True
    )
    with rewarding(context, base, prompts) as (reward, reward_id, shaping, told):
        training = TrainingStage.begin(
            context,
            manifest,
            base,
            {"training": section.model_dump(), "rewarded_by": reward_id, **shaping},
            inputs=[reward_manifest],
            about=told,
        )
        return optimise_policy(
            training,
            section,
            prompts,
            (reward, reward_id),
            rollouts,
            told,
        )


def _with_model(table: Table) -> Rewarding:
    """Rewards of the reward model that an earlier stage of the iteration trained."""

    @contextmanager
    def rewarding(context: StageContext[Any], base: Champion, prompts: pl.DataFrame) -> Iterator[Rewarded]:
        from selfimprove_dagster.training.reward import RewardModel

        _, trained = context.read(table)
        path, model_id = trained.select("path", "model_id").row(0)
        with closing(RewardModel.open(path, context.experiment.model.device)) as judge:
            yield judge.score, model_id, {}, {}

    return rewarding
