"""The stages that RLAIF and RLHF share: from pairs of responses to a policy that learnt from them.

filtered_dataset → reward_model → fine_tuned_checkpoint → (shared stages)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.preferences import filters as preferences
from selfimprove_dagster.families.preferences.policies import (
    Rewarded,
    fit_reward_model,
    optimise_policy,
    rewarded_by_model,
    rollouts_activity,
    without_reward,
)
from selfimprove_dagster.families.trained.checkpoints import TrainingStage, datasets, rows_of
from selfimprove_dagster.families.trained.filtered import filter_parameters, map_filtered
from selfimprove_dagster.families.trained.forgetting import recorded
from selfimprove_dagster.families.trained.stages import named
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison

Start = Callable[[StageContext[Any]], Champion]
"""The model that reward model and policy start from."""

Rewarding = Callable[[StageContext[Any], Champion], Rewarded]
"""What rewards completions, by the model that the policy starts from."""


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
    filters = filter_parameters(context.experiment)
    activity = context.activity(
        inputs=inputs,
        parameters={"preferences": section.model_dump(), **filters["parameters"]},
        about=filters["about"],
    )
    decisions, manifest = map_filtered(
        context,
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
    section, prompts = shard.experiment.preferences, shard.prompts
    kept, decisions = preferences.filter_preferences(shard.frame, section.minimum_margin, section.hard_labels)
    drafts = [
        Draft(
            content={
                "question": row["prompt"],
                "format": "preference",
                "prompt": prompts.ask("response", **spoken(row["prompt"])),
                "chosen": prompts.completion("response", row["chosen"].strip()),
                "rejected": prompts.completion("response", row["rejected"].strip()),
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

    @stage(decisions_table, schema, after=[pool_table.stage], description=description, version="2")
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
    tables: Sequence[Table],
    start: Start,
    before: Sequence[str] = (),
    judged: Rewarding | None = None,
    policy_version: str = "2",
) -> list[Stage]:
    """reward_model → fine_tuned_checkpoint of the method whose tables these are.

    `start` gives the model that both start from, which the stages `before` train. `judged` gives what rewards
    completions where the experiment does without a reward model; `policy_version` is raised with what it gives.
    """
    dataset, reward_table = named(tables, "filtered_dataset"), named(tables, "reward_model")
    rollouts, checkpoint = named(tables, "rollouts"), named(tables, "fine_tuned_checkpoint")

    @stage(
        reward_table,
        after=[dataset.stage, *before],
        description="A model that recognises the better response, trained with TRL's RewardTrainer on labels "
        "that are probabilities. Empty where training needs none (DPO, direct RLAIF).",
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
        "by DPO on the pairs. Everything that it wrote during training is in the table of rollouts.",
        version=policy_version,
        kinds=["pytorch", "huggingface"],
        uses=["trainer"],
    )
    def fine_tuned_checkpoint(context: StageContext[Any]) -> Result:
        if context.experiment.training.algorithm == "dpo":
            return _train_on_pairs(context, dataset, rollouts, start)
        return _train_policy(context, dataset, reward_table, rollouts, start, judged)

    return [reward_model, fine_tuned_checkpoint]


_COMPARED = ("prompt", "chosen", "rejected", "probability", "question")
"""The columns of a pair that a comparison is made of; those of one question are held out together."""


def _train_reward_model(context: StageContext[Any], dataset: Table, start: Start) -> Result:
    from selfimprove_dagster.training.comparisons import tokenise_comparisons
    from selfimprove_dagster.training.reward import agreement

    experiment = context.experiment
    manifest, *earlier = datasets(context, dataset, experiment.reward_model)
    if not experiment.rewards_with_model:
        algorithm, reward = experiment.training.algorithm, experiment.training.reward
        activity = context.activity(inputs=[manifest], parameters={"algorithm": algorithm, "reward": reward})
        reason = f"not needed: training.algorithm is {algorithm}, training.reward is {reward}"
        return context.result(context.store(activity, []), ["model_id"], {"reason": reason})
    section, share = experiment.reward_model, experiment.preferences.held_out_share
    prompting = context.prompts.prompting
    base = start(context)
    training = TrainingStage.begin(
        context,
        manifest,
        base,
        {"reward_model": recorded(section), "held_out_share": share},
        earlier=earlier,
    )

    def compared(held_out: bool, *partitions: Manifest) -> Iterator[Comparison]:
        for rows in (rows for one in partitions for rows in context.batches(one, *_COMPARED)):
            out = preferences.split_held_out(rows["question"].to_list(), share, experiment.seed)
            chosen = rows.filter(pl.Series(out, dtype=pl.Boolean) == held_out)
            yield from tokenise_comparisons(base.path, chosen.select(_COMPARED).iter_rows(), prompting)

    outcome, judge = fit_reward_model(training, section, compared(False, manifest, *earlier))
    with closing(judge):
        judged = [*judge.compare(compared(True, manifest))]
    accuracy = agreement(judged) if judged else None

    def ids(held_out: bool, *partitions: Manifest) -> list[str]:
        rows = pl.concat([context.lake.read_columns(one, ["id", "question"]) for one in partitions])
        out = preferences.split_held_out(rows["question"].to_list(), share, experiment.seed)
        return rows["id"].filter(pl.Series(out, dtype=pl.Boolean) == held_out).to_list()

    measured = {"held_out_pairs": len(judged), "held_out_accuracy": accuracy}
    shown = {**measured, "held_out_accuracy": number(accuracy)}
    stored = training.store(
        outcome,
        measures=measured,
        ids=lambda: ids(False, manifest, *earlier),
        unmeasured=without_reward(judged, lambda: ids(True, manifest)),
    )
    return training.result(stored, outcome, shown)


def _train_on_pairs(context: StageContext[Any], dataset: Table, rollouts: Table, start: Start) -> Result:
    from selfimprove_dagster.training.comparisons import Comparison, tokenise_comparisons

    section = context.experiment.training
    manifest, *earlier = datasets(context, dataset, section)
    base = start(context)
    training = TrainingStage.begin(context, manifest, base, {"training": recorded(section)}, earlier=earlier)
    context.beside(rollouts).store(rollouts_activity(training, rollouts), [])
    comparisons = tokenise_comparisons(
        base.path,
        (row for one in (manifest, *earlier) for row in rows_of(context, one, *_COMPARED)),
        context.prompts.prompting,
    )
    outcome = training.train(context.trainer.optimise_preferences, section, Comparison, comparisons)
    return training.result(training.store(outcome), outcome)


def _train_policy(
    context: StageContext[Any],
    dataset: Table,
    reward_table: Table,
    rollouts: Table,
    start: Start,
    judged: Rewarding | None,
) -> Result:
    """The policy, trained on the prompts of all pairs, each once: these are held whole, without the responses."""
    section = context.experiment.training
    manifest, pairs = context.scan(dataset)
    reward_manifest, _ = context.small(reward_table)
    base = start(context)
    prompts = pairs.select("prompt_id", "question", "prompt").unique(
        "question", keep="first", maintain_order=True
    )
    if context.experiment.rewards_with_model:
        rewarded = rewarded_by_model(context, reward_table)
    else:
        assert judged is not None, "the experiment is rewarded by a model, or its method says by what"
        rewarded = judged(context, base)
    training = TrainingStage.begin(
        context,
        manifest,
        base,
        {"training": recorded(section), "rewarded_by": rewarded.model_id, **rewarded.parameters},
        inputs=[reward_manifest],
        about=rewarded.measured,
    )
    return optimise_policy(training, section, prompts.collect(), rewarded, rollouts, "response")
