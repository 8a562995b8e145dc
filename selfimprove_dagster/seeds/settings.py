"""Define the settings for question files: the seeds of an experiment, and its held-out questions."""

from __future__ import annotations

from pydantic import Field

from selfimprove_dagster.experiment.sections import DataPath, Section

DATA = "path of a file, folder or pattern, `hf:owner/name/split@commit`, or `embedded`"
"""Description of a field that names data."""


class QuestionFile(Section):
    """Questions: JSON Lines, a JSON array, CSV, TSV, Parquet, or plain text with one per line, compressed or not."""

    file: DataPath = Field(description=DATA)
    question_field: str | list[str] = Field(
        "question",
        description="field with the question, `a.b.0` for one within others; several fields are joined by spaces",
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="rows to read, as `from:to`, counted from 0, excluding `to`"
    )
    answer_field: str | None = Field(
        None,
        exclude_if=lambda field: field is None,
        description="field with the true answer, which only methods that learn from true answers can read",
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
