"""The settings of an experiment that curates its user's data, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import GeneratorSection, Section
from selfimprove_dagster.families.scored.settings import JudgeSection, ScoredExperiment
from selfimprove_dagster.families.tasks import settings as tasks
from selfimprove_dagster.families.tasks.settings import TaskExperiment, TaskFile
from selfimprove_dagster.families.voting.settings import WeightsSection
from selfimprove_dagster.filtering.registry import NamedStep
from selfimprove_dagster.filtering.steps import PERPLEXITY, RATING, VOTE


class ExampleFile(TaskFile):
    """A file of prompts or of finished examples: JSON Lines, a JSON array, CSV, Parquet, or one prompt per line."""

    instruction_field: str = Field("instruction", description="field with the prompt")
    input_field: str = Field("input", description="field with what the prompt is about, where it is separate")
    output_field: str = Field(
        "output",
        description="field with the answer; a line without one is a prompt, any other a finished example",
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="rows to read, as `from:to`, counted from 0, excluding `to`"
    )


class PoolSection(Section):
    """What an iteration takes of the file."""

    examples: int = Field(
        ge=1, description="prompts and finished examples in one iteration, unused ones first"
    )


class GenerationSection(GeneratorSection):
    """Whether answers are generated, and how."""

    samples: int = Field(
        ge=0, le=1024, description="answers sampled per question; 0 to judge given answers only"
    )
    questions: Literal["unanswered", "all"] = Field(
        "unanswered",
        description="whether only prompts are answered, or finished examples too, whose answers then compete with the "
        "given ones",
    )
    temperature: float = Field(gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest answer in tokens")
    shard: int = Field(256, ge=1, description="answers per shard; a killed run loses at most one shard")


class CurateExperiment(TaskExperiment, ScoredExperiment):
    """A file of prompts or of finished examples, judged by filters."""

    provided: ClassVar[frozenset[str]] = PERPLEXITY | RATING | VOTE
    method: Literal["curate"] = Field(description="the self-improvement method")
    seeds: ExampleFile
    pool: PoolSection
    generation: GenerationSection
    judge: JudgeSection = JudgeSection()  # hashed in any case, unlike elsewhere
    voting: WeightsSection = Field(
        WeightsSection(),
        exclude_if=lambda section: not section.weights,
        description="what an answer's vote counts, for the filter `self_consistency`",
    )

    @property
    def measures_perplexity(self) -> bool:
        """Return whether a filter, or the vote, needs perplexities."""
        weighed = self.voting.weights == "probability" and self.votes_by is not None
        return weighed or super().measures_perplexity

    @property
    def votes_by(self) -> str | None:
        """Return what votes, `stated` or `text`; None if no filter needs a vote."""
        steps = [one.step for one in self.steps if one.step.reads & VOTE]
        return getattr(steps[0], "answer", "stated") if steps else None

    @model_validator(mode="after")
    def _weights_of_a_vote(self) -> CurateExperiment:
        if self.voting.weights and self.votes_by is None:
            raise ValueError(
                "voting.weights: no filter reads a vote; list self_consistency, or remove voting"
            )
        return self

    def refuses(self, step: NamedStep) -> str:
        """Return why a filter cannot be combined with the other settings; empty if it can."""
        if step.step.reads & VOTE:
            if self.generation.samples == 0:
                return "a vote needs several answers per question: set generation.samples above 0"
            if getattr(step.step, "answer", "stated") != self.votes_by:
                return "one vote is taken per question: all filters must read answers alike (`answer`)"
        return ""


PRESETS = {
    "paper": Preset(
        values={
            "pool": {"examples": 52_002},
            "generation": {"samples": 0, "temperature": 1.0, "max_tokens": 512},
            "judge": {"question": "How accurate is the response?"},
            "filters": [{"annotation": {"at_least": 9}}],
            "evaluation": {"max_tokens": 512},
            "training": {
                "start_from": "base",
                "steps": 216,
                "learning_rate": 2e-5,
                "batch_size": 128,
                "schedule": "cosine",
                "warmup_fraction": 0.03,
            },
        },
        deviations=(
            "the rating is the expected one from 1 to 10, read off probabilities, and at least 9: the paper's judge "
            "writes a number from 0 to 5, at least 4.5",
            "the judge is the model itself where judge.model names no other: the paper's is ChatGPT",
            "three epochs are given as steps: 9,229 examples in batches of 128",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "pool": {"examples": 1_000},
            "generation": {"samples": 4, "temperature": 0.8, "max_tokens": 256},
            "filters": ["duplicates", {"novelty": {"at_most": 0.9}}],
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "champion",
                "steps": 120,
                "learning_rate": 2e-5,
                "batch_size": 16,
                "schedule": "cosine",
            },
        },
        deviations=(
            "prompts are answered four times each at temperature 0.8; the paper's examples are all finished",
            "duplicates and near copies are dropped; a judge rates only where the filter annotation is listed",
            "training goes on from the champion",
        ),
        trained=("120 steps of 16 at 2e-5",),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    **tasks.EMBEDDED,
    ("seeds", "file"): embedded.TASK_SEEDS,
}
"""The shipped files that the word `embedded` means."""
