"""The sections of the experiments in which a model, or people, judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selfimprove_dagster.constitution import Constitution, load_constitution
from selfimprove_dagster.sections import GeneratorSection, ModelSection, Section, TrainingSection

_ROWS = r"^\d*:\d*$"


class PromptFile(Section):
    """A file of prompts: JSON Lines, a JSON array, CSV, Parquet, or plain text with one a line."""

    file: str = Field(description="path of the file, or `embedded`")
    prompt_field: str = Field("prompt", description="field that holds what the human says, or the dialogue")
    kind_field: str = Field(
        "kind", description="field that is `red_team` or `helpful`; a prompt without one is red_team"
    )
    response_field: str = Field(
        "response", description="field with a person's response to a helpful prompt, where it has one"
    )
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest prompt in characters; longer ones are rejected")


class ComparisonFile(Section):
    """Comparisons that people made: prompt, chosen and rejected; or whole dialogues that are chosen
    and rejected and begin alike, as text or as lists of messages; JSON Lines, a JSON array, CSV or Parquet.
    """

    file: str = Field(description="path of the file, or `embedded`")
    prompt_field: str = Field(
        "prompt", description="field with the prompt; a row without it holds whole dialogues"
    )
    chosen_field: str = Field("chosen", description="field with the better response, or its dialogue")
    rejected_field: str = Field("rejected", description="field with the worse response, or its dialogue")
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest text in characters; longer ones are rejected")


class DialogueEvaluationSection(Section):
    """Held-out prompts and what tells a helpful and a harmless response. Used to measure, never to train."""

    file: str = Field(
        description="JSON Lines of prompt, wanted (lists of alternatives, one of each must be said) and "
        "unwanted (phrases that must not be said); or `embedded`"
    )
    rows: str | None = Field(None, pattern=_ROWS, description="only these rows, as `from:to`, counted from 0")
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    response_field: str = Field(
        "chosen", description="field with the response that people preferred, where the file has it"
    )
    licence: str = Field("unknown", description="licence of the text")
    max_tokens: int = Field(ge=1, description="longest response in tokens")
    revised_prompts: int = Field(
        0, ge=0, description="on how many prompts the champion's revisions are measured, round by round"
    )


class ConstitutionSection(Section):
    """The principles that a model criticises, revises and compares by."""

    file: str = Field(description="a YAML file of principles, or `embedded`")

    def load(self) -> Constitution:
        """Raises ExperimentError."""
        return load_constitution(self.file)


class ResponseSection(GeneratorSection):
    """How responses to prompts are drawn."""

    drawn_by: Literal["base", "champion"] = Field(
        "champion", description="the base model, or the last promoted checkpoint"
    )
    prompts: int = Field(ge=1, description="prompts in one iteration")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest response in tokens")
    shard: int = Field(128, ge=1, description="prompts a shard: what a killed run loses at most")


class RevisionSection(Section):
    """How responses are criticised and revised."""

    rounds: int = Field(4, ge=1, le=32, description="critiques and revisions of each response, in turn")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature of both")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest critique, and longest revision, in tokens")
    shard: int = Field(128, ge=1, description="prompts a shard: what a killed run loses at most")


class RevisionFilterSection(Section):
    """Which revisions and helpful responses are trained on."""

    round: int | None = Field(
        None, ge=0, description="train on the revisions of this round (0: first responses); none for the last"
    )
    helpful_share: float = Field(
        0.5, ge=0, lt=1, description="most share of helpful responses in the dataset, drawn by lot"
    )
    human_responses: bool = Field(
        True, description="helpful prompts are answered by people where the file has it, not by the model"
    )


class JudgeSection(Section):
    """The model that says which response is better, and how it is asked."""

    model: ModelSection | None = Field(None, description="the feedback model; none for the generator itself")
    principles: int = Field(
        1, ge=1, description="principles drawn for each pair; its label is the mean over them"
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
    shard: int = Field(256, ge=1, description="pairs a shard: what a killed run loses at most")


class JudgeChecksSection(Section):
    """When the judge is not trusted: bounds of the checks, and what follows."""

    on_failure: Literal["stop", "warn"] = Field(
        "stop", description="whether a judge that fails a check keeps its labels from being trained on"
    )
    least_order_agreement: float = Field(
        0.6, ge=0, le=1, description="least share of pairs judged alike in both orders"
    )
    most_position_bias: float = Field(
        0.15, ge=0, le=0.5, description="by how much the share of (A) may be off one half"
    )
    least_self_agreement: float = Field(
        0.6, ge=0, le=1, description="least share of pairs judged alike at another seed"
    )
    most_length_bias: float = Field(
        0.25,
        ge=0,
        le=0.5,
        description="by how much the share of longer responses preferred may be off one half",
    )
    most_undecided: float = Field(
        0.6, ge=0, le=1, description="most share of labels between 0.45 and 0.55, which say nothing"
    )
    most_calibration_error: float = Field(
        0.25, ge=0, le=1, description="most expected calibration error against the labels of reviewers"
    )


class ReviewSection(Section):
    """What people are asked to look at."""

    count: int = Field(50, ge=0, description="pairs in an iteration's review queue, the least certain first")


class PreferenceFilterSection(Section):
    """Which preferences are trained on."""

    minimum_margin: float = Field(
        0.0, ge=0, le=1, description="least |2p − 1| of a preference's probability p"
    )
    hard_labels: bool = Field(
        False, description="train on 1 for the likelier response: the control of an ablation"
    )
    held_out_share: float = Field(
        0.1, ge=0, lt=1, description="share of the pairs kept from training to measure the reward model"
    )


class RewardModelSection(Section):
    """How the reward model is trained."""

    steps: int = Field(ge=1, description="optimiser steps")
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="pairs a step")
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="learning rate over the steps"
    )
    gradient_accumulation: int = Field(1, ge=1, description="batches added up for one step")
    max_length: int = Field(1024, ge=16, description="longest response with its prompt in tokens")
    save_every: int = Field(100, ge=1, description="steps between saves from which a killed run goes on")


class PolicyTrainingSection(TrainingSection):
    """How the policy is trained on preferences.

    `grpo` and `rloo` let it write and reward it; `dpo` trains on the pairs themselves and needs no reward
    model. With `judge` as the reward (direct RLAIF) the expected rating of the judge, from −1 to 1, is it.
    """

    start_from: Literal["champion", "base"] = Field(
        "champion", description="weights that training starts from, and that the KL term holds to"
    )
    algorithm: Literal["grpo", "rloo", "dpo"] = Field("grpo", description="how the policy is optimised")
    reward: Literal["reward_model", "judge"] = Field("reward_model", description="what rewards a response")
    kl_coefficient: float = Field(0.05, ge=0, description="weight of the KL term (β); of DPO, its β")
    group_size: int = Field(8, ge=2, description="responses a prompt that are compared with each other")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature while training")
    max_tokens: int = Field(64, ge=1, description="longest response while training, in tokens")


class SupervisedStepSection(Section):
    """RLHF's first step: fine-tuning on the responses that people chose."""

    steps: int = Field(ge=0, description="optimiser steps; 0 leaves the step out")
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="examples a step")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="learning rate over the steps"
    )


class ComparisonPoolSection(Section):
    """Which comparisons an iteration learns from."""

    comparisons: int = Field(ge=1, description="comparisons in one iteration")
    prompts: int = Field(
        0, ge=0, description="most prompts on which the policy writes; 0 for those of all comparisons"
    )
