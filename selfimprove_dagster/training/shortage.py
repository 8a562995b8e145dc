"""What helps where a training runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.language_model.weights import parameters
from selfimprove_dagster.training.memory import AS_IT_COMES, MemorySettings
from selfimprove_dagster.training.settings import TrainingSettings


@contextmanager
def explained(base: Path, settings: TrainingSettings, trust_remote_code: bool) -> Iterator[None]:
    """Turn a lack of memory inside into a TrainingError that names the settings that help most."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        helps = "; ".join(remedies(base, settings, trust_remote_code)[:3])
        raise TrainingError(
            f"Out of memory with batches of {settings.batch_size}. What helps most here: {helps}."
        ) from error


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return whether a GPU, Python or torch's allocator for a CPU had no memory left."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def remedies(base: Path, settings: TrainingSettings, trust_remote_code: bool) -> list[str]:
    """Return the settings that would save memory in a training of `base` and are not set, the most helpful first."""
    memory = settings.memory or AS_IT_COMES
    size = _Size.of(base, trust_remote_code)
    trained = memory.bytes_per_parameter * size.parameters
    adapted = settings.adapter is not None
    found: list[tuple[float, str]] = []
    if not adapted:
        weights = trained / memory.bytes_per_parameter * (2 if memory.weights == "bfloat16" else 4)
        found.append((trained - weights, "set adapter, which trains LoRA's few parameters only"))
    activations = size.activations(settings.batch_size, settings.max_length)
    logits = size.logits(settings.batch_size * settings.max_length)
    if memory.checkpointing:
        activations /= _CHECKPOINTED
    else:
        found.append((activations * (1 - 1 / _CHECKPOINTED), "set memory.checkpointing to true"))
    if memory.logits is None:
        found.append((logits, "set memory.logits to 256"))
        activations += logits
    if settings.batch_size > 1:
        found.append((activations / 2, "halve batch_size and double gradient_accumulation"))
    found.append((activations / 4, f"lower max_length, now {settings.max_length}"))
    if not adapted:
        for change, text in (
            ({"optimiser": "adamw_8bit"}, "set memory.optimiser to adamw_8bit"),
            ({"weights": "bfloat16"}, "set memory.weights to bfloat16"),
        ):
            less = MemorySettings(
                **{"optimiser": memory.optimiser, "weights": memory.weights, **change}  # type: ignore[arg-type]
            )
            found.append((trained - less.bytes_per_parameter * size.parameters, text))
    return [text for saved, text in sorted(found, key=lambda one: -one[0]) if saved > 0]


_CHECKPOINTED = 6
"""By which factor checkpointing divides the memory of activations, about."""


@dataclass(frozen=True)
class _Size:
    """What decides the memory of a training besides its settings; 0 where the model does not say."""

    parameters: int
    layers: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, base: Path, trust_remote_code: bool) -> _Size:
        from transformers import AutoConfig

        whole = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
        config = whole.get_text_config()
        layers, width, vocabulary = (
            getattr(config, name, 0) or 0 for name in ("num_hidden_layers", "hidden_size", "vocab_size")
        )
        return cls(parameters(base), layers, width, vocabulary)

    def activations(self, rows: int, length: int) -> float:
        """Return the bytes of activations of a batch without checkpointing.

        34 values of 2 bytes per layer, token and channel, without the attention weights, which the kernels do not keep
        (Korthikanti et al., arXiv 2205.05198, equation 1).
        """
        return 2 * 34.0 * self.layers * self.width * rows * length

    def logits(self, positions: int) -> float:
        """Return the bytes of the logits of positions, with their gradient and their probabilities in float32."""
        return 3 * 4.0 * self.vocabulary * positions
