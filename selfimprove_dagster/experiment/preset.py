"""Define presets: the values of the fields that an experiment file leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GATED = "a checkpoint is taken over only if held-out questions show it better than the champion and the base model"
"""The deviation of every preset named `paper` that trains: the papers have no such gate; see `promotion.rule`."""


@dataclass(frozen=True)
class Preset:
    """Values for fields that a file leaves out, and their differences from the paper.

    `trained` are differences too: those of the training, of lengths and of prompts, which do not hold in the presets
    for sizes (`experiment.sizes`). These take the other values of the preset `practical`, and those of its `sized`,
    which suit large models better.
    """

    values: Mapping[str, Any]
    deviations: tuple[str, ...]
    trained: tuple[str, ...] = ()
    sized: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_deviations(self) -> tuple[str, ...]:
        """Return all differences from the paper."""
        return (*self.deviations, *self.trained)
