"""A judge of held-out answers, for files that hold neither phrases nor outputs that tell right from wrong.

Where an experiment names one, its verdicts are rows of the evaluation in the mode `judged`, and they decide promotion:
an answer is correct if its rating is high enough, or if it was preferred to that of the other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import polars as pl
from pydantic import Field

from selfimprove_dagster.experiment.base import JUDGED
from selfimprove_dagster.experiment.sections import ModelSection, Section
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.table import Row

CONTROL = "judge_control"
"""The mode of the rows that say whether the judge knew an answer from the answer to another question."""

VERDICTS = {"rating": pl.Float64, "as_first": pl.Float64, "as_second": pl.Float64}
"""The measures of a judge: the expected rating from 1 to 10, or the probabilities with which the answer was
preferred when it was shown first and second."""


def mode_against(role: str) -> str:
    """Return the mode of the verdicts on the challenger and the model in a role."""
    return JUDGED if role == "champion" else f"{JUDGED}_against_{role}"


class ExamJudgeSection(Section):
    """A judge of held-out answers where the file cannot tell right from wrong."""

    by: Literal["comparison", "rating"] = Field(
        "comparison",
        description="`comparison`: which of challenger and champion answers better, in both orders; `rating`: each "
        "answer alone, from 1 to 10",
    )
    model: ModelSection | None = Field(
        None, description="the judge; none for the experiment's own base model"
    )
    comparison: str = Field(
        "Which response does better what was asked, and is more helpful and correct?",
        min_length=1,
        description="question about two responses",
    )
    rating: str = Field(
        "How well does the response do what was asked?",
        min_length=1,
        description="question about one response",
    )
    reasoning: bool = Field(False, description="let the judge think step by step before it compares")
    reasoning_tokens: int = Field(128, ge=1, description="longest chain of thought in tokens")
    least_margin: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="|2p − 1| of a comparison below which neither response is preferred",
    )
    least_rating: float = Field(7, ge=1, le=10, description="rating from which an answer counts as correct")
    control_questions: int = Field(
        64,
        ge=0,
        description="questions whose answer the judge must tell from the answer to another question; 0 for no control",
    )
    least_control: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="share of them in which it must succeed, as far as their number can tell",
    )
    least_order_agreement: float = Field(
        0.6, ge=0, le=1, description="minimum share of pairs judged alike in both orders"
    )
    on_failure: Literal["stop", "warn"] = Field(
        "stop",
        description="whether a judge that fails the control or the orders keeps promotion from being decided",
    )


class AnswerJudge(Protocol):
    """Judges the answers of an exam."""

    @property
    def model_id(self) -> str:
        """Return the id of the model that judges."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Return everything that affects its verdicts."""

    def open(self) -> AbstractContextManager[LanguageModel]:
        """Open the model that judges."""

    def verdicts(
        self, model: LanguageModel, answers: Mapping[str, Sequence[Row]], progress: Progress | None = None
    ) -> list[Row]:
        """Return the rows that judge the greedy answers of each role, which are rows of the exam.

        The answers of all roles are to the same questions, in the same order. `answers` of a row that is returned are
        the rows that it judges: the answer itself, and the one that it was compared with.
        """
