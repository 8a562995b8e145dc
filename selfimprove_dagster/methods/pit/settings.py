"""The settings of an experiment with PIT, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import (
    STEPS,
    DataPath,
    ModelSection,
    Section,
)
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    ConstitutionSection,
    DialogueEvaluationSection,
    DialogueExperiment,
)
from selfimprove_dagster.families.preferences.settings import (
    OF_PAIRS,
    ComparisonPoolSection,
    PolicyTrainingSection,
    PreferenceFilterSection,
    RewardModelSection,
    SupervisedStepSection,
    check_rollouts_are_free,
)


class ComparisonSource(ComparisonFile):
    """Where preferences come from: a file of comparisons, or the dataset of another experiment."""

    file: DataPath = Field(
        "", description="path of a file of comparisons, or `embedded`; not read with `experiment`"
    )
    experiment: str | None = Field(
        None, description="an experiment of rlaif or rlhf: its newest filtered_dataset, in place of the file"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ComparisonSource:
        if not (self.file or self.experiment):
            raise ValueError("name a file or an experiment")
        return self


class ImproverSection(SupervisedStepSection):
    """The supervised step: y_w is learnt as the better response after x and y_l."""

    steps: int | None = STEPS
    plain_share: float = Field(
        0.0, ge=0, le=1, description="share of the pairs of which x alone is answered by y_w as well"
    )


class CurriculumSection(Section):
    """The first phase of policy optimisation, on references from the data; else it is like `training`."""

    steps: int = Field(ge=1, description="optimiser steps of the first phase")
    references: Literal["rejected", "both"] = Field(
        "both", description="responses that are improved: the worse one of each pair, or both"
    )


class GapChecksSection(Section):
    """When the model of gaps is not trusted, and the consequence."""

    on_failure: Literal["stop", "warn"] = Field(
        "stop",
        description="whether a model that does not put the better response against the worse above the "
        "worse against the better keeps the policy from being trained",
    )


class ReferenceSection(Section):
    """How the policy samples the references of the second phase: improvements of the worse responses."""

    samples: int = Field(1, ge=1, description="samples a pair")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest sample in tokens")
    shard: int = Field(256, ge=1, description="pairs per shard; a killed run loses at most one shard")


class ImprovementEvaluationSection(DialogueEvaluationSection):
    """Held-out prompts, and how often the response to each is improved."""

    rounds: int = Field(3, ge=1, le=32, description="improvements of each held-out response, in turn")
    decided_in: str = Field(
        "improved_1",
        pattern=r"^(greedy|improved_[1-9][0-9]*)$",
        description="by which responses a checkpoint is compared: greedy, improved_1, improved_2, …",
    )
    shard: int = Field(256, ge=1, description="prompts per shard of improvements")

    @model_validator(mode="after")
    def _round_is_made(self) -> ImprovementEvaluationSection:
        if self.decided_in != "greedy" and int(self.decided_in.split("_")[1]) > self.rounds:
            raise ValueError(f"decided_in is {self.decided_in}, but only {self.rounds} rounds are made")
        return self


class WinRateSection(Section):
    """Which responses to held-out prompts are compared, and by which judges besides truth and model."""

    round: int = Field(1, ge=1, description="the round of PRESETS's improvements that competes")
    rounds: int = Field(
        4, ge=1, le=32, description="maximum number of rounds of Self-Refine and of Reflexion"
    )
    judges: list[ModelSection] = Field([], description="engines that judge as well, each as `model` is given")
    principles: int = Field(1, ge=1, description="principles by which a model judges each pair")
    shard: int = Field(512, ge=1, description="contests per shard; a killed run loses at most one shard")


class PitExperiment(DialogueExperiment):
    """Improvement learnt from preferences, without being told how (Wang et al., 2310.00898)."""

    lacking: ClassVar[Mapping[str, str]] = OF_PAIRS
    method: Literal["pit"] = Field(description="the self-improvement method")
    seeds: ComparisonSource
    evaluation: ImprovementEvaluationSection
    pool: ComparisonPoolSection
    preferences: PreferenceFilterSection
    improver: ImproverSection
    gap_reward_model: RewardModelSection
    gap_checks: GapChecksSection = GapChecksSection()
    curriculum: CurriculumSection
    references: ReferenceSection
    training: PolicyTrainingSection
    constitution: ConstitutionSection
    win_rates: WinRateSection = WinRateSection()

    @model_validator(mode="after")
    def _competing_round_is_made(self) -> PitExperiment:
        if self.win_rates.round > self.evaluation.rounds:
            raise ValueError(
                f"win_rates.round is {self.win_rates.round}, but evaluation.rounds makes "
                f"{self.evaluation.rounds}"
            )
        return self

    @model_validator(mode="after")
    def _gap_rewards(self) -> PitExperiment:
        if self.training.algorithm == "dpo" or self.training.reward != "reward_model":
            raise ValueError(
                "a policy is rewarded by the gap here: training.algorithm is grpo or rloo, and "
                "training.reward is reward_model"
            )
        return self

    @model_validator(mode="after")
    def _policy_writes_freely(self) -> PitExperiment:
        check_rollouts_are_free(self.prompts, "improvement")
        return self

    @property
    def taught_by(self) -> str | None:
        """The experiment whose preferences are the seeds of this one, if they come of one."""
        return self.seeds.experiment

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return self.evaluation.decided_in


PRESETS = {
    "paper": Preset(
        values={
            "constitution": {"file": "embedded"},
            "pool": {"comparisons": 160_000},
            "preferences": {"minimum_margin": 0.0},
            "improver": {"steps": 5_000, "learning_rate": 3e-5, "batch_size": 32},
            "gap_reward_model": {
                "steps": 10_000,
                "learning_rate": 3e-5,
                "batch_size": 64,
                "schedule": "constant",
            },
            "curriculum": {"steps": 5_000, "references": "both"},
            "references": {"samples": 1, "temperature": 1.0, "max_tokens": 512},
            "evaluation": {"max_tokens": 512, "rounds": 3, "decided_in": "improved_1"},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 5_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
                "kl_coefficient": 0.02,
                "group_size": 2,
                "temperature": 1.0,
                "max_tokens": 512,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "policy optimisation is RLOO; TRL has no PPO",
            "steps, batches and learning rates are not the paper's, which trains PaLM 2",
            "references of the second phase are the policy's improvements of y_l",
            "improvements of held-out responses are greedy; the paper samples them",
            "a checkpoint is taken over only if held-out questions show it better than the champion",
        ),
    ),
    "practical": Preset(
        values={
            "constitution": {"file": "embedded"},
            "pool": {"comparisons": 1_600},
            "preferences": {"minimum_margin": 0.0},
            "improver": {"steps": 20, "learning_rate": 1e-4, "batch_size": 32, "plain_share": 0.3},
            "gap_reward_model": {
                "steps": 125,
                "learning_rate": 5e-4,
                "batch_size": 64,
                "warmup_fraction": 0.1,
            },
            "curriculum": {"steps": 40, "references": "both"},
            "references": {"samples": 1, "temperature": 1.0, "max_tokens": 48},
            "evaluation": {"max_tokens": 48, "rounds": 3, "decided_in": "improved_1"},
            "training": {
                "start_from": "champion",
                "algorithm": "grpo",
                "steps": 40,
                "learning_rate": 1e-4,
                "batch_size": 32,
                "warmup_fraction": 0.1,
                "schedule": "constant",
                "kl_coefficient": 0.1,
                "group_size": 8,
                "max_tokens": 48,
                "save_every": 20,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "1,600 pairs",
            "of 30% of the pairs x alone is answered by y_w too, so that the model still responds",
            "policy optimisation is GRPO, not PPO, which TRL no longer has",
            "improvements of held-out responses are greedy; the paper samples them",
        ),
        trained=(
            "20 steps of 32 at 1e-4 for the improver, 125 of 64 comparisons for the gap reward",
            "40 and 40 steps of 32 responses at 1e-4, β = 0.1, for the two phases of the curriculum",
        ),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    **dialogues.EMBEDDED,
    ("seeds", "file"): embedded.DIALOGUE_COMPARISONS,
}
"""The shipped files that the word `embedded` means."""
