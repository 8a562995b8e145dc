"""The sections of the experiments that measure whether a model can judge itself, and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfimprove_dagster.experiment.sections import ModelSection, Section

OnFailure = Literal["stop", "warn", "ignore"]


PickedBy = Literal["probability", "text"]


class SelfKnowledgeSection(Section):
    """The gate before stages in which a model judges: bounds of its measured discrimination gap."""

    on_failure: OnFailure = Field(
        "stop", description="consequence if the judge was measured to pick worse than least_gap"
    )
    on_missing: OnFailure = Field("ignore", description="consequence if it was never measured")
    least_gap: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="discrimination minus generation score (0 is chance) below which no part of the interval "
        "may lie; an interval that holds it warns, one that lies below it fails",
    )
    tasks: list[str] | None = Field(
        None, min_length=1, description="tasks whose gaps count; none for all that were measured"
    )


class JudgeSection(Section):
    """The model that decides which response is better, and how it is asked."""

    model: ModelSection | None = Field(None, description="the feedback model; none for the generator itself")
    principles: int = Field(
        1, ge=1, description="principles sampled for each pair; its label is the mean over them"
    )
    both_orders: bool = Field(True, description="ask with either response as (A), and average")
    reasoning: bool = Field(False, description="let the judge think step by step before it answers")
    clamp: float = Field(
        0.4, ge=0, le=0.5, description="after reasoning, probabilities are kept from here to 1 minus this"
    )
    reasoning_tokens: int = Field(64, ge=1, description="longest chain of thought in tokens")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature of the chain of thought")
    repeated_share: float = Field(
        0.2, ge=0, le=1, description="share of the pairs that are judged again at another seed"
    )
    shard: int = Field(256, ge=1, description="pairs per shard; a killed run loses at most one shard")

    @property
    def label_clamp(self) -> float:
        """What probabilities are clamped from when labels are made of them; 0 where they are not."""
        return self.clamp if self.reasoning else 0.0
