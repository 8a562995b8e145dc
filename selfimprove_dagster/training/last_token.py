"""Reads a reward model's rewards: the forward pass that training and scoring share. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from selfimprove_dagster.training.adapters import inner


def last_token_rewards(model: Any, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Return the reward at each row's last token: `input_ids` [rows, length], padded on the right → [rows].

    No token sees what follows it, so the padding needs no mask.
    """
    model = inner(model)
    hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    rows = torch.arange(len(lengths), device=hidden.device)
    rewards: Tensor = model.score(hidden[rows, lengths - 1]).squeeze(-1).float()
    return rewards
