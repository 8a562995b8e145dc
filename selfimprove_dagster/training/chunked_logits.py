"""Log-probabilities of labelled tokens without the logits of all positions at once, on a CPU.

On a GPU, TRL's fused output layer does this with a kernel. Without the kernel it projects every position, prompts and
padding too, in tiles of 4,096 positions with several copies of each. Imports torch and transformers.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

from selfimprove_dagster.training.adapters import inner

IGNORED = -100
"""Label of a token that carries no loss."""


def chunk_logits(model: Any, positions: int) -> None:
    """Let a causal language model give log-probabilities from the logits of some positions at a time.

    `model(input_ids=…, labels=…, in_chunks=True)` returns `log_probs` and `entropy`, [rows, length − 1], of the labels
    after the first, 0 where a label is IGNORED; `entropy` is None unless asked for with `with_entropy=True`. Logits are
    divided by `temperature`. They are computed again in the backward pass, so that never more than those of
    `positions` positions are in memory.
    """
    model = inner(model)
    forward = model.forward

    @functools.wraps(type(model).forward)
    def chunked(self: Any, *args: Any, in_chunks: bool = False, **named: Any) -> Any:
        if not in_chunks:
            return forward(*args, **named)
        return _in_chunks(self, positions, *args, **named)

    model.forward = types.MethodType(chunked, model)


def _in_chunks(
    model: Any,
    positions: int,
    *args: Any,
    labels: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    **named: Any,
) -> FusedCausalLMOutput:
    named["use_cache"] = False
    outputs = getattr(model, model.base_model_prefix)(*args, **named)
    is_target = labels[:, 1:] != IGNORED
    hidden = outputs.last_hidden_state[:, :-1][is_target]
    targets = labels[:, 1:][is_target]

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with _given(model, type(outputs)(**{**outputs, "last_hidden_state": hidden[None]})):
            logits = type(model).forward(model, input_ids=None, use_cache=False).logits[0].float()
        if temperature != 1:
            logits = logits / temperature
        log_probabilities = logits.log_softmax(-1)
        entropies = torch.zeros_like(targets, dtype=torch.float32)
        if with_entropy:
            with torch.no_grad():
                entropies = -(log_probabilities.exp() * log_probabilities).sum(-1)
        return log_probabilities.gather(-1, targets[:, None]).squeeze(-1), entropies

    found = [
        checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(hidden.split(positions), targets.split(positions), strict=True)
    ]
    logprobs, entropies = (torch.cat([one[at] for one in found]) for at in (0, 1))
    nothing = torch.zeros(is_target.shape, device=labels.device)
    return FusedCausalLMOutput(
        log_probs=nothing.masked_scatter(is_target, logprobs),
        entropy=nothing.masked_scatter(is_target, entropies) if with_entropy else None,
        label_mask=is_target,
    )


@contextmanager
def _given(model: Any, outputs: Any) -> Iterator[None]:
    """Let the body of a model return outputs that are known, so that its own forward pass goes on from there.

    What a model does to its logits besides the output layer, such as to scale or cap them, is done as ever.
    """
    name = model.base_model_prefix
    body = model._modules[name]
    model._modules[name] = _Known(outputs)
    try:
        yield
    finally:
        model._modules[name] = body


class _Known(torch.nn.Module):
    """Returns outputs that are known."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._outputs
