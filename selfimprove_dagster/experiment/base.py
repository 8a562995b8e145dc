"""What an experiment is: the settings of each method, every field settled.

`experiment_files` reads them from YAML.
"""

from __future__ import annotations

from typing import ClassVar, Literal

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
    """What the experiments of all methods have; every field is settled."""

    scores: ClassVar[bool] = False
    """Whether the generator is asked for log-probabilities of given texts, which not every server gives."""
    ends_with: ClassVar[str] = "promotion"
    """The stage with which an iteration is finished."""

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

    def partition_key(self, iteration: int) -> str:
        """Dagster's key for one iteration, `<name>-<NNN>`."""
        return f"{self.name}-{iteration:03d}"


class SeededExperiment(Experiment):
    """What the methods have that begin with a file of seeds."""

    seeds: Section


class TrainingExperiment(SeededExperiment):
    """What the methods have that train a model and promote it."""

    evaluation: Section
    training: TrainingSection
    promotion: PromotionSection = PromotionSection()
