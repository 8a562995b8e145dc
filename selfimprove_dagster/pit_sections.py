"""The sections of an experiment of PIT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from selfimprove_dagster.judge_sections import (
    ComparisonFile,
    DialogueEvaluationSection,
    SupervisedStepSection,
)
from selfimprove_dagster.sections import ModelSection, Section


class ComparisonSource(ComparisonFile):
    """Where preferences come from: a file of comparisons, or the dataset of another experiment."""

    file: str = Field(
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

    steps: int = Field(ge=1, description="optimiser steps")
    plain_share: float = Field(
        0.0, ge=0, le=1, description="share of the pairs of which x alone is answered by y_w as well"
    )


class CurriculumSection(Section):
    """The first phase of policy optimisation, on references from the data; else it is like `training`."""

    steps: int = Field(ge=1, description="optimiser steps of the first phase")
    references: Literal["rejected", "both"] = Field(
        "both", description="what is improved: the worse response of each pair, or each of both"
    )


class GapChecksSection(Section):
    """When the model of gaps is not trusted, and what follows."""

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
    shard: int = Field(256, ge=1, description="pairs a shard: what a killed run loses at most")


class ImprovementEvaluationSection(DialogueEvaluationSection):
    """Held-out prompts, and how often the response to each is improved."""

    rounds: int = Field(3, ge=1, le=32, description="improvements of each held-out response, in turn")
    decided_in: str = Field(
        "improved_1",
        pattern=r"^(greedy|improved_[1-9][0-9]*)$",
        description="by which responses a checkpoint is compared: greedy, improved_1, improved_2, …",
    )
    shard: int = Field(256, ge=1, description="prompts a shard of improvements")

    @model_validator(mode="after")
    def _round_is_made(self) -> ImprovementEvaluationSection:
        if self.decided_in != "greedy" and int(self.decided_in.split("_")[1]) > self.rounds:
            raise ValueError(f"decided_in is {self.decided_in}, but only {self.rounds} rounds are made")
        return self


class WinRateSection(Section):
    """Who is set against whom on held-out prompts, and who judges besides the truth and the model itself."""

    round: int = Field(1, ge=1, description="the round of PIT's improvements that competes")
    rounds: int = Field(4, ge=1, le=32, description="most rounds of Self-Refine and of Reflexion")
    judges: list[ModelSection] = Field([], description="engines that judge as well, each as `model` is given")
    principles: int = Field(1, ge=1, description="principles by which a model judges each pair")
    shard: int = Field(512, ge=1, description="contests a shard: what a killed run loses at most")
