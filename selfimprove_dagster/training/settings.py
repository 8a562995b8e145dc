"""The settings and the results of every training run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.adapter_settings import AdapterSettings, check_adapter
from selfimprove_dagster.training.memory import MemorySettings
from selfimprove_dagster.training.validation import (
    VALIDATION_LOSS,
    ValidationSettings,
    check_validation,
)
from selfimprove_dagster.training.watching import WatchSettings, check_watch

LogEntry = dict[str, float]


@dataclass(frozen=True)
class Launch:
    """The processes that train one model together, which `launching.launch` starts.

    There are `processes` on each of `nodes` machines, one a GPU. With `ddp` each has the whole model, with `fsdp2` a
    share of its weights, gradients and optimizer state. `by` is what starts them; it does not change the weights.
    """

    processes: int = 1
    nodes: int = 1
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    by: Literal["torchrun", "ray"] = "torchrun"

    @property
    def total(self) -> int:
        """Return the number of processes on all nodes."""
        return self.processes * self.nodes

    @property
    def determining(self) -> dict[str, Any] | None:
        """Return what changes the weights; None for one process."""
        return {"processes": self.total, "strategy": self.strategy} if self.total > 1 else None


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    `steps` are optimizer steps, each on `batch_size` × `gradient_accumulation` examples, of all processes together:
    several train on the same examples in the same step as one. The learning rate
    rises from 0 during the first `warmup_fraction` of the steps, then stays (constant) or falls to 0 (linear,
    cosine). `max_length` is in tokens, prompt and completion together; a model that has fewer positions
    lowers it. `save_every` is in steps; it does not change the result. With `adapter` an adapter is trained instead of
    all weights. Settings that are None are not recorded.

    `epochs` are passes over the examples that are trained on, and give the steps in place of `steps`, which is then 0.
    `validation` holds examples out to measure the loss on. `mix_share` is the share of general examples in every batch,
    in supervised training. `watch` is where people watch it; it changes nothing, and is not recorded.
    """

    packs: ClassVar[bool] = False
    """Whether examples may share a row."""
    nested: ClassVar[Mapping[str, type]] = {
        "adapter": AdapterSettings,
        "memory": MemorySettings,
        "launch": Launch,
        "validation": ValidationSettings,
        "watch": WatchSettings,
    }
    """The settings that are objects, which a job has in plain data."""

    steps: int
    learning_rate: float
    batch_size: int
    warmup_fraction: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    max_length: int = 1024
    gradient_accumulation: int = 1
    save_every: int = 100
    adapter: AdapterSettings | None = None
    memory: MemorySettings | None = None
    launch: Launch | None = field(default=None, kw_only=True)
    epochs: float | None = field(default=None, kw_only=True)
    validation: ValidationSettings | None = field(default=None, kw_only=True)
    mix_share: float | None = field(default=None, kw_only=True)
    watch: WatchSettings | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, kind in self.nested.items():
            if isinstance(given := getattr(self, name), Mapping):
                object.__setattr__(self, name, kind(**given))

    @property
    def processes(self) -> int:
        """Return the number of processes that train together."""
        return self.launch.total if self.launch else 1

    @property
    def determining(self) -> dict[str, Any]:
        """Return the settings that change the result, without those that are not set."""
        without = {"save_every", "watch"} | (set() if self.epochs is None else {"steps"})
        settings = {**asdict(self), "launch": self.launch.determining if self.launch else None}
        return {name: value for name, value in settings.items() if name not in without and value is not None}

    def planned(self, examples: int, per_step: int | None = None) -> Self:
        """Return the settings with the steps that `epochs` over so many examples take, rounded up.

        `per_step` are the examples of one step, by default all of its batches.
        """
        if self.epochs is None:
            return self
        each = (per_step or self.batch_size * self.gradient_accumulation) * (1 - (self.mix_share or 0.0))
        return replace(self, steps=max(math.ceil(self.epochs * examples / each - 1e-9), 1))


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did.

    `tokens` counts prompt and completion tokens over all steps, padding left out; `examples` those trained on, each
    once however often it was seen; `dropped` those that are too long or cannot be asked, which `left_out` has by index,
    with the problem. `seconds` is the time in training, interrupted attempts up to the checkpoint they left included.
    Losses are means, in nats: `first_loss` of step 1, `final_loss` of the steps since the entry before the last in
    `log`. The entries of `log` have step, loss, learning_rate, grad_norm and seconds, and what the kind of training
    adds to them; where examples are held out, also `validation_loss` at the steps after which it was measured.

    `steps` are those that were done: fewer than asked for where the validation loss stopped falling. `held_out` has the
    examples that were not trained on but measured, by index, and `kept_step` is the step whose weights are kept, None
    for the last. `mixed` has the general examples that were trained on, by index; they are not among the `examples`.
    """

    path: Path
    steps: int
    tokens: int
    examples: int
    dropped: int
    seconds: float
    first_loss: float
    final_loss: float
    log: list[LogEntry]
    left_out: list[tuple[int, str]] = field(default_factory=list, kw_only=True)
    held_out: list[int] = field(default_factory=list, kw_only=True)
    kept_step: int | None = field(default=None, kw_only=True)
    mixed: list[int] = field(default_factory=list, kw_only=True)

    @property
    def validation_losses(self) -> list[tuple[int, float]]:
        """The losses on the held-out examples, each with its step."""
        return [
            (int(entry["step"]), entry[VALIDATION_LOSS]) for entry in self.log if VALIDATION_LOSS in entry
        ]


def longer_than(most: float, lengths: Mapping[int, int]) -> list[tuple[int, str]]:
    """Return which examples have more than `most` tokens, by index, with the problem in words; `lengths` are by
    index."""
    return [
        (number, f"too_long: {length:,} tokens, and training takes at most {most:,} of an example")
        for number, length in lengths.items()
        if length > most
    ]


def none_usable(
    what: str, refused: Sequence[tuple[int, str]], longer: int, max_length: float
) -> TrainingError:
    """Return the error for data of which nothing can be trained on."""
    said = [f"{longer:,} {what} are longer than {max_length:,} tokens"] if longer else []
    said += [f"{len(refused):,} cannot be asked, the first since {refused[0][1]}"] if refused else []
    return TrainingError(f"There is nothing to train on: {', and '.join(said)}.")


def check_settings(settings: TrainingSettings, device: str, dtype: str) -> None:
    """Raise TrainingError for the first setting that makes no sense, by its name."""
    if settings.epochs is not None and settings.steps:
        raise TrainingError(f"steps is {settings.steps} and epochs {settings.epochs}; give one of them.")
    counts = ("batch_size", "max_length", "gradient_accumulation", "save_every")
    for name in counts if settings.epochs is not None else ("steps", *counts):
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name} is {getattr(settings, name)}; it must be at least 1.")
    if settings.epochs is not None and not 0 < settings.epochs < math.inf:
        raise TrainingError(f"epochs is {settings.epochs}; it must be above 0.")
    if settings.mix_share is not None and not 0 < settings.mix_share < 1:
        raise TrainingError(f"mix_share is {settings.mix_share}; it must lie between 0 and 1.")
    if settings.watch is not None:
        check_watch(settings.watch)
    if settings.validation is not None:
        check_validation(settings.validation)
    if not (0 < settings.learning_rate < math.inf):
        raise TrainingError(f"learning_rate is {settings.learning_rate}; it must be above 0.")
    if not 0 <= settings.warmup_fraction <= 1:
        raise TrainingError(f"warmup_fraction is {settings.warmup_fraction}; it must lie between 0 and 1.")
    if settings.schedule not in ("constant", "linear", "cosine"):
        raise TrainingError(f"schedule is {settings.schedule!r}; it must be constant, linear or cosine.")
    if settings.adapter is not None:
        check_adapter(settings.adapter)
    if settings.launch is not None:
        _check_launch(settings.launch, settings.batch_size)
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f'device is {device!r}; it must be "auto", "cpu" or "cuda".')
    if dtype not in ("float32", "bfloat16"):
        raise TrainingError(f'dtype is {dtype!r}; it must be "float32" or "bfloat16".')


def _check_launch(launch: Launch, batch_size: int) -> None:
    for name in ("processes", "nodes"):
        if getattr(launch, name) < 1:
            raise TrainingError(f"launch.{name} is {getattr(launch, name)}; it must be at least 1.")
    if launch.strategy not in ("ddp", "fsdp2"):
        raise TrainingError(f"launch.strategy is {launch.strategy!r}; it must be ddp or fsdp2.")
    if launch.by not in ("torchrun", "ray"):
        raise TrainingError(f"launch.by is {launch.by!r}; it must be torchrun or ray.")
    if batch_size % launch.total:
        raise TrainingError(
            f"batch_size is {batch_size} and {launch.total} processes share a batch; it must be a multiple of "
            f"{launch.total}."
        )


def check_tokens(name: str, prompt: list[int], completion: list[int], vocabulary: int) -> None:
    """Raise TrainingError where the completion has no token to predict, or an id is not of the vocabulary."""
    if not completion or len(prompt) + len(completion) < 2:
        raise TrainingError(f"{name} has no completion token to predict.")
    check_vocabulary(name, [*prompt, *completion], vocabulary)


def check_vocabulary(name: str, token_ids: list[int], vocabulary: int) -> None:
    """Raise TrainingError where a token id is below 0 or not below `vocabulary`."""
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0 or highest >= vocabulary:
        raise TrainingError(
            f"{name} has token id {lowest if lowest < 0 else highest}; the model's vocabulary "
            f"has {vocabulary}. Tokenise with the base model's tokenizer."
        )


def hash_token_ids(sequences: Iterable[list[int]]) -> str:
    """`b2:` and 32 hex digits over sequences of token ids, in their order."""
    return hash_texts(map(str, sequences))


def hash_texts(texts: Iterable[str]) -> str:
    """`b2:` and 32 hex digits over texts, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{text}\n".encode(errors="surrogatepass"))
    return f"b2:{digest.hexdigest()}"
