"""Training as a Dagster resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import BaseModel, Field

from selfimprove_dagster.experiment import Experiment

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.policy import PolicyOutcome, Reward, Rollout
    from selfimprove_dagster.training.settings import TrainingSettings
    from selfimprove_dagster.training.supervised import TokenisedExample, TrainingOutcome

    Settings = TypeVar("Settings", bound=TrainingSettings)

Section = BaseModel | Mapping[str, Any]
"""A section of an experiment, of which the fields that a kind of training has are taken, or its settings."""
OnLog = Callable[[dict[str, float]], None]


class TrainerResource(dg.ConfigurableResource):
    """Trains with TRL, with the settings of an experiment."""

    device: str = Field(default="", description="overrides the experiment's device when not empty")

    def fine_tune(
        self,
        experiment: Experiment,
        base: str | Path,
        examples: Sequence[TokenisedExample],
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
    ) -> TrainingOutcome:
        """Train `base` on the examples; see `selfimprove_dagster.training.supervised.fine_tune`."""
        from selfimprove_dagster.training.supervised import SupervisedSettings, fine_tune

        settings = _settings(SupervisedSettings, experiment.training)
        where = self._where(experiment)
        return fine_tune(base, examples, output, settings, seed=seed, on_log=on_log, **where)

    def train_reward_model(
        self,
        experiment: Experiment,
        base: str | Path,
        comparisons: Sequence[Comparison],
        output: Path,
        section: Section,
        *,
        seed: int,
        on_log: OnLog | None = None,
    ) -> TrainingOutcome:
        """Train a reward model from `base`; see `selfimprove_dagster.training.reward`."""
        from selfimprove_dagster.training.reward import RewardSettings, train_reward_model

        settings = _settings(RewardSettings, section)
        where = self._where(experiment)
        return train_reward_model(base, comparisons, output, settings, seed=seed, on_log=on_log, **where)

    def optimise_preferences(
        self,
        experiment: Experiment,
        base: str | Path,
        comparisons: Sequence[Comparison],
        output: Path,
        section: Section,
        *,
        seed: int,
        on_log: OnLog | None = None,
    ) -> TrainingOutcome:
        """Train `base` by DPO; see `selfimprove_dagster.training.preference`."""
        from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences

        settings = _settings(PreferenceSettings, section)
        where = self._where(experiment)
        return optimise_preferences(base, comparisons, output, settings, seed=seed, on_log=on_log, **where)

    def optimise_policy(
        self,
        experiment: Experiment,
        base: str | Path,
        prompts: Sequence[list[int]],
        reward: Reward,
        output: Path,
        section: Section,
        *,
        reward_id: str,
        seed: int,
        on_log: OnLog | None = None,
        on_rollouts: Callable[[list[Rollout]], None] | None = None,
    ) -> PolicyOutcome:
        """Train `base` towards higher rewards; see `selfimprove_dagster.training.policy`."""
        from selfimprove_dagster.training.policy import PolicySettings, optimise_policy

        return optimise_policy(
            base,
            prompts,
            reward,
            output,
            _settings(PolicySettings, section),
            reward_id=reward_id,
            seed=seed,
            on_log=on_log,
            on_rollouts=on_rollouts,
            **self._where(experiment),
        )

    def _where(self, experiment: Experiment) -> dict[str, Any]:
        """Device and number type, and whether the model's own code may run."""
        import torch

        device, dtype = self.device or experiment.model.device, experiment.model.dtype
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_available() and device != "cpu" else "float32"
        return {
            "device": device,
            "dtype": dtype,
            "trust_remote_code": experiment.model.trust_remote_code,
        }


def _settings(kind: type[Settings], section: Section) -> Settings:
    """A section may say more than the training needs to know; a mapping says what it means."""
    if not isinstance(section, BaseModel):
        return kind(**section)
    names = {field.name for field in fields(kind)}
    return kind(**section.model_dump(include=names))
