"""Define the settings of an experiment of any method."""

from __future__ import annotations

from hashlib import blake2b
from json import dumps
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster.answers.languages import Conventions
from selfimprove_dagster.experiment.naming import NAME_PATTERN
from selfimprove_dagster.experiment.opening import models_of
from selfimprove_dagster.experiment.sections import (
    AnswersSection,
    BudgetSection,
    CheckpointsSection,
    DataPath,
    GeneratorSection,
    ModelSection,
    OnStopSection,
    PromotionSection,
    PromptsSection,
    RetriesSection,
    RunSection,
    Section,
    TeacherSection,
    ToleranceSection,
    TrainerSection,
    TrainingSection,
)

GREEDY = "greedy"
"""The mode of an exam whose answers are drawn at temperature 0, one a question."""

JUDGED = "judged"
"""The mode of the rows that say what a judge found of the greedy answers of challenger and champion."""


class Experiment(Section):
    """The settings that every method has."""

    scores: ClassVar[bool | Literal["options"]] = False
    """Whether the method needs log-probabilities of given texts, or of options alone, which some servers lack."""
    ends_with: ClassVar[str] = "promotion"
    """The last stage of an iteration."""
    measured_in: ClassVar[str | None] = None
    """The field that names another experiment whose champion is measured instead of `model.path`."""

    name: str = Field(
        pattern=NAME_PATTERN, description="lower-case letters, digits, underscores; equal to the file name"
    )
    description: str = Field("", description="one-line description")
    preset: Literal["paper", "practical", "small_llm", "7b", "70b"] = Field(
        "practical",
        description="source of the values of missing fields; small_llm (0.1 to 3 billion parameters), 7b and 70b are "
        "for methods that train",
    )
    method: str = Field(description="the self-improvement method")
    methods: tuple[str, ...] = Field(
        (), description="several methods that take turns in each iteration on one line of champions"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random choice")
    model: ModelSection
    prompts: PromptsSection = PromptsSection()
    tolerance: ToleranceSection = ToleranceSection()
    budget: BudgetSection = BudgetSection()
    retries: RetriesSection = RetriesSection()
    on_stop: OnStopSection = OnStopSection()
    run: RunSection = RunSection()
    loop: bool = Field(True, description="whether the sensor starts this experiment's iterations")

    @model_validator(mode="after")
    def _money_has_prices(self) -> Experiment:
        if self.budget.money is not None and not any(model.prices for model in models_of(self)):
            raise ValueError("budget.money limits what models cost, and none has prices: set model.prices")
        return self

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """Return the model that an iteration generates with, from the section of its generator."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        return next((one.drawn_by for one in sections if isinstance(one, GeneratorSection)), "champion")

    @property
    def teacher(self) -> ModelSection | None:
        """Return the model that generates in every iteration, if it is not the one that is trained."""
        teaches = self._teaching
        return teaches[1].model if teaches else None

    @property
    def _teaching(self) -> tuple[str, TeacherSection] | None:
        """Return name and section of the generator, where another model may generate."""
        sections = ((name, getattr(self, name)) for name in type(self).model_fields)
        return next(((name, one) for name, one in sections if isinstance(one, TeacherSection)), None)

    @property
    def settings_hash(self) -> str:
        """Return `b2:<hex>`, a hash of the settings that affect what an iteration makes, and what it takes."""
        settings = self.model_dump(
            mode="json", exclude={"name", "description", "tolerance", "budget", "run", "loop"}
        )
        return f"b2:{blake2b(dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()}"

    @property
    def chain(self) -> tuple[str, ...]:
        """Return the methods of the experiment in the order in which an iteration runs them."""
        return self.methods or (self.method,)

    @property
    def taught_by(self) -> str | None:
        """Return the experiment whose preferences are the seeds of this one, if any."""
        return None

    @property
    def turn_name(self) -> str:
        """Return the name in commands and pages: in a chain with the method, `<name>.<method>`."""
        return f"{self.name}.{self.method}" if len(self.chain) > 1 else self.name

    @property
    def decided_in(self) -> str:
        """Return the mode of the exam in which a checkpoint is compared with the champion."""
        return JUDGED if getattr(getattr(self, "evaluation", None), "judge", None) else GREEDY

    @property
    def measures(self) -> str | None:
        """Return the experiment whose champion this one measures; None if it has its own."""
        return getattr(self, self.measured_in) if self.measured_in else None

    @classmethod
    def prepare(cls, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Prepare the values of an experiment file in `folder` for validation.

        Variables are expanded before, and relative paths and the word `embedded` are resolved after. A method
        overrides this for what the marks on its fields cannot express. The values are a copy, and may be
        wrong in any way.
        """
        return values

    def partition_key(self, iteration: int) -> str:
        """Return Dagster's partition key for an iteration, `<name>-<NNN>`."""
        return f"{self.name}-{iteration:03d}"


class BenchmarkFile(Section):
    """A file whose texts must not be trained on."""

    file: DataPath = Field(description="path of a file, folder or pattern, or `hf:owner/name/split@commit`")
    fields: tuple[str, ...] = Field(
        (), description="fields with the texts; by default all texts of five words or more"
    )


class DecontaminationSection(Section):
    """Dropping training texts that are, or quote, a text held out for evaluation."""

    words: int = Field(13, ge=0, description="words in a row that are a quotation; 0 drops equal texts only")
    benchmarks: tuple[BenchmarkFile, ...] = Field(
        (), description="files besides the evaluation of this experiment whose texts are held out"
    )


class ReadsAnswers(Experiment):
    """The settings of a method that reads answers out of texts."""

    answers: AnswersSection | None = Field(
        None,
        exclude_if=lambda answers: answers is None,
        description="how answers are written; omit for English, other languages that are known, and decimal points",
    )

    @property
    def conventions(self) -> Conventions:
        """Return how answers are written, with the marks around the model's thoughts."""
        marks = self.model.thinking
        return (self.answers or AnswersSection()).conventions((marks.open, marks.close))

    @property
    def answers_read(self) -> dict[str, Any]:
        """Return what an activity records of `answers`: nothing if it is not set."""
        return {} if self.answers is None else {"answers": self.answers.model_dump()}


class SeededExperiment(Experiment):
    """The settings of a method that starts with a file of seeds."""

    seeds: Section
    decontamination: DecontaminationSection | None = Field(
        None,
        exclude_if=lambda section: section is None,
        description="reject seeds that are, or quote, a text held out for evaluation; omit to check and not to reject",
    )
    leave_out: tuple[str, ...] = Field(
        (),
        description="imported seeds that no iteration uses, such as those that are too long for the model: each as "
        "`<file>, line <number>`, as `selfimprove status` names it",
    )


class TrainingExperiment(SeededExperiment):
    """The settings of a method that trains a model and promotes it."""

    evaluation: Section
    training: TrainingSection
    promotion: PromotionSection = PromotionSection()
    checkpoints: CheckpointsSection = CheckpointsSection()

    @property
    def trainings(self) -> dict[str, TrainerSection]:
        """Return the sections of what an iteration trains, by name."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in sections.items() if isinstance(one, TrainerSection)}

    @model_validator(mode="after")
    def _adapters_are_alike(self) -> TrainingExperiment:
        adapters = {name: one.adapter for name, one in self.trainings.items() if one.adapter is not None}
        shapes = {name: (one.rank, one.alpha, one.targets) for name, one in adapters.items()}
        goes_on = next((name for name, one in adapters.items() if one.start == "continue"), None)
        if goes_on is not None and len(set(shapes.values())) > 1:
            raise ValueError(
                f"{' and '.join(f'{name}.adapter' for name in adapters)} have different ranks, alphas or targets, and "
                f"{goes_on}.adapter goes on with what was trained before: give them the same, or set start: merge in "
                "each"
            )
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> TrainingExperiment:
        if self.model.is_provided:
            teaches = self._teaching
            generates = f"generate ({teaches[0]}.model), " if teaches else ""
            raise ValueError(
                f"model.engine is chat, and {self.method} trains the model, which a provider has: name a folder in "
                f"model.path and another engine; a provider's model can {generates}judge (judge.model, "
                "evaluation.judge.model) and answer questions of tools"
            )
        return self
