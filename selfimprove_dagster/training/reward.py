"""Reward models: `train_reward_model` and `RewardModel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome, TrainingSettings


@dataclass(frozen=True)
class RewardSettings(TrainingSettings):
    """How to train a reward model; an example is a comparison, and `max_length` bounds each of its sides."""


def train_reward_model(
    base: str | Path,
    comparisons: Sequence[Comparison],
    output: Path,
    settings: RewardSettings,
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
) -> TrainingOutcome:
    """A sequence-classification model of one label, from the causal language model `base`."""
    raise NotImplementedError


class RewardModel:
    """A trained reward model; `model_id` is the hash of its weights."""

    model_id: str

    @classmethod
    def open(cls, path: str | Path, device: str = "auto", *, trust_remote_code: bool = False) -> RewardModel:
        raise NotImplementedError

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[float]:
        """The reward of each completion after its prompt."""
        raise NotImplementedError

    def accuracy(self, comparisons: Sequence[Comparison]) -> float:
        """Share of the comparisons whose preferred side gets the higher reward; 0.5 labels do not count."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the weights' memory."""
