"""What an experiment of any method is: its settings, every one of them settled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from selfimprove_dagster.experiment.naming import NAME_PATTERN
from selfimprove_dagster.experiment.sections import (
    BudgetSection,
    GeneratorSection,
    ModelSection,
    PromotionSection,
    Section,
    TrainingSection,
)


class Experiment(Section):
    """The settings that every method has."""

    scores: ClassVar[bool] = False
    """Whether the generator is asked for log-probabilities of given texts, which not every server gives."""
    ends_with: ClassVar[str] = "promotion"
    """The stage with which an iteration is finished."""
    measured_in: ClassVar[str | None] = None
    """The field that names another experiment, whose champion is measured in place of `model.path`."""

    name: str = Field(
        pattern=NAME_PATTERN, description="small letters, digits, underscores; equals the file name"
    )
    description: str = Field("", description="one line for people")
    preset: Literal["paper", "practical"] = Field("practical", description="where left-out fields come from")
    method: str = Field(description="the self-improvement method")
    methods: tuple[str, ...] = Field(
        (), description="several methods, which take turns in each iteration on the same line of champions"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="from which every random choice follows")
    model: ModelSection
    budget: BudgetSection = BudgetSection()
    loop: bool = Field(True, description="whether the sensor starts this experiment's iterations")

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with, as the section of its generator says."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        return next((one.drawn_by for one in sections if isinstance(one, GeneratorSection)), "champion")

    @property
    def chain(self) -> tuple[str, ...]:
        """The methods of the experiment in the order in which an iteration runs them."""
        return self.methods or (self.method,)

    @property
    def taught_by(self) -> str | None:
        """The experiment whose preferences are the seeds of this one, if they come of one."""
        return None

    @property
    def turn_name(self) -> str:
        """The name by which commands and pages know it: in a chain with the method, `<name>.<method>`."""
        return f"{self.name}.{self.method}" if len(self.chain) > 1 else self.name

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "greedy"

    @property
    def measures(self) -> str | None:
        """The experiment whose champion this one measures; None for one that has its own."""
        return getattr(self, self.measured_in) if self.measured_in else None

    @classmethod
    def prepare(cls, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What an experiment file in `folder` gives, made ready to be validated.

        Variables are expanded before, relative paths and the word `embedded` settled after. A method overrides
        this for what the marks on its fields cannot say. The values are a copy, and may be wrong in any way.
        """
        return values

    def partition_key(self, iteration: int) -> str:
        """Dagster's key for one iteration, `<name>-<NNN>`."""
        return f"{self.name}-{iteration:03d}"


class SeededExperiment(Experiment):
    """The settings of a method that begins with a file of seeds."""

    seeds: Section


class TrainingExperiment(SeededExperiment):
    """The settings of a method that trains a model and promotes it."""

    evaluation: Section
    training: TrainingSection
    promotion: PromotionSection = PromotionSection()
