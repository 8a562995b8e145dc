"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.table import (
    TEXT,
    Table,
    fine_tuned_checkpoint,
)

PREFERENCE_METHODS = ("rlaif", "rlhf", "pit")
"""Those that train on pairs of responses."""


def preference_dataset(method: str) -> Table:
    """Pairs of responses with the probability that the chosen one is the better; parents: the prompt or the
    comparison of a person, and the preference and both responses where a model judged."""
    return Table(
        f"{method}/filtered_dataset",
        "ex",
        noun="training example",
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
    )


def reward_model(method: str) -> Table:
    """One row: the reward model; none where training needs none. Parents: its dataset, its base model."""
    plain = fine_tuned_checkpoint(method)
    return Table(
        f"{method}/reward_model",
        "rm",
        noun="reward model",
        content=plain.content,
        measures={**plain.measures, "held_out_pairs": pl.Int64, "held_out_accuracy": pl.Float64},
    )


def rollouts(method: str, stage: str = "rollouts", noun: str = "rollout") -> Table:
    """What the policy wrote while it was trained, with what it was rewarded; parents: the prompt, the models
    that wrote and that rewarded it, and the reference that it improves, if any."""
    return Table(
        f"{method}/{stage}",
        "roll",
        noun=noun,
        content={
            "prompt_id": TEXT,
            "step": pl.Int32,
            "prompt": TEXT,
            "prompt_token_ids": pl.List(pl.Int32),
            "token_ids": pl.List(pl.Int32),
            "text": TEXT,
        },
        measures={"reward": pl.Float64, "advantage": pl.Float64},
        is_asset=False,
    )
