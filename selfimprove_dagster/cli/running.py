"""Run an experiment's loop in the terminal: iterations, further attempts, and what is said when it stops."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec

import typer

from selfimprove_dagster.cli.console import console
from selfimprove_dagster.cli.status import print_status
from selfimprove_dagster.errors import BudgetSpent
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.loop.ending import report_end
from selfimprove_dagster.loop.rules import Continue, Stop, next_turn
from selfimprove_dagster.loop.state import state_of
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.attempts import save
from selfimprove_dagster.work.progress import duration


def run_loop(home: Home, name: str, iterations: int | None) -> None:
    """Run iterations of an experiment until a stopping rule applies, at most `iterations`, and print its status.

    Exits with code 1 after a failure or a blocking check. Raises KeyboardInterrupt after Ctrl-C or SIGTERM.
    """
    chain, done, line = home.chain(name), 0, ""
    while iterations is None or done < iterations:
        step = next_turn(home.lake, chain[0])
        if isinstance(step, Stop):
            line = f"stopped: {step.reason}"
            break
        console.rule(step.in_words)
        try:
            _finish(home, name, step)
        except BudgetSpent as spent:
            line = f"stopped: {spent}"
            break
        done += step.method == chain[0].chain[-1]
    if line:
        _say(line)
    report(home, name)
    print_status(home.lake, home.chain(name))


def _finish(home: Home, name: str, step: Continue) -> None:
    """Run one iteration of a method to its end, with further attempts after failures that may pass.

    Exits with code 1 if it cannot be finished.
    """
    from selfimprove_dagster.runs import run_iteration

    number = 1
    while True:
        experiment = home.experiment(name, step.method)
        problems = run_iteration(home, experiment, step.iteration, number=number, say=_say)
        if not problems:
            return
        for problem in problems:
            _say(plain(problem), "red")
        state = state_of(home.lake, home.chain(name))
        if state.kind != "failed" or state.retry_at is None:
            report(home, name)
            _say("Finished stages are saved. Fix the problem and run the same command to resume.")
            raise typer.Exit(1)
        left = max(state.retry_at - time.time(), 0.0)
        number = state.number
        _say(f"attempt {number} of {state.attempts} starts in {duration(left)}; Ctrl-C stops", "yellow")
        try:
            time.sleep(left)
        except KeyboardInterrupt:
            if state.attempt is not None:
                save(home.lake, replace(state.attempt, status="stopped"))
            raise


def report(home: Home, name: str) -> None:
    """Run the hooks of a loop that has ended, and print which of them failed."""
    chain = home.chain(name)
    for warning in report_end(home.lake, chain, state_of(home.lake, chain)):
        _say(f"warning: {plain(warning)}", "yellow")


def _say(line: str, style: str | None = None) -> None:
    console.print(line, style=style, markup=False, soft_wrap=True)


P = ParamSpec("P")


def resumable(command: Callable[P, None]) -> Callable[P, None]:
    """Decorator of a command that can be run again: Ctrl-C and SIGTERM end it in one line, with exit code 130."""

    @wraps(command)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            command(*arguments, **named)
        except KeyboardInterrupt:
            resumes = "" if named.get("estimate") else "; the same command resumes"
            _say(f"stopped{resumes}", "yellow")
            raise typer.Exit(130) from None
        finally:
            signal.signal(signal.SIGTERM, before)

    return run
