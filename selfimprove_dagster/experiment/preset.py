"""Define presets: the values of the fields that an experiment file leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Values for fields that a file leaves out, and their differences from the paper."""

    values: Mapping[str, Any]
    deviations: tuple[str, ...]
