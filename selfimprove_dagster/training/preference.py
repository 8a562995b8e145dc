"""Direct preference optimisation with soft labels: `optimise_preferences`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome, TrainingSettings


@dataclass(frozen=True)
class PreferenceSettings(TrainingSettings):
    """How to optimise preferences directly; `beta` is β: the higher, the closer to the base."""

    beta: float = 0.1


def optimise_preferences(
    base: str | Path,
    comparisons: Sequence[Comparison],
    output: Path,
    settings: PreferenceSettings,
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
) -> TrainingOutcome:
    """DPO from `base`, which is also the reference."""
    raise NotImplementedError
