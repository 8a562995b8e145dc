"""Define presets: the values of the fields that an experiment file leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GATED = "a checkpoint is taken over only if held-out questions show it better than the champion and the base model"
"""The deviation of every preset named `paper` that trains: the papers have no such gate; see `promotion.rule`."""


@dataclass(frozen=True)
class Preset:
    """Values for fields that a file leaves out, and their differences from the paper."""

    values: Mapping[str, Any]
    deviations: tuple[str, ...]
