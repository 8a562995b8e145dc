"""The settings of an experiment with RLAIF, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import Section
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import ConstitutionSection, PromptFile, ResponseSection
from selfimprove_dagster.families.judging.settings import JudgeSection, SelfKnowledgeSection
from selfimprove_dagster.families.preferences.settings import (
    _FILE,
    _ON_POLICY,
    _SMALL_POLICY,
    _SMALL_REWARD,
    _SMALL_STEPS,
    PreferenceExperiment,
)


class JudgeChecksSection(Section):
    """When the judge is not trusted: bounds of the checks, and the consequence."""

    on_failure: Literal["stop", "warn"] = Field(
        "stop", description="whether a judge that fails a check keeps its labels from being trained on"
    )
    least_order_agreement: float = Field(
        0.6, ge=0, le=1, description="minimum share of pairs judged alike in both orders"
    )
    most_position_bias: float = Field(
        0.15, ge=0, le=0.5, description="by how much the share of (A) may be off one half"
    )
    least_self_agreement: float = Field(
        0.6, ge=0, le=1, description="minimum share of pairs judged alike with another seed"
    )
    most_length_bias: float = Field(
        0.25,
        ge=0,
        le=0.5,
        description="by how much the share of longer responses preferred may be off one half",
    )
    most_undecided: float = Field(
        0.6, ge=0, le=1, description="maximum share of labels between 0.45 and 0.55, which are uninformative"
    )
    most_calibration_error: float = Field(
        0.25, ge=0, le=1, description="maximum expected calibration error against the labels of reviewers"
    )


class ReviewSection(Section):
    """What people are asked to look at."""

    count: int = Field(50, ge=0, description="pairs in an iteration's review queue, the least certain first")


class RlaifExperiment(PreferenceExperiment):
    """Feedback of a model in place of people's (Lee et al., 2309.00267; Bai et al., 2212.08073)."""

    method: Literal["rlaif"] = Field(description="the self-improvement method")
    seeds: PromptFile
    constitution: ConstitutionSection
    responses: ResponseSection
    judge: JudgeSection
    judge_checks: JudgeChecksSection = JudgeChecksSection()
    review: ReviewSection = ReviewSection()
    self_knowledge: SelfKnowledgeSection = SelfKnowledgeSection()


PRESETS = {
    "paper": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 92_000, "temperature": 1.0, "max_tokens": 256},
            "judge": {"principles": 1, "both_orders": True, "reasoning": True, "clamp": 0.4},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": {
                "steps": 2_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
            },
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 5_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
                "kl_coefficient": 0.05,
                "group_size": 2,
                "temperature": 0.9,
                "max_tokens": 256,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "policy optimisation is RLOO; Lee et al. use REINFORCE with a learnt baseline",
            "a principle is drawn for each pair (Bai et al.); Lee et al. have one preamble",
            "probabilities are clamped after reasoning (Bai et al.); Lee et al. do not clamp",
            "no worked examples before a comparison",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 500, "temperature": 1.0, "max_tokens": 48},
            "judge": {"principles": 2, "both_orders": True},
            "preferences": {"minimum_margin": 0.1},
            "reward_model": _SMALL_REWARD,
            "evaluation": {"max_tokens": 48},
            "training": _SMALL_POLICY,
            "budget": {"iterations": 1},
        },
        deviations=(
            "500 prompts, two principles a pair, no chain of thought; pairs with |2p − 1| < 0.1 left out",
            _ON_POLICY,
        ),
        trained=(_SMALL_STEPS,),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {**dialogues.EMBEDDED, ("seeds", "file"): embedded.DIALOGUE_PROMPTS}
"""The shipped files that the word `embedded` means."""
