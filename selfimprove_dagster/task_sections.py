"""The sections of experiments whose model writes tasks: Self-Instruct and Unnatural Instructions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfimprove_dagster.sections import GeneratorSection, Section


class TaskFile(Section):
    """A file of seed tasks, one JSON object a line."""

    file: str = Field(description="path of the file, or `embedded`")
    banned: str | None = Field(
        None, description="file of instructions that must go, one a line, or JSON Lines with `by` and `why`"
    )
    licence: str = Field("unknown", description="licence of the text, kept with every record")


class TaskEvaluationSection(Section):
    """Held-out tasks with their outputs. Used to measure, never to train."""

    file: str = Field(description="JSON Lines of instruction, input, output; or `embedded`")
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    licence: str = Field("unknown", description="licence of the text")
    measure: Literal["exact", "rouge_l"] = Field(
        "exact", description="an output is correct if it is the same, or near enough by ROUGE-L"
    )
    least_rouge_l: float = Field(0.7, gt=0, le=1, description="how near, for `measure: rouge_l`")
    max_tokens: int = Field(ge=1, description="longest output in tokens")
    stop: list[str] = Field(default_factory=lambda: ["\n\n"], description="strings that end an output")


class TaskGenerationSection(GeneratorSection):
    """How new instructions are drawn: prompts of eight demonstrations, continued as a numbered list."""

    prompts: int = Field(ge=1, description="prompts in one iteration")
    human: int = Field(ge=1, description="demonstrations a prompt from the seed tasks")
    machine: int = Field(ge=0, description="demonstrations a prompt from the model's own tasks")
    tasks: int = Field(ge=2, description="number at which the list of a prompt ends, demonstrations counted")
    temperature: float = Field(gt=0, le=5, description="sampling temperature")
    top_p: float = Field(gt=0, le=1, description="nucleus; 1 switches it off")
    top_k: int = Field(0, ge=0, description="only the k likeliest tokens; 0 switches it off")
    max_tokens: int = Field(ge=1, description="longest completion in tokens")
    shard: int = Field(256, ge=1, description="prompts a shard: what a killed run loses at most")


class ShotSection(Section):
    """The worked examples of a prompt."""

    shots: int = Field(ge=1, le=31, description="worked examples in the prompt")
    shots_from: Literal["shipped", "seeds"] = Field(
        description="`shipped`: the project's own; `seeds`: seed tasks by lot"
    )

    @property
    def ships(self) -> bool:
        return self.shots_from == "shipped"


class ClassificationSection(ShotSection):
    """Whether a task has a few labels to choose from, which decides how its instances are written."""


class InstanceSection(ShotSection):
    """How instances are written: input first, or for classification tasks the label first."""

    most: int = Field(5, ge=1, description="most instances of one task")
    max_tokens: int = Field(ge=1, description="longest completion in tokens")
    shard: int = Field(256, ge=1, description="tasks a shard: what a killed run loses at most")


class TaskFilterSection(Section):
    """Which tasks join the pool, and which of their instances are trained on."""

    maximum_rouge_l: float = Field(0.7, gt=0, le=1, description="highest ROUGE-L F1 to any task of the pool")
    maximum_perplexity: float | None = Field(
        None, gt=1, description="highest perplexity of the instruction under the model; none when left empty"
    )
    least_words: int = Field(4, ge=1, description="fewest words of an instruction")
    most_words: int = Field(150, ge=1, description="most words of an instruction")
    seed_instances: bool = Field(description="train on the seed tasks' own instances too")
    switched_off: bool = Field(
        False, description="keep all tasks and instances that can be read: the control of an ablation"
    )
    most_examples: int | None = Field(
        None, ge=1, description="most examples in the dataset, drawn by lot; none for all"
    )


class ElicitationSection(GeneratorSection):
    """How a new task is elicited: three demonstrations, the model writes the fourth."""

    prompts: int = Field(ge=1, description="prompts in one iteration")
    demonstrations: int = Field(3, ge=1, description="demonstrations a prompt")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest task in tokens")
    shard: int = Field(256, ge=1, description="prompts a shard: what a killed run loses at most")


class OutputSection(Section):
    """How the elicited tasks are answered: greedily."""

    max_tokens: int = Field(ge=1, description="longest output in tokens")


class ParaphraseSection(Section):
    """Other words for the same instruction."""

    most: int = Field(2, ge=0, description="paraphrases of each instruction; 0 leaves the stage empty")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    max_tokens: int = Field(ge=1, description="longest paraphrase in tokens")
