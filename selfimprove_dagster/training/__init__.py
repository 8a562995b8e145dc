"""Training of models. Importing this loads neither torch nor TRL; they are imported when training starts."""

from __future__ import annotations

from selfimprove_dagster.training.comparisons import Comparison, tokenise_comparisons
from selfimprove_dagster.training.policy import PolicyOutcome, PolicySettings, optimise_policy
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.reward import RewardModel, RewardSettings, train_reward_model
from selfimprove_dagster.training.rollouts import Rollout, read_rollouts
from selfimprove_dagster.training.settings import TrainingOutcome
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune

__all__ = [
    "Comparison",
    "PolicyOutcome",
    "PolicySettings",
    "PreferenceSettings",
    "RewardModel",
    "RewardSettings",
    "Rollout",
    "SupervisedSettings",
    "TokenisedExample",
    "TrainingOutcome",
    "fine_tune",
    "optimise_policy",
    "optimise_preferences",
    "read_rollouts",
    "tokenise_comparisons",
    "train_reward_model",
]
