"""The sections of experiments whose model writes tasks: Self-Instruct and Unnatural Instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selfimprove_dagster import embedded
from selfimprove_dagster.evaluation.judge import ExamJudgeSection
from selfimprove_dagster.experiment.sections import DataPath, FilePath, Section
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.filters.tokenisers import TokeniserName
from selfimprove_dagster.seeds.settings import DATA


class TaskFile(Section):
    """A file of seed tasks, one JSON object a line."""

    file: DataPath = Field(description=DATA)
    banned: FilePath | None = Field(
        None, description="file of instructions that must go, one a line, or JSON Lines with `by` and `why`"
    )
    licence: str = Field("unknown", description="licence of the text, kept with every record")


class TaskEvaluationSection(Section):
    """Held-out tasks with their outputs. Used to measure, never to train."""

    file: DataPath = Field(
        description="JSON Lines of instruction, input, output, or with one of `instances`; or `embedded`"
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    licence: str = Field("unknown", description="licence of the text")
    measure: Literal["exact", "rouge_l"] = Field(
        "exact", description="an output is correct if it is the same, or near enough by ROUGE-L"
    )
    least_rouge_l: float = Field(0.7, gt=0, le=1, description="how near, for `measure: rouge_l`")
    tokeniser: TokeniserName = Field(
        "rouge",
        exclude_if=lambda name: name == "rouge",
        description="what ROUGE-L compares: `rouge`, runs of ASCII letters and digits; `words` or `characters` for "
        "outputs in other languages",
    )
    max_tokens: int = Field(ge=1, description="longest output in tokens")
    judge: ExamJudgeSection | None = Field(
        None, description="a model that judges the outputs; the file then needs none"
    )
    stop: list[str] | None = Field(
        None,
        description="strings that end an output; by default a blank line after text prompts, and none in conversations",
    )


class TaskExperiment(FilteringExperiment):
    """What the methods have whose model writes tasks."""

    seeds: TaskFile
    evaluation: TaskEvaluationSection


class ShotSection(Section):
    """The worked examples of a prompt."""

    shots: int = Field(ge=1, le=31, description="worked examples in the prompt")
    shots_from: Literal["shipped", "seeds"] = Field(
        description="`shipped`: the project's own; `seeds`: seed tasks at random"
    )

    @property
    def ships(self) -> bool:
        return self.shots_from == "shipped"


_TASK_TRAINING_PAPER = {
    "start_from": "base",
    "steps": 1_640,
    "learning_rate": 1e-5,
    "batch_size": 100,
    "schedule": "linear",
    "weight_decay": 0.01,
}


_TASK_TRAINING_PRACTICAL = {
    "start_from": "base",
    "steps": 160,
    "learning_rate": 5e-4,
    "batch_size": 32,
    "schedule": "cosine",
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.TASK_MODEL,
    ("generation", "model", "path"): embedded.TASK_MODEL,
    ("evaluation", "file"): embedded.TASK_EVALUATION,
    ("evaluation", "judge", "model", "path"): embedded.DIALOGUE_MODEL,
    ("judge", "model", "path"): embedded.DIALOGUE_MODEL,
}
"""The shipped files that the word `embedded` means where the model writes tasks."""
