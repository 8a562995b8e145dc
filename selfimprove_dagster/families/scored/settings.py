"""The settings of methods whose examples models score for filters: perplexities, and ratings by a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from selfimprove_dagster.experiment.sections import ModelSection, Section
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.filtering.steps import PERPLEXITY, RATING, VOTE


class JudgeSection(Section):
    """The model that rates answers for the filter `annotation`."""

    model: ModelSection | None = Field(None, description="the judge; none for the generator itself")
    question: str = Field(
        "How well does the response do what was asked?", min_length=1, description="what the judge is asked"
    )
    shard: int = Field(256, ge=1, description="answers per shard; a killed run loses at most one shard")


class ScoredExperiment(FilteringExperiment):
    """The settings of a method whose stages score examples where a filter reads scores."""

    provided: ClassVar[frozenset[str]] = PERPLEXITY | RATING
    lacking: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(VOTE, "a vote needs several answers to a question, and each has one here")
    }
    judge: JudgeSection = Field(
        JudgeSection(),
        exclude_if=lambda section: section == JudgeSection(),
        description="who rates answers for the filter `annotation`",
    )

    @property
    def scores(self) -> Any:  # type: ignore[override]
        """Return what is needed of the model: log-probabilities of texts, or of options if it rates."""
        if self.measures_perplexity:
            return True
        return "options" if self.rates and self.judge.model is None else False

    @property
    def rates(self) -> bool:
        """Return whether a filter needs ratings."""
        return any(one.step.reads & RATING for one in self.steps)

    @property
    def measures_perplexity(self) -> bool:
        """Return whether a filter needs perplexities."""
        return any(one.step.reads & PERPLEXITY for one in self.steps)
