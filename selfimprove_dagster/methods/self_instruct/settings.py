"""The settings of an experiment with Self-Instruct, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import (
    GeneratorSection,
    Section,
    TeacherSection,
)
from selfimprove_dagster.families.scored.settings import ScoredExperiment
from selfimprove_dagster.families.tasks import settings as tasks
from selfimprove_dagster.families.tasks.settings import (
    _TASK_TRAINING_PAPER,
    _TASK_TRAINING_PRACTICAL,
    ShotSection,
    TaskExperiment,
)
from selfimprove_dagster.filters.tokenisers import TokeniserName


class TaskGenerationSection(GeneratorSection, TeacherSection):
    """How new instructions are sampled: prompts of eight demonstrations, continued as a numbered list."""

    prompts: int = Field(ge=1, description="prompts in one iteration")
    human: int = Field(ge=1, description="demonstrations per prompt from the seed tasks")
    machine: int = Field(ge=0, description="demonstrations per prompt from the model's own tasks")
    tasks: int = Field(ge=2, description="number of tasks in the list of a prompt, including demonstrations")
    temperature: float = Field(gt=0, le=5, description="sampling temperature")
    top_p: float = Field(gt=0, le=1, description="nucleus; 1 switches it off")
    top_k: int = Field(0, ge=0, description="sample from the k most likely tokens only; 0 switches it off")
    max_tokens: int = Field(ge=1, description="longest completion in tokens")
    shard: int = Field(256, ge=1, description="prompts per shard; a killed run loses at most one shard")


class ClassificationSection(ShotSection):
    """Whether a task has a few labels to choose from, which decides how its instances are written."""


class InstanceSection(ShotSection):
    """How instances are written: input first, or for classification tasks the label first."""

    most: int = Field(5, ge=1, description="maximum number of instances per task")
    max_tokens: int = Field(ge=1, description="longest completion in tokens")
    shard: int = Field(256, ge=1, description="tasks per shard; a killed run loses at most one shard")


class TaskFilterSection(Section):
    """Which tasks join the pool, and which of their instances are trained on."""

    maximum_rouge_l: float = Field(0.7, gt=0, le=1, description="highest ROUGE-L F1 to any task of the pool")
    maximum_perplexity: float | None = Field(
        None,
        gt=1,
        description="highest perplexity of the instruction under the trained model; none when left empty",
    )
    least_words: int = Field(4, ge=1, description="fewest words of an instruction")
    most_words: int = Field(150, ge=1, description="maximum number of words of an instruction")
    tokeniser: TokeniserName = Field(
        "rouge",
        exclude_if=lambda name: name == "rouge",
        description="what ROUGE-L compares: `rouge`, runs of ASCII letters and digits as in the paper, for English; "
        "`words` for every language, with one token per character of scripts without spaces; `characters`. With the "
        "last two, the rules on words count these tokens too, and an instruction may open with any letter",
    )
    seed_instances: bool = Field(description="train on the seed tasks' own instances too")
    switched_off: bool = Field(
        False, description="keep all tasks and instances that can be read: the control of an ablation"
    )
    most_examples: int | None = Field(
        None, ge=1, description="maximum number of examples in the dataset, sampled at random; null for all"
    )


class SelfInstructExperiment(TaskExperiment, ScoredExperiment):
    """A pool of tasks that the model itself extends (Wang et al., 2212.10560)."""

    scores = True
    method: Literal["self_instruct"] = Field(description="the self-improvement method")
    generation: TaskGenerationSection
    classification: ClassificationSection
    instances: InstanceSection
    filter: TaskFilterSection


PRESETS = {
    "paper": Preset(
        values={
            "generation": {
                "prompts": 1_000,
                "human": 6,
                "machine": 2,
                "tasks": 16,
                "temperature": 0.7,
                "top_p": 0.5,
                "max_tokens": 1024,
            },
            "classification": {"shots": 31, "shots_from": "shipped"},
            "instances": {"shots": 6, "shots_from": "shipped", "max_tokens": 300},
            "filter": {"maximum_rouge_l": 0.7, "seed_instances": True},
            "evaluation": {"max_tokens": 512},
            "training": _TASK_TRAINING_PAPER,
            "budget": {"iterations": 50},
        },
        deviations=(
            "no presence penalty, which no engine here has (2 for tasks, 1.5 for instances)",
            "a low probability under the model drops a task only where filter.maximum_perplexity is set",
            "the label of a task is the likelier of Yes and No, not a sampled text",
            "1,000 prompts an iteration: the paper adds to the pool after every batch of prompts",
            "two epochs are given as steps: 82,000 instances in batches of 100",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "generation": {
                "prompts": 400,
                "human": 6,
                "machine": 2,
                "tasks": 16,
                "temperature": 0.9,
                "top_p": 0.95,
                "max_tokens": 240,
            },
            "classification": {"shots": 8, "shots_from": "seeds"},
            "instances": {"shots": 2, "shots_from": "seeds", "max_tokens": 120},
            "filter": {"maximum_rouge_l": 0.8, "seed_instances": False},
            "evaluation": {"max_tokens": 40},
            "training": _TASK_TRAINING_PRACTICAL,
            "budget": {"iterations": 3},
        },
        deviations=(
            "400 prompts an iteration at temperature 0.9 within p = 0.95, not 0.7 within 0.5",
            "ROUGE-L up to 0.8, not 0.7: short instructions share more of their words",
            "8 seed tasks show what a classification task is, not 31 worked examples; 2 show instances",
            "the label of a task is the likelier of Yes and No, not a sampled text",
            "no presence penalty",
            "seed tasks' own instances are not trained on: what is gained comes of the model's own tasks",
        ),
        trained=("160 steps of 32 at 5e-4, not two epochs",),
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {**tasks.EMBEDDED, ("seeds", "file"): embedded.TASK_SEEDS}
"""The shipped files that the word `embedded` means."""
