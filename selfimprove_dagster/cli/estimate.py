"""Print the forecast of `selfimprove run --estimate`."""

from __future__ import annotations

from rich.table import Table

from selfimprove_dagster.cli.console import console
from selfimprove_dagster.estimating.forecast import Forecast, Range, StageForecast
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.loop.rules import Stop, next_turn
from selfimprove_dagster.work.budget import dollars
from selfimprove_dagster.work.progress import duration


def show_estimate(home: Home, experiment: Experiment) -> None:
    """Forecast the next iteration of an experiment, and print the forecast."""
    from selfimprove_dagster.estimating.estimate import estimate
    from selfimprove_dagster.resources.language_model import LanguageModelResource
    from selfimprove_dagster.resources.trainer import TrainerResource

    step = next_turn(home.lake, experiment)
    if isinstance(step, Stop):
        console.print(f"nothing to forecast: {step.reason}", markup=False)
        return
    experiment = home.experiment(experiment.name, step.method)
    load_like_a_run()
    forecast = estimate(
        home,
        experiment,
        step.iteration,
        LanguageModelResource(),
        TrainerResource(),
        lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    console.print(_table(forecast, f"forecast of iteration {step.iteration} of {experiment.turn_name}"))
    most, total = forecast.iterations, forecast.total
    money = "" if total.money is None else f", {dollars(most * total.money)} of money"
    temporary = f"; training needs {_size(total.scratch)} more for a while" if total.scratch else ""
    console.print(
        f"{forecast.limited_by} allows {most} more iterations: up to {most * total.tokens.high:,.0f} tokens, "
        f"{duration(most * total.seconds.high)}, {_size(most * total.bytes)} of disk{money}{temporary}",
        markup=False,
        soft_wrap=True,
    )
    for assumption in forecast.assumed:
        console.print(f"  - {assumption}", markup=False, soft_wrap=True)


def load_like_a_run() -> None:
    """Load what a run has in memory besides its stages: Dagster with all assets, and the library of the checks."""
    import selfimprove_dagster.definitions
    from selfimprove_dagster.quality.expectations import Validator

    assert selfimprove_dagster.definitions.defs and Validator()


def _table(forecast: Forecast, title: str) -> Table:
    """Return the forecast as a table; columns of GPUs and money only where there is any."""
    total = forecast.total
    headings = ["stage", "tokens", "time", "disk", "memory"]
    headings += ["GPU memory"] if total.gpu_memory is not None else []
    headings += ["money"] if total.money is not None else []
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in (*forecast.stages, total):
        cells = [
            stage.stage,
            _tokens(stage),
            _between(stage.seconds),
            _size(stage.bytes),
            _memory(stage, stage.memory),
        ]
        cells += [_memory(stage, stage.gpu_memory)] if total.gpu_memory is not None else []
        cells += ["" if stage.money is None else dollars(stage.money)] if total.money is not None else []
        table.add_row(*cells)
    return table


def _tokens(stage: StageForecast) -> str:
    low, high = round(stage.tokens.low), round(stage.tokens.high)
    if not high:
        return ""
    words = f"{low:,}" if low == high else f"{low:,} – {high:,}"
    return words if stage.generates else f"{words} trained"


def _between(seconds: Range) -> str:
    low, high = duration(seconds.low), duration(seconds.high)
    return low if low == high else f"{low} – {high}"


def _memory(stage: StageForecast, peak: float | None) -> str:
    return "" if peak is None else f"{'≥ ' if stage.at_least else ''}{_size(peak)}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
