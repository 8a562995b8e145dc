"""The settings of an experiment with self-consistency, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.base import ReadsAnswers
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import (
    FilePath,
    Section,
    TeacherSection,
    TrainingSection,
    Whole,
)
from selfimprove_dagster.families.scored.settings import ScoredExperiment
from selfimprove_dagster.families.voting.settings import WeightsSection
from selfimprove_dagster.filtering.steps import VOTE
from selfimprove_dagster.seeds.settings import HeldOutQuestionFile, QuestionFile

PromptFormat = Literal["few_shot_cot", "few_shot_direct", "zero_shot_cot", "zero_shot_direct"]


class EvaluationSection(HeldOutQuestionFile):
    """Held-out questions with their answers, asked greedily and by vote. Used to measure, never to train."""

    majority_questions: int = Field(
        400, ge=0, description="on how many questions the majority vote is measured too"
    )
    majority_paths: int = Field(16, ge=1, description="paths per question for that vote")


class AdaptiveSection(Section):
    """Stop drawing for a question once its vote is decided (Aggarwal et al., 2305.11860)."""

    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="probability that the leading answer is the more likely of the first two",
    )
    least_gain: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="stop too where drawing on would raise that probability by no more, as between equally "
        "likely answers; none is the paper's rule",
    )
    step: int = Field(4, ge=1, description="paths sampled per question before its vote is checked again")


class SamplingSection(TeacherSection):
    """How reasoning paths are sampled."""

    questions: int = Field(ge=1, description="questions in one iteration")
    paths: int = Field(ge=1, le=1024, description="paths per question (m)")
    temperature: float = Field(gt=0, le=5, description="sampling temperature with the base model")
    temperature_improved: float = Field(gt=0, le=5, description="the same with a promoted checkpoint")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    top_k: int = Field(0, ge=0, description="sample from the k most likely tokens only; 0 switches it off")
    max_tokens: int = Field(ge=1, description="longest path in tokens")
    prompt_format: Literal["few_shot_cot", "zero_shot_cot"] = Field(description="prompt that paths follow")
    stop: list[str] = Field(default_factory=lambda: ["\n\nQ:"], description="strings that end a path")
    adaptive: AdaptiveSection | None = Field(
        None, description="stop drawing once a vote is decided; none draws all paths of every question"
    )
    shard_questions: int = Field(
        128, ge=1, description="questions per shard; a killed run loses at most one shard"
    )


class DemonstrationSection(Section):
    """Worked examples for few-shot prompts."""

    file: FilePath = Field("embedded", description="JSON Lines of question, reasoning, answer; or `embedded`")
    count: int = Field(ge=0, le=64, description="demonstrations in a few-shot prompt")


class VotingSection(WeightsSection):
    """How the answer of a question is chosen among its paths."""

    rule: Literal["majority", "random_path"] = Field(
        default="majority",
        description="`random_path` takes one path's answer at random: the control of an ablation",
    )

    @model_validator(mode="after")
    def _weights_of_a_majority(self) -> VotingSection:
        if self.weights and self.rule != "majority":
            raise ValueError("voting.weights are of a majority: remove them, or set voting.rule to majority")
        return self


class FilterSection(Section):
    """Which paths become training examples."""

    minimum_vote_share: float = Field(ge=0, le=1, description="minimum share of all m paths for the answer")
    minimum_votes: int = Field(1, ge=1, description="minimum number of valid votes on the question")
    minimum_winning_votes: int = Field(1, ge=1, description="minimum number of votes for the voted answer")
    drop_ties: bool = Field(
        False, description="leave out questions on which two answers share the most votes"
    )
    maximum_perplexity: float | None = Field(
        None, gt=1, description="highest perplexity under the generator; none when left empty"
    )
    maximum_paths: int | None = Field(
        ge=1, description="maximum number of examples per question; null for all"
    )
    drop_duplicates: bool = Field(True, description="keep one of several equal paths of a question")


class PathTrainingSection(TrainingSection):
    """Supervised fine-tuning on reasoning paths, in several prompt formats."""

    formats: Annotated[dict[PromptFormat, Annotated[float, Field(ge=0)]], Whole()] = Field(
        description="share of each training format; direct formats train on the voted answer"
    )

    @field_validator("formats")
    @classmethod
    def _some_format(cls, shares: dict[str, float]) -> dict[str, float]:
        if sum(shares.values()) <= 0:
            raise ValueError("at least one format needs a share above 0")
        return shares

    @property
    def format_shares(self) -> dict[str, float]:
        """`formats` under plain names, those with a share of 0 left out."""
        return {str(name): share for name, share in self.formats.items() if share > 0}


class LmsiExperiment(ScoredExperiment, ReadsAnswers):
    """Self-consistency as a teacher (Huang et al., 2210.11610)."""

    lacking: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            VOTE,
            "the rules of the method are this filter: set filter.minimum_vote_share and filter.drop_ties",
        )
    }
    method: Literal["lmsi"] = Field("lmsi", description="the self-improvement method")
    seeds: QuestionFile
    evaluation: EvaluationSection
    demonstrations: DemonstrationSection
    sampling: SamplingSection
    voting: VotingSection = VotingSection()
    filter: FilterSection
    training: PathTrainingSection

    @property
    def measures_perplexity(self) -> bool:
        """Return False: perplexities follow from the log-probabilities of sampling, whatever filters read."""
        return False

    @model_validator(mode="after")
    def _probabilities_where_needed(self) -> LmsiExperiment:
        teacher = self.teacher
        if teacher is not None and teacher.is_provided and self.filter.maximum_perplexity is not None:
            raise ValueError(
                "filter.maximum_perplexity needs the probabilities of all paths, which a provider (sampling.model) may "
                "not give: leave it out, or take a generator with weights"
            )
        return self

    @model_validator(mode="after")
    def _demonstrations_where_needed(self) -> LmsiExperiment:
        few_shot = self.sampling.prompt_format == "few_shot_cot" or any(
            share > 0 for name, share in self.training.formats.items() if name.startswith("few_shot")
        )
        if few_shot and self.demonstrations.count == 0:
            raise ValueError("few-shot formats are used, so demonstrations.count must be at least 1")
        return self


PRESETS = {
    "paper": Preset(
        values={
            "demonstrations": {"file": "embedded", "count": 8},
            "sampling": {
                "questions": 7_473,
                "paths": 32,
                "temperature": 0.7,
                "temperature_improved": 1.2,
                "max_tokens": 256,
                "prompt_format": "few_shot_cot",
            },
            "filter": {"minimum_vote_share": 0.0, "maximum_paths": None, "drop_duplicates": False},
            "training": {
                "start_from": "base",
                "steps": 10_000,
                "learning_rate": 5e-5,
                "batch_size": 32,
                "schedule": "constant",
                "formats": {
                    "few_shot_cot": 1.0,
                    "few_shot_direct": 1.0,
                    "zero_shot_cot": 1.0,
                    "zero_shot_direct": 1.0,
                },
            },
        },
        deviations=(
            "the learning rate is constant: the paper names no schedule",
            "7,473 questions an iteration: all of GSM8K's training questions",
            "paths that the token limit cut off are left out, and text after the answer is cut",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "demonstrations": {"file": "embedded", "count": 2},
            "sampling": {
                "questions": 800,
                "paths": 16,
                "temperature": 0.8,
                "temperature_improved": 0.8,
                "max_tokens": 96,
                "prompt_format": "zero_shot_cot",
            },
            "filter": {
                "minimum_vote_share": 0.25,
                "minimum_winning_votes": 2,
                "drop_ties": True,
                "maximum_paths": 4,
                "drop_duplicates": True,
            },
            "training": {
                "start_from": "champion",
                "steps": 120,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "schedule": "cosine",
                "formats": {
                    "few_shot_cot": 0.1,
                    "few_shot_direct": 0.05,
                    "zero_shot_cot": 0.75,
                    "zero_shot_direct": 0.1,
                },
            },
        },
        deviations=(
            "800 questions an iteration, 16 paths each at temperature 0.8, not 32 at 0.7 (1.2 once improved)",
            "a vote share of at least 0.25 and at most 4 distinct paths a question, not every agreeing path",
            "a tie does not pass, and the voted answer needs two votes",
            "paths that the token limit cut off are left out, and text after the answer is cut",
            "training goes on from the champion, not from the base model",
        ),
        trained=(
            "paths follow a zero-shot prompt, not eight demonstrations: small models read those better",
            "120 steps at 5e-4 with a cosine schedule, not 10,000 at 5e-5",
            "three quarters of the examples are zero-shot reasoning, not a quarter of each format",
        ),
        sized={
            "demonstrations": {"count": 8},
            "sampling": {"prompt_format": "few_shot_cot"},
            "training": {
                "formats": {
                    "few_shot_cot": 1.0,
                    "few_shot_direct": 1.0,
                    "zero_shot_cot": 1.0,
                    "zero_shot_direct": 1.0,
                }
            },
        },
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.BASE_MODEL,
    ("sampling", "model", "path"): embedded.BASE_MODEL,
    ("judge", "model", "path"): embedded.DIALOGUE_MODEL,
    ("seeds", "file"): embedded.SEEDS,
    ("evaluation", "file"): embedded.EVALUATION,
    ("demonstrations", "file"): embedded.DEMONSTRATIONS,
}
"""The shipped files that the word `embedded` means."""
