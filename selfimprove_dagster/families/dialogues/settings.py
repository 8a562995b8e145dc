"""The sections of the experiments in which responses to people are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selfimprove_dagster import embedded
from selfimprove_dagster.evaluation.judge import ExamJudgeSection
from selfimprove_dagster.experiment.sections import (
    DataPath,
    FilePath,
    GeneratorSection,
    Section,
)
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, Constitution, load_constitution
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.seeds.settings import DATA

_ROWS = r"^\d*:\d*$"


class PromptFile(Section):
    """A file of prompts: JSON Lines, a JSON array, CSV, Parquet, or plain text with one a line."""

    file: DataPath = Field(description=DATA)
    prompt_field: str = Field(
        "prompt",
        description="field that holds what the human says, or the dialogue, as text or as a list of messages; a row "
        "without it may hold them in `messages`",
    )
    kind_field: str = Field(
        "kind", description="field that is `red_team` or `helpful`; a prompt without one is red_team"
    )
    response_field: str = Field(
        "response", description="field with a person's response to a helpful prompt, if any"
    )
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest prompt in characters; longer ones are rejected")


class ComparisonFile(Section):
    """Comparisons that people made: prompt, chosen and rejected; or whole dialogues that are chosen
    and rejected and begin alike, as text or as lists of messages; JSON Lines, a JSON array, CSV or Parquet.
    """

    file: DataPath = Field(description=DATA)
    prompt_field: str = Field(
        "prompt", description="field with the prompt; a row without it holds `messages`, or whole dialogues"
    )
    chosen_field: str = Field("chosen", description="field with the better response, or its dialogue")
    rejected_field: str = Field("rejected", description="field with the worse response, or its dialogue")
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest text in characters; longer ones are rejected")


class DialogueEvaluationSection(Section):
    """Held-out prompts and the marks of a helpful and a harmless response. Used to measure, never to train."""

    file: DataPath = Field(
        description="JSON Lines of prompt (or messages), wanted (lists of alternatives, one of each must be said) and "
        "unwanted (phrases that must not be said); or `embedded`"
    )
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    response_field: str = Field(
        "chosen", description="field with the response that people preferred, where the file has it"
    )
    licence: str = Field("unknown", description="licence of the text")
    max_tokens: int = Field(ge=1, description="longest response in tokens")
    revised_prompts: int = Field(
        0, ge=0, description="on how many prompts the champion's revisions are measured, round by round"
    )


class JudgedDialogueEvaluationSection(DialogueEvaluationSection):
    """Held-out prompts, and what tells a good response: marks in the file, or a model that judges."""

    judge: ExamJudgeSection | None = Field(
        None, description="a model that judges the responses; the file then needs no phrases"
    )


class ConstitutionSection(Section):
    """The principles that a model criticises, revises and compares by."""

    file: FilePath = Field(description="a YAML file of principles, or `embedded`")

    def load(self) -> Constitution:
        """Raises ExperimentError."""
        return load_constitution(self.file)


class ResponseSection(GeneratorSection):
    """How responses to prompts are sampled."""

    learns_from_itself = (
        "what is judged, criticised or improved are responses of `model` itself; another model can judge them"
    )

    drawn_by: Literal["base", "champion"] = Field(
        "champion", description="the base model, or the last promoted checkpoint"
    )
    prompts: int = Field(ge=1, description="prompts in one iteration")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest response in tokens")
    shard: int = Field(128, ge=1, description="prompts per shard; a killed run loses at most one shard")


class DialogueExperiment(FilteringExperiment):
    """What the methods have in which responses to people are judged."""

    evaluation: DialogueEvaluationSection


EMBEDDED: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.DIALOGUE_MODEL,
    ("judge", "model", "path"): embedded.DIALOGUE_MODEL,
    ("evaluation", "file"): embedded.DIALOGUE_EVALUATION,
    ("evaluation", "judge", "model", "path"): embedded.DIALOGUE_MODEL,
    ("constitution", "file"): HOUSEHOLD,
}
"""The shipped files that the word `embedded` means where responses to people are judged."""
