"""Training as a Dagster resource."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from selfimprove_dagster.experiment.base import Experiment, TrainingExperiment
from selfimprove_dagster.experiment.sections import TrainingSection
from selfimprove_dagster.families.preferences.settings import (
    PolicyTrainingSection,
    RewardModelSection,
    SupervisedStepSection,
)

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.policy import PolicyOutcome, Reward
    from selfimprove_dagster.training.settings import TrainingOutcome
    from selfimprove_dagster.training.supervised import TokenisedExample

OnLog = Callable[[dict[str, float]], None]


class TrainerResource(dg.ConfigurableResource):
    """Fine-tunes with TRL, with the settings of an experiment."""

    device: str = Field(default="", description="overrides the experiment's device when not empty")

    def fine_tune(
        self,
        experiment: TrainingExperiment,
        base: str | Path,
        examples: Sequence[TokenisedExample],
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
        section: TrainingSection | SupervisedStepSection | None = None,
    ) -> TrainingOutcome:
        """Train `base` on the examples; see `selfimprove_dagster.training.supervised.fine_tune`.

        `section` is the experiment's own `training` unless another is given.
        """
        from selfimprove_dagster.training.supervised import SupervisedSettings, fine_tune

        settings = SupervisedSettings(**_shared(section or experiment.training))
        return fine_tune(
            base, examples, output, settings, seed=seed, on_log=on_log, **self._surroundings(experiment)
        )

    def train_reward_model(
        self,
        experiment: Experiment,
        section: RewardModelSection,
        base: str | Path,
        comparisons: Sequence[Comparison],
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
    ) -> TrainingOutcome:
        """See `selfimprove_dagster.training.reward.train_reward_model`."""
        from selfimprove_dagster.training.reward import RewardSettings, train_reward_model

        settings = RewardSettings(**_shared(section))
        return train_reward_model(
            base, comparisons, output, settings, seed=seed, on_log=on_log, **self._surroundings(experiment)
        )

    def optimise_preferences(
        self,
        experiment: Experiment,
        section: PolicyTrainingSection,
        base: str | Path,
        comparisons: Sequence[Comparison],
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
    ) -> TrainingOutcome:
        """DPO; see `selfimprove_dagster.training.preference.optimise_preferences`."""
        from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences

        settings = PreferenceSettings(**_shared(section), beta=section.kl_coefficient)
        return optimise_preferences(
            base, comparisons, output, settings, seed=seed, on_log=on_log, **self._surroundings(experiment)
        )

    def optimise_policy(
        self,
        experiment: Experiment,
        section: PolicyTrainingSection,
        base: str | Path,
        prompts: Sequence[list[int]],
        reward: Reward,
        output: Path,
        *,
        reward_id: str,
        seed: int,
        on_log: OnLog | None = None,
    ) -> PolicyOutcome:
        """GRPO or RLOO; see `selfimprove_dagster.training.policy.optimise_policy`."""
        from selfimprove_dagster.training.policy import PolicySettings, optimise_policy

        assert section.algorithm != "dpo"
        settings = PolicySettings(
            **_shared(section),
            algorithm=section.algorithm,
            beta=section.kl_coefficient,
            group_size=section.group_size,
            temperature=section.temperature,
            max_completion_tokens=section.max_tokens,
        )
        return optimise_policy(
            base,
            prompts,
            reward,
            output,
            settings,
            reward_id=reward_id,
            seed=seed,
            on_log=on_log,
            **self._surroundings(experiment),
        )

    def _surroundings(self, experiment: Experiment) -> dict[str, Any]:
        """Where, and in which numbers, is computed."""
        import torch

        device, dtype = self.device or experiment.model.device, experiment.model.dtype
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_available() and device != "cpu" else "float32"
        elif dtype == "float16":
            dtype = "float32"  # gradients leave the range of float16
        return {
            "device": device,
            "dtype": dtype,
            "trust_remote_code": experiment.model.trust_remote_code,
        }


def _shared(section: TrainingSection | RewardModelSection | SupervisedStepSection) -> dict[str, Any]:
    """The settings that every trainer has."""
    from selfimprove_dagster.training.settings import TrainingSettings

    return section.model_dump(include={setting.name for setting in fields(TrainingSettings)})
