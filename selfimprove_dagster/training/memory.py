"""What a training does to need less memory: `MemorySettings`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from selfimprove_dagster.errors import TrainingError

_ADAMW_8BIT = ("adamw_8bit", "paged_adamw_8bit")


@dataclass(frozen=True)
class MemorySettings:
    """How to train in less memory.

    `checkpointing` keeps the inputs of each layer only and computes the layer again in the backward pass (Chen et al.,
    arXiv 1604.06174). `weights` is the number format of the weights, gradients and moments that are trained; in
    bfloat16, changes of a weight by less than 0.4% are rounded, often to nothing. `optimiser` keeps its moments in
    blocks of 8 bits (Dettmers et al., arXiv 2110.02861), `paged` in memory that moves between GPU and processor.
    `packing` puts the examples of a batch one after another into as few rows of `max_length` tokens as hold them; no
    token sees another example. `logits` is the number of positions whose logits are computed at once on a CPU, None
    for all; on a GPU, a kernel of TRL computes them in tiles. `liger` computes norms, rotations and activations with
    the kernels of Liger.
    """

    checkpointing: bool = False
    weights: Literal["float32", "bfloat16"] = "float32"
    optimiser: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    packing: bool = False
    logits: int | None = 256
    liger: bool = False

    def arguments(self, on_cpu: bool) -> dict[str, Any]:
        """Return what TRL's configurations take of these settings."""
        # On a CPU the fused kernel is no faster, and its many short parallel sections stall on a busy one.
        adamw = "adamw_torch" if on_cpu else "adamw_torch_fused"
        return {
            "optim": adamw if self.optimiser == "adamw" else self.optimiser,
            # TRL sets it unless told otherwise.
            "gradient_checkpointing": self.checkpointing,
            **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if self.checkpointing else {}),
            **({"use_liger_kernel": True} if self.liger else {}),
        }

    @property
    def bytes_per_parameter(self) -> int:
        """Return the bytes that weights, gradients and moments take for each parameter that is trained."""
        each = 2 if self.weights == "bfloat16" else 4
        return 2 * each + (2 if self.optimiser in _ADAMW_8BIT else 2 * each)


AS_IT_COMES = MemorySettings(logits=None)
"""The settings of a training that has none."""


def cpu_problems(settings: MemorySettings) -> Iterator[str]:
    """Yield why settings cannot be had without a GPU, one sentence each."""
    if settings.optimiser == "paged_adamw_8bit":
        yield (
            "memory.optimiser is paged_adamw_8bit, which moves its moments between the memory of a GPU and that of the "
            "processor, and this training runs on a CPU: set it to adamw_8bit, which takes as little"
        )
    if settings.liger:
        yield (
            "memory.liger is true, and Liger's kernels are Triton programs, which run on GPUs only; this training runs "
            "on a CPU: leave it out"
        )


def check_memory_settings(settings: MemorySettings, *, on_cpu: bool, packs: bool) -> None:
    """Raise TrainingError for what this machine or this kind of training cannot do; `packs`: it takes examples."""
    if settings.weights not in ("float32", "bfloat16"):
        raise TrainingError(f"memory.weights is {settings.weights!r}; it must be float32 or bfloat16.")
    if settings.optimiser not in ("adamw", *_ADAMW_8BIT):
        raise TrainingError(
            f"memory.optimiser is {settings.optimiser!r}; it must be adamw, adamw_8bit or paged_adamw_8bit."
        )
    if settings.logits is not None and settings.logits < 1:
        raise TrainingError(f"memory.logits is {settings.logits}; it must be at least 1.")
    if settings.packing and not packs:
        raise TrainingError("memory.packing is for supervised training only: leave it out.")
    for problem in cpu_problems(settings) if on_cpu else ():
        raise TrainingError(f"{problem}.")
    for wanted, module, extra in (
        (settings.optimiser in _ADAMW_8BIT, "bitsandbytes", "memory"),
        (settings.liger, "liger_kernel", "liger"),
    ):
        if wanted and find_spec(module) is None:
            raise TrainingError(
                f"The memory settings need the package {module}, which is not installed: install the extra "
                f"`selfimprove_dagster[{extra}]`."
            )
