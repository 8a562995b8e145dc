"""The settings with which an adapter is trained; see `adapters`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from selfimprove_dagster.errors import TrainingError

ALL_LINEAR = "all-linear"
"""The targets that are every linear layer but the output layer."""


@dataclass(frozen=True)
class AdapterSettings:
    """How to train an adapter.

    `rank` is r and `alpha` is α: the adapter is added α/r times. `dropout` is that of its input. `targets` are the
    names of the layers that have one, or `all-linear`. `quantise` holds the weights of the base in 4 bits while the
    adapter is trained. `start` says what is done where training starts from an adapter: `continue` trains that one,
    `merge` a new one over the base into which it was merged.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL_LINEAR
    quantise: Literal["4bit"] | None = None
    start: Literal["continue", "merge"] = "continue"

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", [*self.targets])  # as JSON has it


def check_adapter(settings: AdapterSettings) -> None:
    """Raise TrainingError for the first setting that makes no sense, by its name."""
    if settings.rank < 1:
        raise TrainingError(f"adapter.rank is {settings.rank}; it must be at least 1.")
    if settings.alpha < 1:
        raise TrainingError(f"adapter.alpha is {settings.alpha}; it must be at least 1.")
    if not 0 <= settings.dropout < 1:
        raise TrainingError(f"adapter.dropout is {settings.dropout}; it must be at least 0 and below 1.")
    if not settings.targets or (isinstance(settings.targets, str) and settings.targets != ALL_LINEAR):
        raise TrainingError(
            f"adapter.targets is {settings.targets!r}; it must be {ALL_LINEAR}, or a list of names of layers."
        )
    if settings.start not in ("continue", "merge"):
        raise TrainingError(f"adapter.start is {settings.start!r}; it must be continue or merge.")
    if settings.quantise not in (None, "4bit"):
        raise TrainingError(f"adapter.quantise is {settings.quantise!r}; it must be 4bit, or left out.")
    if problem := quantising_problem(settings.quantise):
        raise TrainingError(problem)


def quantising_problem(quantise: str | None) -> str:
    """Return why this installation cannot quantise a base; empty if it can, or need not."""
    if quantise is None or find_spec("bitsandbytes") is not None:
        return ""
    return (
        f"adapter.quantise is {quantise}, which needs bitsandbytes: install the extra "
        "`selfimprove_dagster[memory]`, or leave it out"
    )
