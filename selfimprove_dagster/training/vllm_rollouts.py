"""What a policy writes with while it is trained, where that is vLLM: `VllmRollouts`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from selfimprove_dagster.errors import TrainingError


@dataclass(frozen=True)
class VllmRollouts:
    """An instance of vLLM beside the trainer, on the same GPU, which gets the trained weights before each step.

    `gpu_memory` is the share of the GPU's memory that it may use, and `tensor_parallel` the number of processes that
    share one instance. vLLM draws faster than the decoder, but without a seed for each completion: the same training
    draws other completions when it is repeated or resumed. TRL weighs the tokens by the ratio of both engines'
    probabilities (Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025).
    """

    gpu_memory: float = 0.3
    tensor_parallel: int = 1


ON_CPU = (
    "rollouts asks for vLLM, which shares a GPU with the trainer, and this training runs on a CPU: leave it out; the "
    "policy then writes with the trainer's own decoder"
)
"""Why a training on a CPU refuses it."""


def check_rollouts(rollouts: VllmRollouts | None, *, algorithm: str, on_cpu: bool, processes: int) -> None:
    """Raise TrainingError for what this machine or this training cannot do."""
    if rollouts is None:
        return
    if on_cpu:
        raise TrainingError(f"{ON_CPU}.")
    if algorithm != "grpo":
        raise TrainingError(
            f"rollouts asks for vLLM, which {algorithm} does not correct for: leave it out, or set algorithm to grpo."
        )
    if not 0 < rollouts.gpu_memory < 1:
        raise TrainingError(f"rollouts.gpu_memory is {rollouts.gpu_memory}; it must be between 0 and 1.")
    if processes % rollouts.tensor_parallel:
        raise TrainingError(
            f"rollouts.tensor_parallel is {rollouts.tensor_parallel}; it must divide launch.processes, {processes}."
        )
    if find_spec("vllm") is None:
        raise TrainingError(
            "rollouts asks for vLLM, which is not installed: install the extra `selfimprove_dagster[vllm]`."
        )
