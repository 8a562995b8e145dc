"""Words for pairs of responses, for the models that are trained on them, and for what a policy writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.families.dialogues.words import choice
from selfimprove_dagster.words import quoted, trained

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def example(row: Row) -> str:
    """A pair of a dataset with the probability that the chosen response is the better one."""
    return f"in the dataset: {choice(row)}, probability {row['probability']:.2f}"


def reward_model(row: Row) -> str:
    """A reward model with its accuracy on held-out pairs."""
    return trained(row, "reward model")


def rollout(row: Row) -> str:
    """A response that a policy wrote while it was trained, with its reward."""
    advantage = "" if row["advantage"] is None else f", advantage {row['advantage']:.3g}"
    reward = "not rewarded" if row["reward"] is None else f"reward {row['reward']:.3g}"
    return f"written at step {row['step']}, {reward}{advantage}: {quoted(row['text'])}"
