"""The settings of an experiment with Constitutional AI, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import (
    Section,
)
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import (
    ConstitutionSection,
    DialogueExperiment,
    JudgedDialogueEvaluationSection,
    PromptFile,
    ResponseSection,
)
from selfimprove_dagster.families.preferences.settings import (
    _FILE,
)
from selfimprove_dagster.families.scored.settings import ScoredExperiment


class RevisionSection(Section):
    """How responses are criticised and revised."""

    rounds: int = Field(4, ge=1, le=32, description="critiques and revisions of each response, in turn")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature of both")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest critique, and longest revision, in tokens")
    shard: int = Field(128, ge=1, description="prompts per shard; a killed run loses at most one shard")


class RevisionFilterSection(Section):
    """Which revisions and helpful responses are trained on."""

    round: int | None = Field(
        None, ge=0, description="train on the revisions of this round (0: first responses); none for the last"
    )
    helpful_share: float = Field(
        0.5, ge=0, lt=1, description="maximum share of helpful responses in the dataset, sampled at random"
    )
    human_responses: bool = Field(
        True, description="helpful prompts are answered by people where the file has it, not by the model"
    )


class ConstitutionalExperiment(DialogueExperiment, ScoredExperiment):
    """A model that criticises and revises itself by principles (Bai et al., 2212.08073, section 3)."""

    method: Literal["constitutional"] = Field(description="the self-improvement method")
    seeds: PromptFile
    evaluation: JudgedDialogueEvaluationSection
    constitution: ConstitutionSection
    responses: ResponseSection
    revisions: RevisionSection
    filter: RevisionFilterSection

    @model_validator(mode="after")
    def _round_is_made(self) -> ConstitutionalExperiment:
        if self.filter.round is not None and self.filter.round > self.revisions.rounds:
            raise ValueError(
                f"filter.round is {self.filter.round}, but revisions.rounds makes {self.revisions.rounds}"
            )
        return self


PRESETS = {
    "paper": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 182_831, "temperature": 1.0, "max_tokens": 256},
            "revisions": {"rounds": 4, "temperature": 1.0, "max_tokens": 256},
            "filter": {"round": None, "helpful_share": 0.42},
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "base",
                "steps": 310,
                "learning_rate": 1e-5,
                "batch_size": 1024,
                "schedule": "constant",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "the revisions of the last round are trained on; the paper trains on those of all rounds",
            "requests follow the constitution's own words, without few-shot examples of critiques",
            "one epoch is given as steps: 318,000 examples in batches of 1,024",
            "the learning rate is 1e-5; the paper states it as half of that of pretraining",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 800, "temperature": 0.8, "max_tokens": 48},
            "revisions": {"rounds": 4, "temperature": 0.7, "max_tokens": 48},
            "filter": {"round": None, "helpful_share": 0.5},
            "evaluation": {"max_tokens": 48, "revised_prompts": 200},
            "training": {
                "start_from": "base",
                "steps": 120,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "schedule": "cosine",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "800 prompts; responses at temperature 0.8, critiques and revisions at 0.7",
            "the revisions of the last round are trained on; the paper trains on those of all rounds",
            "requests follow the constitution's own words, without few-shot examples of critiques",
        ),
        trained=("120 steps of 32 at 5e-4 with a cosine schedule",),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {**dialogues.EMBEDDED, ("seeds", "file"): embedded.DIALOGUE_PROMPTS}
"""The shipped files that the word `embedded` means."""
