"""Check before the first token everything about an experiment that can be known by then.

Nothing is generated or trained. Models are looked up, and downloaded if they come from the Hub, but only a server's
model is opened. The evaluation file is read as the method's exam reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from selfimprove_dagster.errors import ExperimentError, NotReadyYet, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.readiness.engines import check_engines, check_filters, check_watch
from selfimprove_dagster.readiness.files import (
    check_benchmarks,
    check_evaluation,
    check_files,
    check_forgetting,
    check_models,
    check_prompts,
)
from selfimprove_dagster.readiness.finding import Finding
from selfimprove_dagster.readiness.lengths import check_asks, check_lengths, check_stops
from selfimprove_dagster.readiness.machine import (
    check_adapters,
    check_devices,
    check_disk,
    check_launch,
    check_memory,
    check_memory_settings,
    check_rates,
    check_workers,
)

CHECKS: tuple[Callable[[Home, Experiment], Iterator[Finding]], ...] = (
    check_files,
    check_models,
    check_prompts,
    check_evaluation,
    check_benchmarks,
    check_forgetting,
    check_stops,
    check_lengths,
    check_asks,
    check_devices,
    check_adapters,
    check_engines,
    check_filters,
    check_watch,
    check_disk,
    check_launch,
    check_workers,
    check_memory,
    check_memory_settings,
    check_rates,
)
"""What is checked, in the order in which it is reported."""


def check_ready(home: Home, experiment: Experiment, warn: Callable[[str], None] = lambda line: None) -> None:
    """Raise ExperimentError with all problems with which a run of the experiment's method would fail.

    It is NotReadyYet if all of them may pass without a change. `warn` is called with each finding that need not be one.
    """
    problems: dict[str, bool] = {}
    for check in CHECKS:
        try:
            for finding in check(home, experiment):
                if finding.is_warning:
                    warn(finding.text)
                else:
                    problems[finding.text] = finding.may_pass
        except SelfImproveError as error:  # several checks find the same model or file missing
            problems[str(error)] = error.may_pass
    if problems:
        lines = "".join(f"\n  - {text}" for text in problems)
        kind = NotReadyYet if all(problems.values()) else ExperimentError
        raise kind(f"experiment {experiment.turn_name} cannot run yet:{lines}")
