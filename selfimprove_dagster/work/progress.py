"""Report the progress of long work: a bar in a terminal, and regular lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds <= 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds <= 5400 else f"{seconds / 3600:.1f} hours"


def per_second(count: float, seconds: float) -> float | None:
    """Return the rate, to one decimal; None if it cannot be computed, i.e. for no count or no time."""
    return round(count / seconds, 1) if count > 0 and seconds > 0 else None


def rate(count: float, unit: str, seconds: float) -> str:
    """Format a rate per second, or per minute or hour if it is low, e.g. `2.5 steps/min`.

    Empty if it cannot be computed, i.e. for no count or no time, or if it is less than 0.1 per hour.
    """
    if count <= 0 or seconds <= 0:
        return ""
    for period, length in (("s", 1), ("min", 60), ("h", 3600)):
        if (value := count * length / seconds) >= 0.1:
            return f"{value:,.{0 if value >= 100 else 1}f} {unit}/{period}"
    return ""


@dataclass(frozen=True)
class Progress:
    """How far some work is: `done` of `total` units, and the tokens so far.

    `seconds_left` is a forecast at the present rate; None before there is one. `figures` are further numbers by name,
    such as the loss, and where there are any, `tokens_per_second` is the throughput since this process began.
    `history` has what they were before: for each report that changed them, by name, with `done` and, where it is known,
    `tokens_per_second` since the report before.
    """

    title: str
    done: int
    total: int
    unit: str
    tokens: int = 0
    seconds_left: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    history: Sequence[Mapping[str, float]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", tuple(self.history))  # JSON has a list

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        speed = "" if self.tokens_per_second is None else f", {self.tokens_per_second:,.0f} tokens/s"
        return f"{self.done:,} of {self.total:,} {self.unit}{_listed(self.figures)}{speed}{left}"


def _listed(figures: Mapping[str, float]) -> str:
    return "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


_WATCHER: ContextVar[Callable[[Progress], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Callable[[Progress], None]) -> Iterator[None]:
    """Hand what reports say to `watcher`, from every report that is made inside."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class ProgressReport:
    """Counts finished units and tokens; use it as a context manager around the work.

    `done` is the number of units that an earlier attempt finished: they count as done, but not for the rate. Set `kept`
    to those whose results are stored: after an error, the last line says how many are not.
    """

    def __init__(self, title: str, total: int, unit: str, log: Callable[[str], None], done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._resumed = done
        self.kept: int | None = None
        self.tokens = 0
        self.figures: Mapping[str, float] = {}
        """Further numbers of the work by name, e.g. the loss; set them before `advance`."""
        self._history: list[Mapping[str, float]] = []
        self._noted = (0, 0.0)
        self._lock = threading.RLock()
        self._log = log
        self._watcher = _WATCHER.get()
        self._console = Console(stderr=True, highlight=False)
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, transient=True)

    def __enter__(self) -> ProgressReport:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, note="")
        if self._resumed:
            self._say(f"{self.so_far} were finished before; resuming")
        self._tell_watcher()
        return self

    def expect(self, total: int) -> None:
        """Take another total, where it turns out while working."""
        if total != self.total:
            self.total = total
            if self._bar and self._task is not None:
                self._bar.update(self._task, total=total)

    def found(self, units: int) -> None:
        """Count units that turn out to be finished already, as done but not for the rate."""
        self._resumed += units
        self.advance(units)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._say(f"stopped: {self.line()}{self._lost()}" if error else self.line())

    def advance(self, units: int, tokens: int = 0) -> None:
        """Count finished units, and the `tokens` that they used; several threads may."""
        with self._lock:
            self._advance(units, tokens)

    def _advance(self, units: int, tokens: int) -> None:
        self.done += units
        self.tokens += tokens
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=self._rates())
        if self.figures and units:
            self._note()
        self._tell_watcher()
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._say(self.line())

    @property
    def so_far(self) -> str:
        """Return the finished and the total number of units."""
        return f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def line(self) -> str:
        """Return finished units, rate, remaining time and tokens in one line."""
        remaining = self.seconds_left
        left = "" if remaining is None else f", {duration(remaining)} left"
        return f"{self.so_far}{_listed(self.figures)}{self._rates()}{left}"

    @property
    def seconds_left(self) -> float | None:
        """Return the forecast of the remaining seconds; None before a unit is finished, and after the last one."""
        fresh = self.done - self._resumed
        if fresh <= 0 or self.done >= self.total:
            return None
        return self.seconds * (self.total - self.done) / fresh

    def _lost(self) -> str:
        lost = 0 if self.kept is None else self.done - self.kept
        return f"; the last {lost:,} of them are not kept" if lost else ""

    def _note(self) -> None:
        """Keep the figures of the units that were finished since the last ones were kept."""
        before, at = self._noted
        self._noted = (self.tokens, self.seconds)
        speed = per_second(self.tokens - before, self.seconds - at)
        throughput = {} if speed is None else {"tokens_per_second": speed}
        self._history.append({"done": self.done, **self.figures, **throughput})

    def _tell_watcher(self) -> None:
        if self._watcher:
            left = self.seconds_left
            speed = per_second(self.tokens, self.seconds) if self.figures else None
            self._watcher(
                Progress(
                    self.title,
                    self.done,
                    self.total,
                    self.unit,
                    self.tokens,
                    left,
                    self.figures,
                    speed,
                    self._history,
                )
            )

    def _say(self, line: str) -> None:
        """Write a line to the log and, if there is no bar, to the standard error stream."""
        self._log(line)
        self._console.print(line, markup=False, soft_wrap=True)

    def _rates(self) -> str:
        seconds = self.seconds
        found = [rate(self.done - self._resumed, self.unit, seconds)]
        if self.tokens:
            speed = rate(self.tokens, "tokens", seconds)
            found.append(f"{self.tokens:,} tokens" + (f" at {speed}" if speed else ""))
        return "".join(f", {one}" for one in found if one)


class OwnReport:
    """Counts the units and tokens of one part of some work, and counts them in the report of all parts.

    Parts that are worked on at the same time have one each.
    """

    def __init__(self, whole: ProgressReport) -> None:
        self._whole = whole
        self.done = self.tokens = 0

    def advance(self, units: int, tokens: int = 0) -> None:
        """Count units that were finished, and tokens that were drawn, since the last call."""
        self.done, self.tokens = self.done + units, self.tokens + tokens
        self._whole.advance(units, tokens)
