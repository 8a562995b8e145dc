"""The sections of the experiments that measure whether a model can judge itself, and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfimprove_dagster.judge_sections import DialogueEvaluationSection
from selfimprove_dagster.sections import EvaluationSection, Section

OnFailure = Literal["stop", "warn", "ignore"]
PickedBy = Literal["probability", "text"]


class KnowledgeTask(Section):
    """A task on which the model is measured: a file of held-out questions, never trained on."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="by which results name it")
    kind: Literal["questions", "dialogues"] = Field(
        description="`questions` have a true answer; `dialogues` are prompts with what a good response says"
    )
    file: str = Field(
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
    def as_questions(self) -> EvaluationSection:
        """The file as lmsi's exam reads it."""
        read = {"file", "rows", "question_field", "answer_field", "licence"}
        return EvaluationSection(**self.model_dump(include=read))

    @property
    def as_dialogues(self) -> DialogueEvaluationSection:
        """The file as the exam of dialogues reads it."""
        return DialogueEvaluationSection(**self.model_dump(include={"file", "rows", "licence"}), max_tokens=1)


class CandidateSection(Section):
    """How candidates are drawn, among which the model then picks."""

    count: int = Field(ge=2, le=26, description="candidates a question")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest candidate in tokens")
    prompt_format: Literal["zero_shot_cot", "zero_shot_direct"] = Field(
        "zero_shot_cot", description="prompt that answers to questions follow"
    )
    stop: list[str] | None = Field(
        None,
        description="strings that end a candidate; none for those of the tasks' kinds (a blank line ends a "
        "response, the next question an answer)",
    )
    shard: int = Field(128, ge=1, description="questions a shard: what a killed run loses at most")


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
    shard: int = Field(128, ge=1, description="questions a shard: what a killed run loses at most")


class SelfKnowledgeSection(Section):
    """The gate before stages in which a model judges: what its measured discrimination gap must be."""

    on_failure: OnFailure = Field(
        "stop", description="what follows when the judge was measured to pick worse than least_gap"
    )
    on_missing: OnFailure = Field("ignore", description="what follows when it was never measured")
    least_gap: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="discrimination minus generation score (0 is chance) below which no part of the interval "
        "may lie; an interval that holds it warns, one that lies below it fails",
    )
    tasks: list[str] | None = Field(
        None, min_length=1, description="tasks whose gaps are heeded; none for all that were measured"
    )
