"""Define the sections of an experiment file, with a description of each field."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selfimprove_dagster.answers.languages import Conventions


@dataclass(frozen=True)
class NamesPath:
    """Marks a field whose text names a file or a model (a folder, or a name on the Hub).

    When an experiment file is read, variables in such a field are replaced, `embedded` denotes the file or
    model of the method, and a relative path starts at the folder of the file. Data may also be a folder of files, a
    pattern such as `shards/*.jsonl.gz`, or a data set of the Hugging Face Hub (`hf:owner/name/split@commit`). Code is
    an object in a Python file, such as `my_file.py:thing`, or a name that an installed package offers.
    """

    is_model: bool = False
    is_data: bool = False
    is_code: bool = False


@dataclass(frozen=True)
class Whole:
    """Marks a field with several values by name, of which a file gives either none or all."""


@dataclass(frozen=True)
class Instead:
    """Marks a field that is given in place of another: a file that gives one of them takes neither from the preset."""

    of: str


FilePath = Annotated[str, NamesPath()]
DataPath = Annotated[str, NamesPath(is_data=True)]
ModelPath = Annotated[str, NamesPath(is_model=True)]
CodeName = Annotated[str, NamesPath(is_code=True)]


class Section(BaseModel):
    """A part of an experiment file. Undeclared fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds or may hold (`AdaptiveSection | None`)."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


class BatchSection(Section):
    """How requests are sent in batches (`/batches`), which a provider answers within a day and for less money."""

    poll: float = Field(30.0, gt=0, description="seconds between two looks at a batch")
    most: int = Field(50_000, ge=1, description="maximum number of requests in a batch")


class ServerSection(Section):
    """A server with the OpenAI protocol for completions (engine `openai`) or chat (engine `chat`)."""

    url: str | list[str] = Field(
        "http://127.0.0.1:8000/v1",
        min_length=1,
        description="address of the API, or a list of addresses of servers of the same model, of which the least "
        "busy one is asked; with the engine chat, host and path of the first are part of the model's id",
    )
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable with the key, if any")
    concurrency: int = Field(64, ge=1, description="maximum number of parallel requests per server")
    requests_per_minute: float | None = Field(
        None, gt=0, description="maximum number of requests per minute, evenly spaced; omit for no limit"
    )
    tokens_per_minute: float | None = Field(
        None,
        gt=0,
        description="maximum number of tokens per minute, of prompts and of max_tokens; omit for no limit",
    )
    deadline: float = Field(300.0, gt=0, description="time limit of a request in seconds")
    attempts: int = Field(8, ge=1, description="maximum number of attempts per request")
    send_seeds: bool = Field(
        True, description="false for servers that fail on seeds, such as vLLM on a CPU; runs then differ"
    )
    batch: BatchSection | None = Field(
        None,
        exclude_if=lambda batch: batch is None,
        description="send a shard's requests in batches (`batch: {}`), which take up to a day; with the engine chat",
    )

    @property
    def urls(self) -> list[str]:
        """Return all addresses."""
        return [self.url] if isinstance(self.url, str) else self.url


class ChatSection(Section):
    """A provider's model, for the engine `chat`. All of these fields are part of the model's id."""

    api: Literal["openai", "litellm"] = Field(
        "openai",
        description="`openai`: a provider with /chat/completions at server.url; `litellm`: any provider that LiteLLM "
        "knows by the prefix of model.path (`anthropic/…`), with server.url only for an address of your own",
    )
    snapshot: str = Field(
        "",
        description="any text; change it when the provider has changed the model, and results are made anew",
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of every request, e.g. `reasoning_effort: low`; null leaves out a field",
    )
    answers: int = Field(
        1,
        ge=1,
        description="how often a judge is asked for an option where the provider gives no log-probabilities: once at "
        "temperature 0, or several times at temperature 1",
    )


class PricesSection(Section):
    """The prices of a provider's model, in dollars per million tokens."""

    input: float = Field(ge=0, description="price of the tokens of prompts")
    output: float = Field(ge=0, description="price of the tokens of completions")
    batch: float | None = Field(
        None,
        ge=0,
        le=1,
        exclude_if=lambda batch: batch is None,
        description="share of these prices that answers in batches cost, e.g. 0.5; omit for all of it",
    )


_HAVE_FIELDS = {
    "host": "it is always this machine",
    "port": "set model.vllm.serve.port",
    "dtype": "set model.dtype",
    "trust_remote_code": "set model.trust_remote_code",
    "tensor_parallel_size": "set model.vllm.tensor_parallel",
    "data_parallel_size": "set model.vllm.serve.data_parallel",
    "gpu_memory_utilization": "set model.vllm.memory_share",
    "max_model_len": "set model.vllm.max_length",
    "quantization": "set model.vllm.quantisation",
    "lora_modules": "set model.vllm.lora",
    "model": "set model.path",
    "served_model_name": "the server has no other users",
    "api_key": "the server has no other users",
}
"""Options of `vllm serve` that `model.vllm.serve.arguments` must not name, and what to do instead."""


class ServeSection(Section):
    """A `vllm serve` that a stage starts, asks and stops, instead of vLLM in its own process."""

    data_parallel: int = Field(
        1, ge=1, description="number of copies of the model, each on tensor_parallel GPUs of its own"
    )
    port: int = Field(0, ge=0, le=65535, description="port on this machine; 0 for a free one")
    concurrency: int = Field(256, ge=1, description="maximum number of parallel requests per copy")
    deadline: float = Field(3600.0, gt=0, description="time limit of a request in seconds")
    start_limit: float = Field(
        1200.0, gt=0, description="time limit in seconds for loading the model, until the server answers"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="further options of `vllm serve`, e.g. `max_num_seqs: 512` or `enable_prefix_caching: false`",
    )

    @model_validator(mode="after")
    def _no_field_twice(self) -> ServeSection:
        for name in self.arguments:
            if remedy := _HAVE_FIELDS.get(name.replace("-", "_")):
                raise ValueError(f"arguments must not name {name}: {remedy}")
        return self


class VllmSection(Section):
    """vLLM, for the engine `vllm`: in the stage's own process, or as a server that the stage starts."""

    tensor_parallel: int = Field(1, ge=1, description="number of GPUs that share the model")
    memory_share: float = Field(0.9, gt=0, le=1, description="share of each GPU's memory that vLLM may take")
    max_length: int | None = Field(
        None, ge=16, description="maximum sequence length in tokens; omit for the model's own"
    )
    quantisation: str | None = Field(
        None, description="vLLM quantisation method, e.g. fp8; omit for no quantisation"
    )
    lora: ModelPath | None = Field(None, description="folder of a LoRA adapter over the base model")
    serve: ServeSection | None = Field(
        None,
        exclude_if=lambda serve: serve is None,
        description="start `vllm serve` for each stage and stop it at the end; omit for vLLM in the stage's process",
    )


class ThinkingSection(Section):
    """The marks around a model's thoughts, after which it answers; thoughts without an end have no answer."""

    open: str = Field("<think>", min_length=1, description="mark before the thoughts")
    close: str = Field("</think>", min_length=1, description="mark after the thoughts")
    keep: bool = Field(
        False, description="keep the thoughts in the texts, so that examples are trained on with them"
    )


class StructureSection(Section):
    """What a text has to match as a whole: one of the two."""

    regex: str | None = Field(None, description="regular expression that the whole text matches")
    json_schema: FilePath | dict[str, Any] | None = Field(
        None,
        description="JSON schema that the text matches, in the experiment's file or in a JSON file of its own",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> StructureSection:
        if (self.regex is None) == (self.json_schema is None):
            raise ValueError("give either regex or json_schema")
        return self


class PromptsSection(Section):
    """Changes to the method's prompts, which `selfimprove prompts METHOD` prints."""

    file: FilePath | None = Field(None, description="YAML file with the prompts that are changed")
    stop: dict[str, list[str]] = Field(
        default_factory=dict,
        description="by name of a prompt: the strings that end what the model writes after it",
    )
    structure: dict[str, StructureSection] = Field(
        default_factory=dict,
        description="by name of a prompt: the regular expression or JSON schema that the model's text matches",
    )


class ModelSection(Section):
    """The base model and the engine that runs it."""

    path: ModelPath = Field(
        description="folder with safetensors weights, GGUF file, hub name (`owner/model@revision`), or `embedded`; "
        "with the engine chat, the provider's name of its model"
    )
    engine: Literal["transformers", "vllm", "openai", "chat"] = Field(
        "transformers", description="engine that runs the model; vllm and chat need the extras of these names"
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="number format of the weights; `auto` is float32 on a CPU, the model's own on a GPU; with "
        "float16, training is in float32",
    )
    trust_remote_code: bool = Field(False, description="run Python code of the model")
    prompting: Literal["auto", "chat", "text"] = Field(
        "auto",
        description="`chat`: the chat template renders messages; `text`: the model goes on with a text; `auto`: chat "
        "if the tokenizer has a template",
    )
    system: str = Field("", description="text that comes first in every conversation")
    template: FilePath | Literal["training"] | None = Field(
        None,
        description="file with a chat template instead of the tokenizer's own; `training` for the variant that TRL "
        "knows",
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict, description="values for the chat template, e.g. `enable_thinking: false`"
    )
    thinking: ThinkingSection = ThinkingSection()
    token_budget: int = Field(
        65_536, ge=256, description="maximum number of tokens (rows times length) per batch"
    )
    vllm: VllmSection = VllmSection()
    server: ServerSection = ServerSection()
    chat: ChatSection = ChatSection()
    prices: PricesSection | None = Field(
        None,
        description="what the model's answers cost, where they are paid for; for the engines openai and chat",
    )

    @property
    def is_provided(self) -> bool:
        """Return whether a provider has the model, so that there is no folder with its weights."""
        return self.engine == "chat"

    @property
    def runs_in_process(self) -> bool:
        """Return whether the process that opens the model runs it, and no server does."""
        return self.engine == "transformers" or (self.engine == "vllm" and self.vllm.serve is None)

    @property
    def provider(self) -> dict[str, Any]:
        """Return the arguments of `provider_id` besides the name."""
        own = self.chat.api == "litellm" and self.server.url == ServerSection().url
        url = None if own else self.server.url
        return {"url": url, **self.chat.model_dump()}

    @property
    def determinants(self) -> dict[str, Any]:
        """Return the settings that an activity records of a judge; others change no text, or are in the model's id."""
        later: dict[str, Any] = {
            "chat": True,
            "prices": True,
            "server": {"requests_per_minute", "tokens_per_minute", "batch"},
        }
        return self.model_dump(exclude=later)

    @model_validator(mode="after")
    def _asked_as_providers_are(self) -> ModelSection:
        if self.is_provided and self.prompting == "text" and self.system:
            raise ValueError(
                "a prompt in plain text has no system text: leave out system, or set prompting to chat"
            )
        if self.is_provided and (self.template or self.template_arguments):
            raise ValueError(
                "the engine chat sends messages, which the provider renders: leave out template and "
                "template_arguments (fields of a request are set in chat.request)"
            )
        return self

    @model_validator(mode="after")
    def _has_batches(self) -> ModelSection:
        if self.server.batch is not None and (self.engine, self.chat.api) != ("chat", "openai"):
            raise ValueError("server.batch is for the engine chat with chat.api openai: leave it out")
        if self.server.batch is not None and len(self.server.urls) > 1:
            raise ValueError(
                "server.batch needs one address in server.url, since a batch stays where it was sent"
            )
        return self

    def prompting_options(self) -> dict[str, Any]:
        """Return the arguments of `prompting_of`."""
        return {
            "path": self.path,
            "mode": self.prompting,
            "system": self.system,
            "template": self.template,
            "arguments": self.template_arguments,
            "thinking": self.thinking.model_dump(),
            "trust_remote_code": self.trust_remote_code,
            **({"is_provided": True} if self.is_provided else {}),
        }

    def engine_options(self) -> dict[str, Any]:
        """Return the arguments of `open_language_model` besides the path."""
        common: dict[str, Any] = {
            "engine": self.engine,
            "trust_remote_code": self.trust_remote_code,
            "prompting": self.prompting_options(),
        }
        if self.engine == "vllm":
            return {**common, "dtype": self.dtype, **self.vllm.model_dump()}
        prices = {"prices": self.prices.model_dump()} if self.prices else {}
        if self.engine == "openai":
            return {**common, **self.server.model_dump(), **prices}
        if self.engine == "chat":
            del common["trust_remote_code"]
            return {**common, **self.server.model_dump(), **self.provider, **prices}
        return {**common, **self.model_dump(include={"device", "dtype", "token_budget"})}


class TeacherSection(Section):
    """Mixed into the section of a generator, whose texts may be those of another model than the trained one."""

    model: ModelSection | None = Field(
        None,
        exclude_if=lambda model: model is None,
        description="another model that generates in every iteration, such as a provider's, while `model` is trained; "
        "omit for the model that is trained",
    )

    @property
    def determinants(self) -> dict[str, Any]:
        """Return the settings that an activity records; it names the model by its id."""
        return self.model_dump(exclude={"model"})


class GeneratorSection(Section):
    """The model that generates."""

    learns_from_itself: ClassVar[str] = ""
    """Why no other model can generate, where the section has no field `model`."""

    drawn_by: Literal["base", "champion"] = Field(
        "base", description="the base model, as in the papers, or the latest promoted checkpoint"
    )

    @model_validator(mode="before")
    @classmethod
    def _has_no_teacher(cls, values: Any) -> Any:
        if isinstance(values, dict) and "model" in values and "model" not in cls.model_fields:
            raise ValueError(f"no other model can generate here: {cls.learns_from_itself}")
        return values

    @model_validator(mode="after")
    def _one_generator(self) -> GeneratorSection:
        if self.drawn_by == "champion" and getattr(self, "model", None) is not None:
            raise ValueError("drawn_by is champion, but model names another generator: leave out one of them")
        return self


class AnswersSection(Section):
    """How answers are written in the texts of models and in files. English and some other languages need no entry."""

    decimal: Literal["point", "comma"] = Field(
        "point",
        description="`comma`: `1,2` is a number and `1.234` is 1234; `point`: `1,2` is a list of two numbers",
    )
    phrases: list[str] = Field(
        default_factory=list,
        description="further phrases that introduce an answer, e.g. `vastus on`; one that ends in a colon must open "
        "a line",
    )
    words: dict[str, str] = Field(
        default_factory=dict,
        description="further words with what they mean as the beginning of an answer, e.g. `jah: yes`",
    )

    def conventions(self, *thoughts: tuple[str, str]) -> Conventions:
        """Return the same as the reader takes it, with pairs of marks around thoughts."""
        return Conventions(self.decimal, tuple(self.phrases), tuple(self.words.items()), thoughts)


class AdapterSection(Section):
    """A LoRA adapter, which is trained instead of all weights. The checkpoint is the adapter with its base by id."""

    rank: int = Field(16, ge=1, description="rank r of the adapter's matrices")
    alpha: int = Field(32, ge=1, description="the adapter is added alpha / rank times")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout of the adapter's input; 0 where a policy is optimised on its own texts",
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the layers with an adapter, e.g. [q_proj, v_proj], or `all-linear` for every linear "
        "layer but the output layer",
    )

    quantise: Literal["4bit"] | None = Field(
        None,
        exclude_if=lambda quantise: quantise is None,
        description="`4bit`: hold the base in 4 bits while the adapter is trained (QLoRA); needs the extra memory",
    )
    start: Literal["continue", "merge"] = Field(
        "continue",
        description="where training starts from a model with an adapter: `continue` trains that adapter, `merge` a new "
        "one over the base into which it was merged",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _names_layers(cls, targets: Any) -> Any:
        if not targets or (isinstance(targets, str) and targets != "all-linear"):
            raise ValueError("give all-linear, or a list of names of layers, such as [q_proj, v_proj]")
        return targets


class MemorySection(Section):
    """How a training needs less memory."""

    checkpointing: bool = Field(
        False,
        description="keep the inputs of each layer only and compute the layer again for its gradient; the losses stay "
        "the same",
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="number format of the weights that are trained, of their gradients and of the optimiser's moments; "
        "`bfloat16` rounds off changes of a weight by less than 0.4%",
    )
    optimiser: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw",
        description="`adamw_8bit` keeps the optimiser's moments in 8 bits, and needs the extra `memory`; "
        "`paged_adamw_8bit` moves them between GPU and processor as well, and needs a GPU",
    )
    packing: bool = Field(
        False,
        description="put the examples of a batch into as few rows of `max_length` tokens as hold them; no token sees "
        "another example; for supervised training only",
    )
    logits: int | None = Field(
        256,
        ge=1,
        description="number of positions whose logits are computed at once on a CPU; null for all",
    )
    liger: bool = Field(
        False, description="use the kernels of Liger; needs a GPU and the extra `liger`; not run so far"
    )


class LaunchSection(Section):
    """Several processes that train one model together."""

    processes: int = Field(1, ge=1, description="processes on each node, one per GPU")
    nodes: int = Field(
        1,
        ge=1,
        description="machines; more than one needs $SELFIMPROVE_ON_EVERY_NODE, $SELFIMPROVE_ENDPOINT and a file system "
        "that all share",
    )
    strategy: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="`ddp`: every process has the whole model; `fsdp2`: each has a share of weights, gradients and "
        "optimiser state, on GPUs, and not for grpo or rloo",
    )
    by: Literal["torchrun", "ray"] = Field(
        "torchrun",
        exclude_if=lambda by: by == "torchrun",
        description="what starts them; `ray`: Ray Train in the cluster of $RAY_ADDRESS, or one on this machine; needs "
        "the extra `ray`",
    )


class ValidationSection(Section):
    """Examples that are not trained on but measured while training: when to stop, and which weights to keep."""

    share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the examples that is held out, at random; all examples of a question are on one side",
    )
    every: int = Field(
        20, ge=1, description="optimiser steps between two measurements; the last step is measured, too"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many measurements in a row without a lower loss; omit to train all steps",
    )
    best: bool = Field(
        True, description="keep the weights of the lowest loss; `false` for those of the last step"
    )


class MixSection(Section):
    """General examples that are trained on beside the dataset, so that the model forgets less."""

    file: DataPath = Field(
        description="path of a file, folder or pattern, or `hf:owner/name/split@commit`: rows with `messages`, with a "
        "prompt and a completion, or with a `text`; or plain text, a line an example"
    )
    share: float = Field(
        0.1, gt=0, lt=1, description="share of the examples of every batch that are general ones"
    )
    licence: str = Field("unknown", description="licence of the file, stored with the checkpoint")


class PerplexitySection(Section):
    """Plain text whose perplexity is measured before and after training, since a model that learns also forgets."""

    file: FilePath = Field(description="path of a plain text file, in UTF-8")
    maximum_rise: float | None = Field(
        None,
        ge=0,
        description="share by which the perplexity may rise over that of the base model; a higher one blocks the "
        "checkpoint; omit to warn of a rise of more than a tenth",
    )


STEPS: Any = Field(
    None,
    ge=1,
    exclude_if=lambda steps: steps is None,
    description="optimiser steps; or give epochs",
)


class TrainerSection(Section):
    """What every training may set besides its optimiser; each of these is recorded only where it is set."""

    learns: ClassVar[Literal["examples", "pairs", "policy"]] = "examples"
    """What is learnt from: examples, comparisons, or what the policy writes itself."""

    steps: int | None
    learning_rate: float
    adapter: AdapterSection | None = Field(
        None,
        exclude_if=lambda adapter: adapter is None,
        description="train a LoRA adapter (`adapter: {}`); omit to train all weights",
    )
    memory: MemorySection | None = Field(
        None,
        exclude_if=lambda memory: memory is None,
        description="how training needs less memory; `memory: {}` computes logits in parts",
    )
    launch: LaunchSection | None = Field(
        None,
        exclude_if=lambda launch: launch is None,
        description="train in several processes, which share each batch; omit for the step's own process",
    )
    epochs: Annotated[float | None, Instead("steps")] = Field(
        None,
        gt=0,
        exclude_if=lambda epochs: epochs is None,
        description="passes over the examples that are trained on, in place of steps",
    )
    validation: ValidationSection | None = Field(
        None,
        exclude_if=lambda validation: validation is None,
        description="hold out a share of the examples to stop early and to keep the best weights (`validation: {}`)",
    )
    accumulate: bool = Field(
        False,
        exclude_if=lambda accumulate: not accumulate,
        description="train on the datasets of the experiment's earlier iterations, too",
    )
    watch: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        (),
        exclude_if=lambda watch: not watch,
        description="services that show the loss while training; each needs the extra of its name, keys and addresses "
        "come from the environment, and without these runs stay in the folder `watch` of the installation",
    )

    @property
    def per_step(self) -> int:
        """Return how many examples an optimiser step takes."""
        return int(getattr(self, "batch_size", 1) * getattr(self, "gradient_accumulation", 1))

    def steps_of(self, examples: float) -> int:
        """Return the optimiser steps on so many examples, of which `validation` holds out its share."""
        if self.epochs is None:
            return self.steps or 0
        share = self.validation.share if self.validation else 0.0
        general = mix.share if (mix := getattr(self, "mix", None)) else 0.0
        return max(ceil(self.epochs * examples * (1 - share) / (1 - general) / self.per_step), 1)

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TrainerSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    @model_validator(mode="after")
    def _packs_examples(self) -> TrainerSection:
        if self.memory is not None and self.memory.packing and self.learns != "examples":
            raise ValueError("memory.packing is for supervised training on examples only: leave it out")
        return self

    @model_validator(mode="after")
    def _shares_batches(self) -> TrainerSection:
        size = getattr(self, "batch_size", 0)
        if self.launch and size % (total := self.launch.processes * self.launch.nodes):
            raise ValueError(
                f"batch_size is {size} and launch has {total} processes: choose a multiple of {total}"
            )
        if self.launch and self.launch.strategy == "fsdp2" and self.validation is not None:
            raise ValueError(
                "validation needs the whole weights, and launch.strategy fsdp2 shares them out: use ddp"
            )
        return self


class TrainingSection(TrainerSection):
    """Supervised fine-tuning on the filtered dataset."""

    start_from: Literal["champion", "base"] = Field(description="weights from which training starts")
    steps: int | None = STEPS
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(ge=1, description="examples per step")
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="share of warm-up steps")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(description="learning rate schedule")
    gradient_accumulation: int = Field(1, ge=1, description="batches per step")
    max_length: int = Field(
        1024, ge=16, description="maximum example length in tokens; longer examples are left out"
    )
    save_every: int = Field(
        100, ge=1, description="steps between checkpoints from which a killed run resumes"
    )
    mix: MixSection | None = Field(
        None,
        exclude_if=lambda mix: mix is None,
        description="general examples that are mixed in against forgetting; supervised training only",
    )
    perplexity: PerplexitySection | None = Field(
        None,
        exclude_if=lambda perplexity: perplexity is None,
        description="plain text whose perplexity is measured under base model, champion and checkpoint",
    )


class PromotionSection(Section):
    """The condition for promoting a checkpoint, against the champion and against the base model."""

    rule: Literal["better", "not_worse"] = Field(
        "better",
        description="`better`: the interval of the paired difference lies above zero; `not_worse`: it does "
        "not reach below −margin",
    )
    margin: float = Field(
        0.02, ge=0, le=1, description="loss of accuracy that `not_worse` accepts; 1 accepts any"
    )
    level: float = Field(default=0.05, gt=0, lt=0.5, description="the interval has the confidence 1 − level")

    @property
    def bound(self) -> float:
        """Return the difference that the interval has to lie above."""
        return 0.0 if self.rule == "better" else -self.margin


class CheckpointsSection(Section):
    """Which trained weights stay on the disk. Ids, training curves and lineage of all models stay."""

    keep: Literal["champion", "all"] | Annotated[int, Field(ge=1)] = Field(
        "champion",
        description="after an iteration, keep the weights of every promoted checkpoint and of the last iteration's "
        "(`champion`), of the champion and of the last iterations' (a number, or `last 2`), or of all models, those "
        "from the middle of an iteration too (`all`); pruned weights can be trained again",
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _last(cls, keep: Any) -> Any:
        number = str(keep).removeprefix("last ")
        return int(number) if str(keep) != number and number.isdecimal() else keep


class ToleranceSection(Section):
    """How many rows of a stage may fail, such as prompts that are too long for the model, before it stops."""

    failed_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="maximum share of a stage's completions that could not be generated; those of one prompt alone "
        "never stop it, unless this is 0",
    )


class RetriesSection(Section):
    """How often an attempt that failed for a passing reason is repeated.

    Passing reasons are a killed process, a lack of memory, and a server or a network that does not answer. A blocking
    check and a wrong setting fail again, so they are not repeated until somebody changes something.
    """

    attempts: int = Field(3, ge=1, le=100, description="maximum number of attempts at an iteration in a row")
    wait: float = Field(
        30.0, ge=0, le=86_400, description="seconds before the second attempt; doubled for each further one"
    )

    def wait_after(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, the first of which is 1; at most one hour or `wait`."""
        return min(self.wait * 2.0 ** min(attempt - 1, 60), max(self.wait, 3600.0))


class WorkerResources(Section):
    """What each worker has for itself."""

    cpus: int | None = Field(
        None, ge=1, description="cores of each worker; omit for all of the machine (local) or one (ray)"
    )
    gpus: int | None = Field(None, ge=1, description="GPUs of each worker; omit for no reservation")


class WorkersSection(Section):
    """Processes that work on the shards of a stage at the same time, each with the model open.

    The ids are those of one process, where the engine promises equal texts for equal batches.
    """

    kind: Literal["local", "ray"] = Field(
        "local", description="processes of this machine, or of a Ray cluster (extra `ray`)"
    )
    count: int = Field(2, ge=1, le=4096, description="maximum number of workers")
    resources: WorkerResources = WorkerResources()
    address: str | None = Field(
        None, description="address of the Ray cluster; omit for $RAY_ADDRESS, or else for one on this machine"
    )
    patience: float = Field(
        60.0,
        gt=0,
        description="seconds in which a worker must find a place in the Ray cluster and open the model",
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> WorkersSection:
        if self.kind == "local" and self.address is not None:
            raise ValueError("local workers have no address: leave it out, or set kind to ray")
        return self


class RunSection(Section):
    """Where the work of an iteration runs. It changes no record's id."""

    workers: WorkersSection | None = Field(
        None, description="several workers for one stage; omit to work in the stage's own process"
    )


class OnStopSection(Section):
    """What is done once when the loop ends: finished, blocked by a check, or failed for good."""

    command: str | None = Field(
        None, description="shell command that gets the state as JSON on its standard input"
    )
    url: str | None = Field(
        None,
        description="address that gets the state as JSON by POST; variables such as ${NAME} are replaced from the "
        "environment",
    )


class BudgetSection(Section):
    """The limits that stop the loop, each with a reason as text.

    Tokens, model seconds and money also stop a stage between two shards; the others are checked after an iteration.
    """

    iterations: int = Field(default=3, ge=1, le=999, description="maximum number of iterations")
    tokens: int | None = Field(
        default=None, ge=1, description="maximum number of generated tokens over all iterations"
    )
    model_seconds: float | None = Field(
        default=None, gt=0, description="maximum model time in seconds over all iterations"
    )
    money: float | None = Field(
        default=None,
        gt=0,
        description="maximum cost in dollars over all iterations, of the models with prices",
    )
    hours: float | None = Field(default=None, gt=0, description="maximum hours of work over all iterations")
    minimum_yield: float = Field(
        default=0.01, ge=0, le=1, description="stop if the number of examples per path is below this"
    )
    patience: int = Field(default=2, ge=1, description="stop after this many iterations without a promotion")
