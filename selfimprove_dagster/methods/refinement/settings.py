"""The settings of an experiment with refinement, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.base import SeededExperiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import (
    Section,
)
from selfimprove_dagster.families.dialogues import settings as dialogues
from selfimprove_dagster.families.dialogues.settings import (
    DialogueEvaluationSection,
    PromptFile,
    ResponseSection,
)
from selfimprove_dagster.families.judging.settings import SelfKnowledgeSection
from selfimprove_dagster.families.refining.trajectories import Refining
from selfimprove_dagster.families.refining.ways import FAULTS, FINE_FEEDBACK, MEMORY


class RefiningSection(Section):
    """How answers are refined."""

    ways: list[Literal["self_refine", "reflexion", "pit"]] = Field(
        min_length=1, description="self_refine, reflexion, pit: each starts from the same first answers"
    )
    rounds: int = Field(4, ge=1, le=32, description="maximum number of new answers per prompt")
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
        description="phrase of feedback that asks for no change",
    )
    faults: list[str] = Field(
        list(FAULTS),
        min_length=1,
        description="how feedback begins that finds fault, against which the evaluator weighs that phrase",
    )
    evaluator: Literal["probability", "feedback"] = Field(
        "probability",
        description="what evaluates reflexion's answers: how probable feedback that is `fine` is against "
        "feedback that finds fault (`faults`), or the feedback itself",
    )
    fine_from: float = Field(
        0.5, gt=0, le=1, description="from which probability on the evaluator is content"
    )
    shard: int = Field(128, ge=1, description="prompts per shard; a killed run loses at most one shard")

    @field_validator("ways")
    @classmethod
    def _each_once(cls, ways: list[str]) -> list[str]:
        if len(set(ways)) < len(ways):
            raise ValueError("name each way once")
        return ways

    @model_validator(mode="after")
    def _weighed_alike(self) -> RefiningSection:
        weighed = "reflexion" in self.ways and self.evaluator == "probability"
        if weighed and self.fine != FINE_FEEDBACK and self.faults == list(FAULTS):
            raise ValueError(
                f"the evaluator weighs fine ({self.fine!r}) against faults, which begin otherwise "
                f"({FAULTS[0]!r}, …): set faults too, to how feedback begins that finds fault, or evaluator "
                f"to "
                "feedback"
            )
        return self

    @property
    def settings(self) -> Refining:
        """As `refining` takes them."""
        return Refining(**self.model_dump(exclude={"ways", "shard"}))


class RefinementExperiment(SeededExperiment):
    """Answers that get better while they are given (Self-Refine, 2303.17651; Reflexion, 2303.11366)."""

    ends_with = "evaluation"
    method: Literal["refinement"] = Field(description="the self-improvement method")
    seeds: PromptFile
    responses: ResponseSection
    refining: RefiningSection
    evaluation: DialogueEvaluationSection
    self_knowledge: SelfKnowledgeSection = SelfKnowledgeSection()


_ITSELF = (
    "Reflexion's evaluator is the model itself: how probable feedback that the answer is fine is against "
    "feedback that finds fault; the paper has exact match, heuristics, or tests that the model writes"
)


_WITHOUT_EXAMPLES = "no worked examples before feedback, reflection and new answer"


PRESETS = {
    "paper": Preset(
        values={
            "responses": {"prompts": 1_000, "temperature": 0.7, "max_tokens": 300},
            "refining": {
                "ways": ["self_refine", "reflexion", "pit"],
                "rounds": 4,
                "temperature": 0.7,
                "max_tokens": 300,
                "history": True,
                "memory": 3,
            },
            "evaluation": {"max_tokens": 300},
            "budget": {"iterations": 1},
        },
        deviations=(
            "Reflexion too has at most 4 retries; the paper goes on until no trial gains any more",
            _ITSELF,
            _WITHOUT_EXAMPLES,
            "PIT's rounds are those of any model: PIT trains one for them",
        ),
    ),
    "practical": Preset(
        values={
            "responses": {"prompts": 400, "temperature": 0.8, "max_tokens": 48},
            "refining": {
                "ways": ["self_refine", "reflexion", "pit"],
                "rounds": 4,
                "temperature": 0.0,
                "max_tokens": 48,
                "history": False,
                "memory": 3,
            },
            "evaluation": {"max_tokens": 48},
            "budget": {"iterations": 1},
        },
        deviations=(
            "greedy feedback, reflections and new answers; first answers at temperature 0.8",
            "Self-Refine shows the last answer with its feedback, not all earlier ones",
            _ITSELF,
            _WITHOUT_EXAMPLES,
        ),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {**dialogues.EMBEDDED, ("seeds", "file"): embedded.DIALOGUE_PROMPTS}
"""The shipped files that the word `embedded` means."""
