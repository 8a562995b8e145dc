"""The sections of an experiment file, each field with its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PromptFormat = Literal["few_shot_cot", "few_shot_direct", "zero_shot_cot", "zero_shot_direct"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSection(Section):
    """A server that speaks the OpenAI completions protocol, for the engine `openai`."""

    url: str = Field("http://127.0.0.1:8000/v1", description="address of the server's API")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key, if any")
    concurrency: int = Field(64, ge=1, description="most requests at a time")
    deadline: float = Field(300.0, gt=0, description="seconds that one request may take")
    attempts: int = Field(8, ge=1, description="how often a request is sent before its failure is final")
    send_seeds: bool = Field(
        True, description="false for servers that fail on seeds, such as vLLM on a CPU; runs then differ"
    )


class VllmSection(Section):
    """vLLM in this process, for the engine `vllm`."""

    tensor_parallel: int = Field(1, ge=1, description="GPUs that share the model")
    memory_share: float = Field(0.9, gt=0, le=1, description="share of each GPU's memory that vLLM may take")
    max_length: int | None = Field(
        None, ge=16, description="longest sequence in tokens; none for the model's own"
    )
    quantisation: str | None = Field(None, description="one of vLLM's methods, such as fp8; none for none")
    lora: str | None = Field(None, description="folder of a LoRA adapter over the base model")


class ModelSection(Section):
    """The base model and the engine that runs it."""

    path: str = Field(description="folder with safetensors weights, hub name, or `embedded`")
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers", description="what runs the model; vllm needs the extra of that name"
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of the weights; `auto` is float32 on a CPU, the model's own on a GPU",
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    token_budget: int = Field(
        65_536, ge=256, description="largest number of tokens (rows times length) held in one batch"
    )
    vllm: VllmSection = VllmSection()
    server: ServerSection = ServerSection()

    def engine_options(self) -> dict[str, Any]:
        """What `open_language_model` takes besides the path."""
        common: dict[str, Any] = {"engine": self.engine, "trust_remote_code": self.trust_remote_code}
        if self.engine == "vllm":
            return {**common, "dtype": self.dtype, **self.vllm.model_dump()}
        if self.engine == "openai":
            return {**common, **self.server.model_dump()}
        return {**common, **self.model_dump(include={"device", "dtype", "token_budget"})}


class QuestionFile(Section):
    """A file of questions: JSON Lines, a JSON array, CSV, Parquet, or plain text with one a line."""

    file: str = Field(description="path of the file, or `embedded`")
    question_field: str | list[str] = Field(
        "question", description="field that holds the question; several are joined by a space"
    )
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest question in characters; longer ones are rejected")


class EvaluationSection(QuestionFile):
    """Held-out questions with their answers. Used to measure, never to train."""

    answer_field: str = Field("answer", description="field that holds the true answer")
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    majority_questions: int = Field(
        400, ge=0, description="on how many questions the majority vote is measured too"
    )
    majority_paths: int = Field(16, ge=1, description="paths a question for that vote")


class GeneratorSection(Section):
    """The model that generates."""

    drawn_by: Literal["base", "champion"] = Field(
        "base", description="the base model, as in the papers, or the last promoted checkpoint"
    )


class AdaptiveSection(Section):
    """Stop drawing for a question once its vote is decided (Aggarwal et al., 2305.11860)."""

    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="probability that the leading answer is the likelier of the first two"
    )
    least_gain: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="stop too where drawing on would raise that probability by no more, as between equally "
        "likely answers; none is the paper's rule",
    )
    step: int = Field(4, ge=1, description="paths drawn a question before its vote is looked at again")


class SamplingSection(Section):
    """How reasoning paths are drawn."""

    questions: int = Field(ge=1, description="questions in one iteration")
    paths: int = Field(ge=1, le=1024, description="paths a question (m)")
    temperature: float = Field(gt=0, le=5, description="sampling temperature with the base model")
    temperature_improved: float = Field(gt=0, le=5, description="the same with a promoted checkpoint")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    top_k: int = Field(0, ge=0, description="only the k likeliest tokens; 0 switches it off")
    max_tokens: int = Field(ge=1, description="longest path in tokens")
    prompt_format: Literal["few_shot_cot", "zero_shot_cot"] = Field(description="prompt that paths follow")
    stop: list[str] = Field(default_factory=lambda: ["\n\nQ:"], description="strings that end a path")
    adaptive: AdaptiveSection | None = Field(
        None, description="stop drawing once a vote is decided; none draws all paths of every question"
    )
    shard_questions: int = Field(128, ge=1, description="questions a shard: what a killed run loses at most")


class DemonstrationSection(Section):
    """Worked examples for few-shot prompts."""

    file: str = Field("embedded", description="JSON Lines of question, reasoning, answer; or `embedded`")
    count: int = Field(ge=0, le=64, description="demonstrations in a few-shot prompt")


class VotingSection(Section):
    """How the answer of a question is chosen among its paths."""

    rule: Literal["majority", "random_path"] = Field(
        default="majority",
        description="`random_path` takes one path's answer by lot: the control of an ablation",
    )


class FilterSection(Section):
    """Which paths become training examples."""

    minimum_vote_share: float = Field(ge=0, le=1, description="least share of valid votes for the answer")
    minimum_votes: int = Field(1, ge=1, description="least number of valid votes on the question")
    maximum_perplexity: float | None = Field(
        None, gt=1, description="highest perplexity under the generator; none when left empty"
    )
    maximum_paths: int | None = Field(ge=1, description="most examples of one question; null for all")
    drop_duplicates: bool = Field(True, description="keep one of several equal paths of a question")


class TrainingSection(Section):
    """Supervised fine-tuning on the filtered dataset."""

    start_from: Literal["champion", "base"] = Field(description="weights that training starts from")
    steps: int = Field(ge=1, description="optimiser steps")
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="examples a step")
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(description="learning rate over the steps")
    gradient_accumulation: int = Field(1, ge=1, description="batches added up for one step")
    max_length: int = Field(1024, ge=16, description="longest example in tokens; longer ones are left out")
    save_every: int = Field(100, ge=1, description="steps between saves from which a killed run goes on")


class PathTrainingSection(TrainingSection):
    """Supervised fine-tuning on reasoning paths, in several prompt formats."""

    formats: dict[PromptFormat, Annotated[float, Field(ge=0)]] = Field(
        description="share of each training format; direct formats train on the voted answer"
    )

    @field_validator("formats")
    @classmethod
    def _some_format(cls, shares: dict[str, float]) -> dict[str, float]:
        if sum(shares.values()) <= 0:
            raise ValueError("at least one format needs a share above 0")
        return shares

    @property
    def format_shares(self) -> dict[str, float]:
        """`formats` under plain names, those with a share of 0 left out."""
        return {str(name): share for name, share in self.formats.items() if share > 0}


class PromotionSection(Section):
    """When a checkpoint becomes the champion."""

    level: float = Field(
        default=0.05, gt=0, lt=0.5, description="significance level of the paired test that it is not worse"
    )


class BudgetSection(Section):
    """When the loop stops. Each rule gives its reason in words.

    Tokens and model seconds also stop a stage between two shards; all others are asked after an iteration.
    """

    iterations: int = Field(default=3, ge=1, le=999, description="most iterations")
    tokens: int | None = Field(default=None, ge=1, description="most tokens generated, over all iterations")
    model_seconds: float | None = Field(
        default=None, gt=0, description="most seconds in which a model works, over all iterations"
    )
    hours: float | None = Field(default=None, gt=0, description="most hours of work, over all iterations")
    minimum_yield: float = Field(
        default=0.01, ge=0, le=1, description="stop when fewer examples than this come of one path"
    )
    patience: int = Field(default=2, ge=1, description="stop after this many iterations without a promotion")
