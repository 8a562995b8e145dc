"""The settings of an experiment with RLHF, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
)
from selfimprove_dagster.families.preferences.settings import (
    _ON_POLICY,
    _SMALL_POLICY,
    _SMALL_REWARD,
    _SMALL_STEPS,
    ComparisonPoolSection,
    PreferenceExperiment,
    SupervisedStepSection,
)


class RlhfExperiment(PreferenceExperiment):
    """Feedback of people, the baseline (Ouyang et al., 2203.02155)."""

    method: Literal["rlhf"] = Field(description="the self-improvement method")
    seeds: ComparisonFile
    pool: ComparisonPoolSection
    supervised: SupervisedStepSection

    @model_validator(mode="after")
    def _people_judge(self) -> RlhfExperiment:
        if self.training.reward == "judge":
            raise ValueError("training.reward is `judge`, but people judge here; use the method rlaif")
        return self


PRESETS = {
    "paper": Preset(
        values={
            "pool": {"comparisons": 33_000, "prompts": 31_000},
            "supervised": {"steps": 3_250, "learning_rate": 1e-5, "batch_size": 64},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": {
                "steps": 520,
                "learning_rate": 9e-6,
                "batch_size": 64,
                "schedule": "cosine",
            },
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 500,
                "learning_rate": 9e-6,
                "batch_size": 512,
                "schedule": "constant",
                "kl_coefficient": 0.02,
                "group_size": 2,
                "temperature": 1.0,
                "max_tokens": 256,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "RLOO, not PPO, which TRL no longer has; no pretraining gradients are mixed in",
            "demonstrations are the responses that people chose, not written apart",
            "comparisons are pairs, not rankings of 4 to 9 responses",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "pool": {"comparisons": 500},
            "supervised": {"steps": 0, "learning_rate": 5e-4, "batch_size": 32},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": _SMALL_REWARD,
            "evaluation": {"max_tokens": 48},
            "training": _SMALL_POLICY,
            "budget": {"iterations": 1},
        },
        deviations=(
            "500 comparisons, and no supervised step: what is compared with RLAIF is the feedback alone",
            _ON_POLICY,
        ),
        trained=(_SMALL_STEPS,),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    **dialogues.EMBEDDED,
    ("seeds", "file"): embedded.DIALOGUE_COMPARISONS,
}
"""The shipped files that the word `embedded` means."""
