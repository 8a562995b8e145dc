"""Represent the forecast of an iteration, stage by stage: tokens, time, money, disk and memory."""

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

    @property
    def middle(self) -> float:
        """Return the mean of both ends."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class StageForecast:
    """The forecast of one stage.

    `tokens` are generated, or, if `generates` is False, those that a model is trained on. `bytes` stay on the disk;
    `scratch` bytes are needed only for a time: while the stage runs, or until the end of the iteration. `memory` and
    `gpu_memory` are the peaks of the process in bytes, None if they are unknown; `at_least`: the pilot's batches were
    smaller than those of an iteration, so that the peaks may be higher. `money` is None if no model of the
    stage has prices.
    """

    stage: str
    tokens: Range
    seconds: Range
    bytes: float
    generates: bool = True
    scratch: float = 0.0
    memory: float | None = None
    gpu_memory: float | None = None
    at_least: bool = False
    money: float | None = None


@dataclass(frozen=True)
class Forecast:
    """The forecast of an iteration, stage by stage; at most `iterations` of this size fit into the budget.

    `limited_by` is the limiting field of the budget. `assumed` lists the assumptions.
    """

    iteration: int
    stages: list[StageForecast]
    iterations: int
    limited_by: str
    assumed: list[str]

    @property
    def total(self) -> StageForecast:
        """Return the total of the iteration; its tokens are the generated ones, not those trained on.

        Memory and temporary disk space are those of the stage that needs most.
        """
        generated = [stage.tokens for stage in self.stages if stage.generates]
        memory = _highest([stage.memory for stage in self.stages])
        money = [stage.money for stage in self.stages if stage.money is not None]
        return StageForecast(
            "one iteration",
            sum(generated, Range(0, 0)),
            sum((stage.seconds for stage in self.stages), Range(0, 0)),
            sum(stage.bytes for stage in self.stages),
            scratch=max((stage.scratch for stage in self.stages), default=0.0),
            memory=memory,
            gpu_memory=_highest([stage.gpu_memory for stage in self.stages]),
            at_least=any(stage.at_least for stage in self.stages),
            money=sum(money) if money else None,
        )


def _highest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
