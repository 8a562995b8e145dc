"""What an iteration will take, stage by stage: tokens, time and disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """From `low` to `high`."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class StageForecast:
    """What one stage of one iteration takes: tokens, seconds, and bytes that stay on the disk.

    The tokens are those that a model writes; where `generates` is False, those that it is trained on.
    """

    stage: str
    tokens: Range
    seconds: Range
    bytes: float
    generates: bool = True


@dataclass(frozen=True)
class Forecast:
    """What iteration `iteration` takes, stage by stage; at most `iterations` of its kind fit into the budget.

    `limited_by` is the field that ends them. `scratch` are bytes that training needs besides, for a while.
    `assumed` says what the numbers rest on. `at_most`: fewer tokens may be drawn, as stages stop early.
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
        """The whole iteration; its tokens are those generated, not those trained on."""
        generated = [stage.tokens for stage in self.stages if stage.generates]
        return StageForecast(
            "one iteration",
            sum(generated, Range(0, 0)),
            sum((stage.seconds for stage in self.stages), Range(0, 0)),
            sum(stage.bytes for stage in self.stages),
        )
