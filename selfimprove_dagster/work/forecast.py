"""Represent the forecast of an iteration, stage by stage: tokens, time and disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A range from `low` to `high`."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class StageForecast:
    """The forecast of one stage: tokens, seconds, and bytes that stay on the disk.

    The tokens are generated ones, or, if `generates` is False, those that a model is trained on.
    """

    stage: str
    tokens: Range
    seconds: Range
    bytes: float
    generates: bool = True


@dataclass(frozen=True)
class Forecast:
    """The forecast of an iteration, stage by stage; at most `iterations` of this size fit into the budget.

    `limited_by` is the limiting field of the budget. `scratch` is the number of bytes that training needs
    temporarily. `assumed` lists the assumptions. `at_most`: fewer tokens may be generated, as stages stop
    early.
    """

    iteration: int
    stages: list[StageForecast]
    iterations: int
    limited_by: str
    scratch: float
    assumed: list[str]
    at_most: bool = False

    @property
    def total(self) -> StageForecast:
        """Return the total of the iteration; its tokens are the generated ones, not those trained on."""
        generated = [stage.tokens for stage in self.stages if stage.generates]
        return StageForecast(
            "one iteration",
            sum(generated, Range(0, 0)),
            sum((stage.seconds for stage in self.stages), Range(0, 0)),
            sum(stage.bytes for stage in self.stages),
        )
