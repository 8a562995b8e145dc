"""Define the settings for question files: the seeds of an experiment, and its held-out questions."""

from __future__ import annotations

from pydantic import Field

from selfimprove_dagster.experiment.sections import FilePath, Section


class QuestionFile(Section):
    """A file of questions: JSON Lines, a JSON array, CSV, Parquet, or plain text with one per line."""

    file: FilePath = Field(description="path of the file, or `embedded`")
    question_field: str | list[str] = Field(
        "question", description="field with the question; several fields are joined by spaces"
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="rows to read, as `from:to`, counted from 0, excluding `to`"
    )
    licence: str = Field("unknown", description="licence of the text, stored with every record")
    longest: int = Field(
        10_000, ge=1, description="maximum length of a question in characters; longer ones are rejected"
    )


class HeldOutQuestionFile(QuestionFile):
    """Held-out questions with their answers. They are used for evaluation, never for training."""

    answer_field: str = Field("answer", description="field with the true answer")
    difficulty_field: str | None = Field(
        None, description="field for the breakdown of accuracy by difficulty"
    )
