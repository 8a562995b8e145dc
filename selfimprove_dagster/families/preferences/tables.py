"""The tables of what is learnt from pairs of responses: the pairs, the reward model, the policy's rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import polars as pl

from selfimprove_dagster.column_sources import each, new, of
from selfimprove_dagster.families.dialogues.tables import dialogue_evaluation
from selfimprove_dagster.families.preferences.checks import (
    POLICY_CHECKS,
    REWARD_MODEL_CHECKS,
    REWARDED_EVALUATION_CHECKS,
    ROLLOUT_CHECKS,
)
from selfimprove_dagster.families.preferences.reviewing import rewarded_items
from selfimprove_dagster.families.preferences.words import example, rollout
from selfimprove_dagster.families.preferences.words import reward_model as trained_reward_model
from selfimprove_dagster.families.trained.tables import LEARNT, checkpoint, fine_tuned_checkpoint
from selfimprove_dagster.table import PROBLEM, TEXT, Facts, Reviewed, Source, Table, Words

PAIR = ("prompt", "chosen", "rejected")


_LEARNT = (*PAIR, "probability")


def preference_dataset(method: str, **facts: Unpack[Facts]) -> Table:
    """Pairs of responses with the probability that the chosen one is the better; parents: the prompt or the
    comparison of a person, and the preference and both responses where a model judged."""
    given: Facts = {"noun": "training example", "sentence": example, **facts}
    return Table(
        f"{method}/filtered_dataset",
        "ex",
        content={
            "question": TEXT,
            "format": TEXT,
            "prompt": TEXT,
            "chosen": TEXT,
            "rejected": TEXT,
            "prompt_id": TEXT,
            "labelled_by": TEXT,
        },
        measures={"probability": pl.Float64},
        **given,
    )


def reward_model(method: str, dataset: Table, **words: Unpack[Words]) -> Table:
    """One row: the reward model; none where training needs none. Parents: its dataset, its base model."""
    given: Words = {"noun": "reward model", "sentence": trained_reward_model, **words}
    return checkpoint(
        f"{method}/reward_model",
        "rm",
        dataset,
        of(dataset, *_LEARNT),
        measures={"held_out_pairs": pl.Int64, "held_out_accuracy": pl.Float64},
        checks=REWARD_MODEL_CHECKS,
        **given,
    )


def rollouts(
    method: str,
    prompts: Sequence[Source],
    models: Sequence[Source],
    references: Sequence[Source] = (),
    stage: str = "rollouts",
    reviewed: Reviewed | None = None,
    **words: Unpack[Words],
) -> Table:
    """What the policy wrote while it was trained, with its rewards; parents: the prompt, the models
    that wrote and that rewarded it, and the reference that it improves, if any. One that could not be rewarded has no
    reward and a `problem`.

    `prompts` are the column of the prompts' ids and the columns that prompts show, `models` the models that wrote
    and rewarded, `references` the ids of what was improved.
    """
    given: Words = {"noun": "rollout", "sentence": rollout, **words}
    return Table(
        f"{method}/{stage}",
        "roll",
        content={
            "prompt_id": TEXT,
            "step": pl.Int32,
            "prompt": TEXT,
            "prompt_token_ids": pl.List(pl.Int32),
            "token_ids": pl.List(pl.Int32),
            "text": TEXT,
        },
        measures={"reward": pl.Float64, "advantage": pl.Float64, **PROBLEM},
        later=frozenset(PROBLEM),
        sources={
            "parents": [prompts[0], *references, *models],
            "prompt_id": prompts[:1],
            **each(prompts[1:], "prompt", "prompt_token_ids"),
            **each([*prompts[1:], *models], "token_ids", "text", "reward", "advantage", "problem"),
            **new("step"),
        },
        checks=ROLLOUT_CHECKS,
        is_asset=False,
        reviewed=reviewed,
        **given,
    )


def reviewed_rollouts(method: str) -> Reviewed:
    """How people are asked about the rollouts of a method."""
    table = f"{method}/rollouts"
    return Reviewed(rewarded_items, prompt=of(table, "prompt"), options=of(table, "text"))


def policy(
    method: str, dataset: Table, reward: Table, started: Sequence[Source] = (), **words: Unpack[Words]
) -> Table:
    """The policy that is trained on pairs, or on rewards; `started` is what it may start from besides a champion."""
    models = [*of(reward, "model_id"), *started]
    return fine_tuned_checkpoint(
        method,
        dataset,
        trained_on=PAIR,
        sources={
            "parents": [*of(dataset, "activity_id"), *models],
            "base_model_id": started,
            **each([*of(dataset, *_LEARNT), *models], *LEARNT),
        },
        checks=POLICY_CHECKS,
        **words,
    )


def rewarded_evaluation(method: str, policy: Table, reward: Table, **words: Unpack[Words]) -> Table:
    """The exam of dialogues, whose responses a reward model scores too."""
    return dialogue_evaluation(
        method,
        policy,
        sources={"reward": [*of(policy, "model_id"), *of(reward, "model_id")]},
        checks=REWARDED_EVALUATION_CHECKS,
        **words,
    )
