"""The section of the experiments in which answers are refined without training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from selfimprove_dagster.methods.refinement import FINE_FEEDBACK, MEMORY
from selfimprove_dagster.sections import Section
from selfimprove_dagster.trajectories import Refining


class RefiningSection(Section):
    """How answers are refined."""

    ways: list[Literal["self_refine", "reflexion", "pit"]] = Field(
        min_length=1, description="self_refine, reflexion, pit: each starts from the same first answers"
    )
    rounds: int = Field(4, ge=1, le=32, description="most new answers of a prompt")
    temperature: float = Field(0.7, ge=0, le=5, description="sampling temperature; 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest answer, feedback or reflection in tokens")
    history: bool = Field(
        False, description="self_refine shows all earlier answers and feedback, not the last alone"
    )
    memory: int = Field(MEMORY, ge=1, description="last reflections that reflexion shows")
    fine: str = Field(
        FINE_FEEDBACK,
        min_length=1,
        description="sentence of feedback that says that nothing is to be changed",
    )
    evaluator: Literal["probability", "feedback"] = Field(
        "probability",
        description="what evaluates reflexion's answers: how probable that sentence is as feedback, or the "
        "feedback itself",
    )
    fine_from: float = Field(
        0.5, gt=0, le=1, description="from which probability on the evaluator is content"
    )
    shard: int = Field(128, ge=1, description="prompts a shard: what a killed run loses at most")

    @field_validator("ways")
    @classmethod
    def _each_once(cls, ways: list[str]) -> list[str]:
        if len(set(ways)) < len(ways):
            raise ValueError("name each way once")
        return ways

    @property
    def settings(self) -> Refining:
        """As `refining` takes them."""
        return Refining(**self.model_dump(exclude={"ways", "shard"}))
