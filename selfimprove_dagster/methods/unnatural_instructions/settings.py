"""The settings of an experiment with Unnatural Instructions, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import (
    GeneratorSection,
    Section,
    TeacherSection,
)
from selfimprove_dagster.families.scored.settings import ScoredExperiment
from selfimprove_dagster.families.tasks import settings as tasks
from selfimprove_dagster.families.tasks.settings import (
    _TASK_TRAINING_PAPER,
    _TASK_TRAINING_PRACTICAL,
    TaskExperiment,
)


class ElicitationSection(GeneratorSection, TeacherSection):
    """How a new task is elicited: three demonstrations, the model writes the fourth."""

    prompts: int = Field(ge=1, description="prompts in one iteration")
    demonstrations: int = Field(3, ge=1, description="demonstrations per prompt")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest task in tokens")
    shard: int = Field(256, ge=1, description="prompts per shard; a killed run loses at most one shard")


class OutputSection(Section):
    """How the elicited tasks are answered: greedily."""

    max_tokens: int = Field(ge=1, description="longest output in tokens")


class ParaphraseSection(Section):
    """Other words for the same instruction."""

    most: int = Field(2, ge=0, description="paraphrases of each instruction; 0 leaves the stage empty")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    max_tokens: int = Field(ge=1, description="longest paraphrase in tokens")


class UnnaturalInstructionsExperiment(TaskExperiment, ScoredExperiment):
    """Three demonstrations elicit a fourth (Honovich et al., 2212.09689)."""

    scores = True
    method: Literal["unnatural_instructions"] = Field(description="the self-improvement method")
    generation: ElicitationSection
    outputs: OutputSection
    paraphrases: ParaphraseSection


PRESETS = {
    "paper": Preset(
        values={
            "generation": {"prompts": 5_000, "demonstrations": 3, "top_p": 0.99, "max_tokens": 512},
            "outputs": {"max_tokens": 512},
            "paraphrases": {"most": 2, "max_tokens": 128},
            "evaluation": {"max_tokens": 512},
            "training": _TASK_TRAINING_PAPER,
            "budget": {"iterations": 14},
        },
        deviations=(
            "5,000 prompts an iteration, so that fourteen make about the paper's 68,478 core examples",
            "paraphrases follow four worked ones of our own, sampled at temperature 1",
            "constraints that say something stand behind the instruction in training prompts",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "generation": {"prompts": 1_500, "demonstrations": 3, "top_p": 0.99, "max_tokens": 96},
            "outputs": {"max_tokens": 40},
            "paraphrases": {"most": 1, "max_tokens": 40},
            "evaluation": {"max_tokens": 40},
            "training": _TASK_TRAINING_PRACTICAL,
            "budget": {"iterations": 2},
        },
        deviations=("1,500 prompts an iteration and one paraphrase, not two",),
        trained=("160 steps of 32 at 5e-4",),
    ),
}


PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts `example`, `output` and `paraphrase`."""


EMBEDDED: dict[tuple[str, ...], Path] = {**tasks.EMBEDDED, ("seeds", "file"): embedded.UNNATURAL_SEEDS}
"""The shipped files that the word `embedded` means."""
