"""The sections of an experiment file, each field with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class NamesPath:
    """Marks a field whose text names a file, or a model: a folder or the name of one on the hub.

    Where an experiment file is read, variables in such a field are replaced, `embedded` stands for what ships
    with the method, and a relative path starts at the file's own folder.
    """

    is_model: bool = False


@dataclass(frozen=True)
class Whole:
    """Marks a field that holds several values by name, of which a file gives either none or all."""


FilePath = Annotated[str, NamesPath()]
ModelPath = Annotated[str, NamesPath(is_model=True)]


class Section(BaseModel):
    """A part of an experiment file. A field that it does not declare is an error."""

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
    lora: ModelPath | None = Field(None, description="folder of a LoRA adapter over the base model")


class ModelSection(Section):
    """The base model and the engine that runs it."""

    path: ModelPath = Field(
        description="folder with safetensors weights, GGUF file, hub name (`owner/model@revision`), or `embedded`"
    )
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers", description="what runs the model; vllm needs the extra of that name"
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="number format of the weights; `auto` is float32 on a CPU, the model's own on a GPU; with "
        "float16, training is in float32",
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


class GeneratorSection(Section):
    """The model that generates."""

    drawn_by: Literal["base", "champion"] = Field(
        "base", description="the base model, as in the papers, or the last promoted checkpoint"
    )


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
