"""Reward models and policies as stages train them, whatever is rewarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.families.preferences.settings import PolicyTrainingSection, RewardModelSection
from selfimprove_dagster.families.trained.checkpoints import TrainingStage
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.stage import Picture, Result, number
from selfimprove_dagster.table import Table

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.reward import RewardModel
    from selfimprove_dagster.training.rollouts import Rollout
    from selfimprove_dagster.training.settings import TrainingOutcome

Reward = Callable[[list[list[int]], list[list[int]]], list[float]]
"""Rewards of completions, by the token ids of prompts and of completions."""


def fit_reward_model(
    training: TrainingStage,
    section: RewardModelSection,
    comparisons: Sequence[Comparison],
) -> tuple[TrainingOutcome, RewardModel]:
    """A reward model trained on comparisons, and open to be measured."""
    from selfimprove_dagster.training.reward import RewardModel

    experiment = training.context.experiment
    with training.progress(section.steps) as on_log:
        outcome = training.context.trainer.train_reward_model(
            experiment,
            section,
            training.base.path,
            comparisons,
            training.output,
            seed=experiment.seed + training.context.iteration,
            on_log=on_log,
        )
    return outcome, RewardModel.open(outcome.path, experiment.model.device)


def optimise_policy(
    training: TrainingStage,
    section: PolicyTrainingSection,
    prompts: pl.DataFrame,
    rewarding: tuple[Reward, str],
    rollouts_table: Table,
    told: Mapping[str, Any] | None = None,
) -> Result:
    """The policy optimised on prompts (`prompt_id, prompt` and, where it improves what is a record,
    `reference_id`) against a reward and the id of the model that gives it; the rollouts are stored before.
    Dagster is `told` more than that.
    """
    from selfimprove_dagster.plots import line_chart
    from selfimprove_dagster.training.rollouts import read_rollouts
    from selfimprove_dagster.training.tokenising import prompt_token_ids

    context, (reward, reward_id) = training.context, rewarding
    experiment, base = context.experiment, training.base
    with training.progress(section.steps) as on_log:
        outcome = context.trainer.optimise_policy(
            experiment,
            section,
            base.path,
            prompt_token_ids(base.path, prompts["prompt"].to_list()),
            reward,
            training.output,
            reward_id=reward_id,
            seed=experiment.seed + context.iteration,
            on_log=on_log,
        )
    drawn = read_rollouts(outcome.rollouts)
    by = [Parent(training.base_id, "written_by"), Parent(reward_id, "rewarded_by")]
    store_rollouts(training, rollouts_table, drawn, prompts, by)
    means: dict[int, list[float]] = {}
    for rollout in drawn:
        means.setdefault(rollout.step, []).append(rollout.reward)
    curve = {"reward": [(float(step), sum(got) / len(got)) for step, got in sorted(means.items())]}
    chart = line_chart(curve, x="step", y="mean reward", title=f"{experiment.name}: reward while training")
    return training.result(
        training.store(outcome, parents=[Parent(reward_id, "rewarded_by")]),
        outcome,
        {
            "rollouts": len(drawn),
            "first_reward": number(outcome.first_reward),
            "final_reward": number(outcome.final_reward),
            "reward_curve": Picture(chart),
            **(told or {}),
        },
    )


def store_rollouts(
    training: TrainingStage,
    table: Table,
    drawn: Sequence[Rollout],
    prompts: pl.DataFrame | None,
    parents: Sequence[Parent],
) -> None:
    """Commit what the policy wrote before the checkpoint that learnt from it."""
    from selfimprove_dagster.training.tokenising import decoder

    context = training.context
    beside = context.beside(table)
    pool, _ = context.read(registry.table(f"{context.experiment.method}/seed_pool"))
    activity = beside.activity(
        inputs=[training.dataset, pool],
        parameters={"training": training.activity.id},
        model_id=training.base_id,
    )
    rows = [] if prompts is None else prompts.rows(named=True)
    improving = prompts is not None and "reference_id" in prompts.columns
    texts = decoder(training.base.path)([one.completion_token_ids for one in drawn]) if drawn else []
    # A prompt can come up in several groups of a step, and a text in each of them.
    first_of_step = {one.step: at for at, one in reversed([*enumerate(drawn)])}
    beside.store(
        activity,
        [
            Draft(
                content={
                    "prompt_id": rows[one.prompt]["prompt_id"],
                    "step": one.step,
                    "prompt": rows[one.prompt]["prompt"],
                    "prompt_token_ids": one.prompt_token_ids,
                    "token_ids": one.completion_token_ids,
                    "text": text,
                },
                parents=[
                    Parent(rows[one.prompt]["prompt_id"], "prompt"),
                    *([Parent(rows[one.prompt]["reference_id"], "reference")] if improving else []),
                    *parents,
                ],
                measures={"reward": one.reward, "advantage": one.advantage},
                sample_index=at - first_of_step[one.step],
            )
            for at, (one, text) in enumerate(zip(drawn, texts, strict=True))
        ],
    )
