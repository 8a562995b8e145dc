"""Policy optimisation against a reward, by GRPO or RLOO: `optimise_policy`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome, TrainingSettings

Reward = Callable[[list[list[int]], list[list[int]]], list[float]]
"""Rewards of completions: called with the token ids of prompts and of completions, one for one."""


@dataclass(frozen=True)
class PolicySettings(TrainingSettings):
    """How to optimise a policy; an example is a completion, `group_size` of which share a prompt."""

    algorithm: Literal["grpo", "rloo"] = "grpo"
    beta: float = 0.05
    group_size: int = 8
    max_completion_tokens: int = 128
    temperature: float = 1.0


@dataclass(frozen=True)
class Rollout:
    """One completion that the policy drew while it was trained.

    `step` counts from 1; `prompt` is the prompt's index among those given, `sample` the completion's within
    its group. An end-of-sequence token that was drawn is part of the completion. `reward` is what the
    callable gave, before any KL term; `advantage` what the loss multiplied.
    """

    step: int
    prompt: int
    sample: int
    prompt_token_ids: list[int]
    completion_token_ids: list[int]
    reward: float
    advantage: float


@dataclass(frozen=True)
class PolicyOutcome(TrainingOutcome):
    """`examples` are prompts that were used; rewards are means a step, over the log's first and last entry.

    `rollouts` is a Parquet file in the model's folder, a row a `Rollout`; see `read_rollouts`.
    """

    rollouts: Path
    first_reward: float
    final_reward: float


def optimise_policy(
    base: str | Path,
    prompts: Sequence[list[int]],
    reward: Reward,
    output: Path,
    settings: PolicySettings,
    *,
    reward_id: str,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
    on_rollouts: Callable[[list[Rollout]], None] | None = None,
) -> PolicyOutcome:
    """Train `base` towards completions of higher reward; `reward_id` tells rewards apart (a model's hash)."""
    raise NotImplementedError


def read_rollouts(path: Path) -> list[Rollout]:
    """All rollouts of a training run, in the order in which they were drawn."""
    raise NotImplementedError
