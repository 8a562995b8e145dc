"""The sections of the experiments that measure whether a model can judge itself, and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfimprove_dagster.experiment.sections import Section

OnFailure = Literal["stop", "warn", "ignore"]


PickedBy = Literal["probability", "text"]


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
