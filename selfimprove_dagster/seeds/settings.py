"""Files of questions in an experiment file: what an iteration begins with, and what is held out."""

from __future__ import annotations

from pydantic import Field

from selfimprove_dagster.experiment.sections import FilePath, Section


class QuestionFile(Section):
    """A file of questions: JSON Lines, a JSON array, CSV, Parquet, or plain text with one a line."""

    file: FilePath = Field(description="path of the file, or `embedded`")
    question_field: str | list[str] = Field(
        "question", description="field that holds the question; several are joined by a space"
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest question in characters; longer ones are rejected")


class HeldOutQuestionFile(QuestionFile):
    """Held-out questions with their answers. Used to measure, never to train."""

    answer_field: str = Field("answer", description="field that holds the true answer")
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
