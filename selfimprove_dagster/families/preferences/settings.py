"""The sections of the experiments in which a model, or people, judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster.experiment.sections import (
    STEPS,
    PromptsSection,
    Section,
    TrainerSection,
    TrainingSection,
)
from selfimprove_dagster.families.dialogues.settings import (
    DialogueExperiment,
    JudgedDialogueEvaluationSection,
)
from selfimprove_dagster.filtering.steps import PERPLEXITY, RATING, VOTE


class PreferenceFilterSection(Section):
    """Which preferences are trained on."""

    minimum_margin: float = Field(
        0.0, ge=0, le=1, description="minimum |2p − 1| of a preference's probability p"
    )
    hard_labels: bool = Field(
        False,
        description="train on 1 for the more likely response, and not on ties: the control of an ablation",
    )
    held_out_share: float = Field(
        0.1, ge=0, lt=1, description="share of the pairs kept from training to measure the reward model"
    )


class RewardModelSection(TrainerSection):
    """How the reward model is trained."""

    learns = "pairs"

    steps: int | None = STEPS
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="pairs per step")
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="learning rate over the steps"
    )
    gradient_accumulation: int = Field(1, ge=1, description="batches added up for one step")
    max_length: int = Field(1024, ge=16, description="longest response with its prompt in tokens")
    save_every: int = Field(100, ge=1, description="steps between saves from which a killed run goes on")


class VllmRolloutsSection(Section):
    """vLLM beside the trainer, on the same GPU; see `training.vllm_rollouts`."""

    gpu_memory: float = Field(0.3, gt=0, lt=1, description="share of the GPU's memory that vLLM may use")
    tensor_parallel: int = Field(1, ge=1, description="processes that share one instance of vLLM")


class PolicyTrainingSection(TrainingSection):
    """How the policy is trained on preferences.

    `grpo` and `rloo` let it write and reward it; `dpo` trains on the pairs themselves and needs no reward
    model. With `judge` as the reward (direct RLAIF) the expected rating of the judge, from −1 to 1, is it.
    """

    learns = "policy"

    start_from: Literal["champion", "base"] = Field(
        "champion", description="weights that training starts from, and that the KL term holds to"
    )
    algorithm: Literal["grpo", "rloo", "dpo"] = Field("grpo", description="how the policy is optimised")
    reward: Literal["reward_model", "judge"] = Field(
        "reward_model", description="model that rewards responses"
    )
    kl_coefficient: float = Field(0.05, ge=0, description="weight of the KL term (β); of DPO, its β")
    group_size: int = Field(8, ge=2, description="responses per prompt that are compared with each other")
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature while training")
    max_tokens: int = Field(64, ge=1, description="longest response while training, in tokens")
    rollouts: VllmRolloutsSection | None = Field(
        None,
        exclude_if=lambda rollouts: rollouts is None,
        description="let vLLM write responses while training, with grpo on a GPU; not run so far",
    )

    @property
    def per_step(self) -> int:
        """Return how many pairs, or prompts, an optimiser step takes."""
        return max(super().per_step // (1 if self.algorithm == "dpo" else self.group_size), 1)

    @model_validator(mode="after")
    def _holds_out_examples(self) -> PolicyTrainingSection:
        if self.validation is not None and self.algorithm != "dpo":
            raise ValueError(
                f"validation holds out examples with known completions, and with algorithm {self.algorithm} the policy "
                "writes its own: leave it out, or set algorithm to dpo"
            )
        if self.accumulate and self.algorithm != "dpo":
            raise ValueError(
                f"accumulate adds earlier examples, and with algorithm {self.algorithm} the policy writes its own: "
                "leave it out, or set algorithm to dpo"
            )
        if self.mix is not None:
            raise ValueError(
                "mix adds examples to learn word by word, which have no rejected response and no reward: leave it out; "
                "kl_coefficient keeps the policy near the model that it starts from"
            )
        return self

    @model_validator(mode="after")
    def _writes_with_vllm(self) -> PolicyTrainingSection:
        if self.rollouts is not None and self.algorithm != "grpo":
            raise ValueError(
                f"rollouts lets vLLM write responses, and the algorithm {self.algorithm} does not correct for another "
                "engine: leave it out, or set algorithm to grpo"
            )
        return self

    @model_validator(mode="after")
    def _writes_without_dropout(self) -> PolicyTrainingSection:
        if self.algorithm != "dpo" and self.adapter is not None and self.adapter.dropout > 0:
            raise ValueError(
                f"adapter.dropout is {self.adapter.dropout}, and a policy writes and is trained without dropout: "
                "set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _writes_with_whole_weights(self) -> PolicyTrainingSection:
        if self.algorithm != "dpo" and self.launch and self.launch.strategy == "fsdp2":
            raise ValueError(
                f"launch.strategy fsdp2 shares out the weights with which {self.algorithm} writes: use ddp"
            )
        return self


class SupervisedStepSection(TrainerSection):
    """RLHF's first step: fine-tuning on the responses that people chose."""

    steps: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda steps: steps is None,
        description="optimiser steps; 0 leaves the step out; or give epochs",
    )
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="examples per step")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="learning rate over the steps"
    )


class ComparisonPoolSection(Section):
    """Which comparisons an iteration learns from."""

    comparisons: int = Field(ge=1, description="comparisons in one iteration")
    prompts: int = Field(
        0, ge=0, description="maximum number of prompts for the policy; 0 for those of all comparisons"
    )


def check_rollouts_are_free(prompts: PromptsSection, name: str) -> None:
    """Raise ValueError if texts after the prompt `name`, after which a policy is optimised, have a structure.

    The policy gradient is that of texts which the policy samples from its whole distribution.
    """
    if name in prompts.structure:
        raise ValueError(
            f"prompts.structure.{name}: a policy that is optimised on its own texts must write them freely; remove it, "
            "or use another method"
        )


OF_PAIRS: Mapping[str, str] = dict.fromkeys(
    PERPLEXITY | RATING | VOTE,
    "its examples are pairs of responses, which comparisons judge: set preferences.minimum_margin",
)
"""Why the pairs of responses that a model is trained on have no scores for filters, by column."""


class PreferenceExperiment(DialogueExperiment):
    """What RLAIF and RLHF share: a policy that learns from pairs of responses."""

    lacking: ClassVar[Mapping[str, str]] = OF_PAIRS

    evaluation: JudgedDialogueEvaluationSection
    preferences: PreferenceFilterSection
    reward_model: RewardModelSection
    training: PolicyTrainingSection

    @model_validator(mode="after")
    def _policy_writes_freely(self) -> PreferenceExperiment:
        if self.training.algorithm != "dpo":
            check_rollouts_are_free(self.prompts, "response")
        return self

    @property
    def rewards_with_model(self) -> bool:
        """Whether a reward model is needed."""
        return self.training.algorithm != "dpo" and self.training.reward == "reward_model"


_FILE = {"file": "embedded"}


_SMALL_REWARD = {"steps": 100, "learning_rate": 5e-4, "batch_size": 32, "warmup_fraction": 0.1}


_SMALL_POLICY: dict[str, Any] = {
    "start_from": "champion",
    "algorithm": "grpo",
    "steps": 40,
    "learning_rate": 2e-4,
    "batch_size": 32,
    "warmup_fraction": 0.1,
    "schedule": "constant",
    "kl_coefficient": 0.05,
    "group_size": 8,
    "max_tokens": 48,
    "save_every": 20,
}


_ON_POLICY = "policy optimisation is GRPO, not PPO, which TRL no longer has"


_SMALL_STEPS = "100 steps of 32 pairs at 5e-4 for the reward model, 40 of 32 responses at 2e-4 for the policy"
