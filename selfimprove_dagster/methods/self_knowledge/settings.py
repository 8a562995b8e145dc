"""The settings of an experiment with self-knowledge, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.base import ReadsAnswers
from selfimprove_dagster.experiment.naming import NAME_PATTERN
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import (
    DataPath,
    Section,
)
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import (
    ConstitutionSection,
    DialogueEvaluationSection,
)
from selfimprove_dagster.families.judging.settings import PickedBy
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.seeds.settings import HeldOutQuestionFile


class KnowledgeTask(Section):
    """A task on which the model is measured: a file of held-out questions, never trained on."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="by which results name it")
    kind: Literal["questions", "dialogues"] = Field(
        description="`questions` have a true answer; `dialogues` are prompts with what a good response says"
    )
    file: DataPath = Field(
        description="path of the file, or `embedded`; of questions as lmsi's evaluation.file, of dialogues "
        "as rlaif's"
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0"
    )
    question_field: str | list[str] = Field(
        "question", description="of questions: the field that holds them; several are joined by a space"
    )
    answer_field: str = Field("answer", description="of questions: the field that holds the true answer")
    licence: str = Field("unknown", description="licence of the text, kept with every record")

    @property
    def as_questions(self) -> HeldOutQuestionFile:
        """The file as lmsi's exam reads it."""
        read = {"file", "rows", "question_field", "answer_field", "licence"}
        return HeldOutQuestionFile(**self.model_dump(include=read))

    @property
    def as_dialogues(self) -> DialogueEvaluationSection:
        """The file as the exam of dialogues reads it."""
        return DialogueEvaluationSection(**self.model_dump(include={"file", "rows", "licence"}), max_tokens=1)


class CandidateSection(Section):
    """How the candidates are sampled among which the model then picks."""

    count: int = Field(ge=2, le=26, description="candidates per question")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest candidate in tokens")
    prompt_format: Literal["zero_shot_cot", "zero_shot_direct"] = Field(
        "zero_shot_cot", description="prompt that answers to questions follow"
    )
    stop: list[str] | None = Field(
        None,
        description="strings that end a candidate; none for those of the tasks' kinds (in text a blank line ends "
        "a response, the next question an answer)",
    )
    shard: int = Field(128, ge=1, description="questions per shard; a killed run loses at most one shard")


class DiscriminationSection(Section):
    """How the model picks among its candidates."""

    by: tuple[PickedBy, ...] = Field(
        ("probability", "text"),
        min_length=1,
        description="off the probabilities of the options, or by reading the option that it writes",
    )
    shuffles: int = Field(ge=1, description="orders in which the candidates are shown; the pick is over all")
    principles: int = Field(
        1, ge=1, description="of dialogues: principles by which each choice is asked, as judge.principles"
    )
    max_tokens: int = Field(8, ge=1, description="longest text in which the option is read")
    shard: int = Field(128, ge=1, description="questions per shard; a killed run loses at most one shard")


_TASK_FILES = {"questions": embedded.EVALUATION, "dialogues": embedded.DIALOGUE_EVALUATION}
"""What `embedded` stands for as the file of a task, by its kind."""


class SelfKnowledgeExperiment(ReadsAnswers):
    """Whether a model can judge itself: generation against discrimination (Jiang et al., 2404.04298)."""

    scores = "options"
    ends_with = "discrimination_gap"
    measured_in = "of"
    method: Literal["self_knowledge"] = Field(description="the self-improvement method")
    of: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="the experiment whose current champion is measured, in place of model.path",
    )
    tasks: tuple[KnowledgeTask, ...] = Field(min_length=1, description="what the model is measured on")
    constitution: ConstitutionSection
    candidates: CandidateSection
    discrimination: DiscriminationSection

    @classmethod
    def prepare(cls, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Settle what `embedded` stands for: it depends on the kind of each task, and for the model on all."""
        given = values.get("tasks")
        if not isinstance(given, list):
            return values
        tasks = [task for task in given if isinstance(task, dict)]
        for task in tasks:
            if task.get("file") == "embedded" and (file := _TASK_FILES.get(str(task.get("kind")))):
                task["file"] = str(file)
        model = values.get("model")
        only_questions = tasks and all(task.get("kind") == "questions" for task in tasks)
        if only_questions and isinstance(model, dict) and model.get("path") == "embedded":
            model["path"] = str(embedded.BASE_MODEL)
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> SelfKnowledgeExperiment:
        names = [task.name for task in self.tasks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tasks must have different names; twice: {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _candidates_are_free(self) -> SelfKnowledgeExperiment:
        for name in ("response", self.candidates.prompt_format):
            if name in self.prompts.structure:
                raise ValueError(
                    f"prompts.structure.{name}: candidates are sampled freely, and those of all kinds of tasks alike; "
                    "remove it, or set it for a prompt with which the model picks"
                )
        return self

    def stops(self, prompts: Prompts) -> list[str]:
        """Return the strings that end a candidate.

        Unless the settings name them these are those of the prompts, and in text also the next question.
        """
        if self.candidates.stop is not None:
            return self.candidates.stop
        kinds = {task.kind for task in self.tasks}
        found = [*prompts.stops("response")] if "dialogues" in kinds else []
        if "questions" in kinds:
            next_question = () if prompts.prompting.chat else ("\n\nQ:",)
            found += prompts.stops(self.candidates.prompt_format) or next_question
        return found


_MEASURED = (
    "the generation score is the share of all candidates that is right, which is what a random one scores on "
    "average, not that of one random sample",
    "candidates are shown in several orders and the pick is over all of them, off the options' probabilities "
    "too; the paper shows one order and reads the text",
    "no worked examples before a question or a choice",
)


PRESETS = {
    "paper": Preset(
        values={
            "constitution": {"file": "embedded"},
            "candidates": {"count": 4, "temperature": 0.7, "max_tokens": 512},
            "discrimination": {"shuffles": 4, "principles": 1, "max_tokens": 16},
            "budget": {"iterations": 1},
        },
        deviations=_MEASURED,
    ),
    "practical": Preset(
        values={
            "constitution": {"file": "embedded"},
            "candidates": {"count": 2, "temperature": 1.0, "max_tokens": 96},
            "discrimination": {"shuffles": 2, "principles": 2, "max_tokens": 8},
            "budget": {"iterations": 1},
        },
        deviations=(
            "two candidates at temperature 1, both orders, two principles a dialogue, as rlaif has it",
            *_MEASURED,
        ),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {**dialogues.EMBEDDED}
"""The shipped files that the word `embedded` means."""
