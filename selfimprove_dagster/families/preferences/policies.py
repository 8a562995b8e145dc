"""Reward models and policies as stages train them, whatever is rewarded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.exam import NO_REWARD
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.families.preferences.settings import PolicyTrainingSection, RewardModelSection
from selfimprove_dagster.families.trained.checkpoints import TrainingStage
from selfimprove_dagster.lake.partition import Spent
from selfimprove_dagster.lake.records import Activity, Draft, Parent
from selfimprove_dagster.stage import Picture, Result, StageContext, number
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.budget import Allowance
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.reward import RewardModel
    from selfimprove_dagster.training.settings import TrainingOutcome


@dataclass(frozen=True)
class Rewarded:
    """What rewards completions.

    `opens` names a function that opens the reward, as `rewards.OpensReward`; `model_id` is the model that gives it.
    `parameters` shape the rewards, and `measured` was found out about the model. `is_paid`: rewards cost money.
    """

    opens: Spec
    model_id: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    is_paid: bool = False


def rewarded_by_model(context: StageContext[Any], table: Table) -> Rewarded:
    """The rewards of the reward model that an earlier stage of the iteration trained."""
    from selfimprove_dagster.training.reward import reward_by_model

    _, trained = context.small(table)
    path, model_id = trained.select("path", "model_id").row(0)
    device, folder = context.trainer.device_of(context.experiment), context.lake.folder_at(path)
    return Rewarded(Spec.of(reward_by_model, path=folder, device=device), model_id)


def fit_reward_model(
    training: TrainingStage,
    section: RewardModelSection,
    comparisons: Iterable[Comparison],
) -> tuple[TrainingOutcome, RewardModel]:
    """A reward model trained on comparisons, and open to be measured."""
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.reward import RewardModel

    context = training.context
    outcome = training.train(context.trainer.train_reward_model, section, Comparison, comparisons)
    return outcome, RewardModel.open(outcome.path, context.trainer.device_of(context.experiment))


def without_reward(
    judged: Sequence[tuple[float, float, float]], ids: Callable[[], Sequence[str]]
) -> list[tuple[str, str]]:
    """Return the comparisons that `RewardModel.compare` gave no reward of, by their `ids`, with the problem."""
    found = [index for index, (first, second, _) in enumerate(judged) if isnan(first) or isnan(second)]
    known = ids() if found else ()
    return [(known[index], "too_long: a side is longer than the reward model reads") for index in found]


def optimise_policy(
    training: TrainingStage,
    section: PolicyTrainingSection,
    prompts: pl.DataFrame,
    rewarded: Rewarded,
    rollouts_table: Table,
    asked_as: str,
) -> Result:
    """The policy optimised on prompts against a reward; the rollouts are stored before.

    `prompts` are `prompt_id, prompt`, where a reward reads it `question`, and where the policy improves a record
    `reference_id`. `asked_as` is the name of the method's prompt that they are, whose stop strings end a rollout.
    """
    from selfimprove_dagster.plots import line_chart
    from selfimprove_dagster.training.rewards import TokenisedPrompt
    from selfimprove_dagster.training.tokenising import tokenise_prompts, turn_end

    context, experiment = training.context, training.context.experiment
    prompting, stop = context.prompts.prompting, context.prompts.stops(asked_as)
    asked = prompts.select("prompt", "question" if "question" in prompts.columns else pl.lit(""))
    outcome = training.train(
        context.trainer.optimise_policy,
        section,
        TokenisedPrompt,
        tokenise_prompts(training.base.path, asked.iter_rows(), prompting),
        reward=rewarded.opens,
        reward_id=rewarded.model_id,
        stop=stop,
        turn_end=turn_end(training.base.path, prompting),
        on_paid=_within_budget(context.allowance, section) if rewarded.is_paid else None,
    )
    rollouts = pl.scan_parquet(outcome.rollouts)
    by = [Parent(training.base_id, "written_by"), Parent(rewarded.model_id, "rewarded_by")]
    stored, _ = context.beside(rollouts_table).map(
        _with_prompts(rollouts, prompts),
        Spec.of(
            rollout_drafts,
            base=training.base.path,
            parents=[asdict(parent) for parent in by],
            stop=list(stop),
        ),
        rollouts_activity(training, rollouts_table),
    )
    means = rollouts.group_by("step").agg(pl.col("reward").fill_nan(None).mean()).sort("step").collect()
    curve = {"reward": [(float(step), reward) for step, reward in means.iter_rows()]}
    chart = line_chart(curve, x="step", y="mean reward", title=f"{experiment.name}: reward while training")
    return training.result(
        training.store(
            outcome,
            parents=[Parent(rewarded.model_id, "rewarded_by")],
            ids=lambda: prompts[
                "reference_id" if "reference_id" in prompts.columns else "prompt_id"
            ].to_list(),
        ),
        outcome,
        {
            "rollouts": stored.rows,
            "first_reward": number(outcome.first_reward),
            "final_reward": number(outcome.final_reward),
            "reward_curve": Picture(chart),
            **rewarded.measured,
        },
    )


def _within_budget(allowance: Allowance, section: PolicyTrainingSection) -> Callable[[float], None]:
    """Return what raises BudgetSpent before a step whose rewards the budget of money has nothing for."""
    only_money = replace(allowance, budget=BudgetSection(money=allowance.budget.money))
    kept = f"checkpoints every {section.save_every:,} steps, and all rewards that were paid for,"

    def check(money: float) -> None:
        only_money.check(Spent(money=money), kept)

    return check


def rollouts_activity(training: TrainingStage, table: Table) -> Activity:
    """The activity of what the policy writes while it is trained."""
    context = training.context
    pool, _ = context.scan(registry.table(f"{context.experiment.method}/seed_pool"))
    return context.beside(table).activity(
        inputs=[training.dataset, pool],
        parameters={"training": training.activity.id},
        model_id=training.base_id,
    )


def _with_prompts(rollouts: pl.LazyFrame, prompts: pl.DataFrame) -> pl.LazyFrame:
    """Rollouts with the columns of their prompts.

    `sample_index` counts those of a step: a prompt can come up in several groups of it, and a text in each of them.
    """
    asked = prompts.lazy().with_row_index("row").with_columns(pl.col("row").cast(pl.Int32))
    return (
        rollouts.rename({"prompt": "row"})
        .with_columns(sample_index=pl.int_range(pl.len()).over("step"))
        .join(asked, on="row", how="left", maintain_order="left")
    )


def rollout_drafts(
    shard: Shard[Any, Row], *, base: str, parents: Sequence[Mapping[str, str]], stop: Sequence[str]
) -> list[Draft]:
    """What the policy, which started from `base`, wrote, up to a `stop` string.

    `parents` come after those that each rollout has.
    """
    from selfimprove_dagster.language_model.stopping import cut_at
    from selfimprove_dagster.training.tokenising import decoder

    by = [Parent(**parent) for parent in parents]
    texts = decoder(base, shard.prompts.prompting.thinking)(
        [row["completion_token_ids"] for row in shard.items]
    )
    return [
        Draft(
            content={
                "prompt_id": row["prompt_id"],
                "step": row["step"],
                "prompt": row["prompt"],
                "prompt_token_ids": row["prompt_token_ids"],
                "token_ids": row["completion_token_ids"],
                "text": cut_at(text, stop),
            },
            parents=[
                Parent(row["prompt_id"], "prompt"),
                *([Parent(row["reference_id"], "reference")] if "reference_id" in row else []),
                *by,
            ],
            measures={
                "reward": None if isnan(row["reward"]) else row["reward"],
                "advantage": row["advantage"],
                "problem": NO_REWARD if isnan(row["reward"]) else None,
            },
            sample_index=row["sample_index"],
        )
        for row, text in zip(shard.items, texts, strict=True)
    ]
