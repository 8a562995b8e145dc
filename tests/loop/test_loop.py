"""The loop: each stop rule on both sides of its bound, and what it reads from the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import make_experiment, promotion_draft, seed_draft, store

from selfimprove_dagster.cli.status import print_status
from selfimprove_dagster.errors import GateClosed
from selfimprove_dagster.experiment.sections import BudgetSection
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.loop.champion import Champion, champion_before
from selfimprove_dagster.loop.rules import (
    Continue,
    IterationSummary,
    Stop,
    decide_next,
    finished_iterations,
    next_step,
)
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.methods.lmsi.tables import PROMOTION, SEED_POOL
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEEDS
from selfimprove_dagster.work.progress import ProgressReport, rate


def after(*promotions: bool, budget: dict[str, Any] | None = None, **changes: Any) -> Continue | Stop:
    """What follows iterations that were promoted or not; `changes` are those of each summary."""
    given: dict[str, Any] = {
        **{"candidates": 100, "yielded": 50, "tokens": 1_000, "seconds": 3_600.0},
        **{"words": ("paths", "examples"), **changes},
    }
    finished = [
        IterationSummary(number, promoted, decided_by=f"act:{number}", **given)
        for number, promoted in enumerate(promotions)
    ]
    return next_step(BudgetSection(**{"iterations": 100, **(budget or {})}), finished)


def stopped(step: Continue | Stop) -> str:
    assert isinstance(step, Stop)
    return step.reason


def test_the_first_iteration_follows_nothing() -> None:
    assert after() == Continue(0, after="start")


def test_an_iteration_follows_the_decision_of_the_last() -> None:
    assert after(True, True) == Continue(2, after="act:1")


def test_the_iteration_budget() -> None:
    assert after(True, True, budget={"iterations": 3}) == Continue(2, after="act:1")
    reason = stopped(after(True, True, True, budget={"iterations": 3}))
    assert reason == "iteration budget spent: 3 of 3 iterations are done"


def test_the_token_budget_spans_all_iterations() -> None:
    assert isinstance(after(True, True, budget={"tokens": 2_001}), Continue)
    reason = stopped(after(True, True, budget={"tokens": 2_000}))
    assert reason == "token budget spent: 2,000 of 2,000 tokens"


def test_the_hour_budget_spans_all_iterations() -> None:
    assert isinstance(after(True, True, budget={"hours": 2.01}), Continue)
    assert stopped(after(True, True, budget={"hours": 2})) == "hour budget spent: 2.00 of 2.00 hours"


def test_a_yield_near_zero() -> None:
    assert isinstance(after(True, candidates=1_000, yielded=10), Continue)
    reason = stopped(after(True, candidates=1_000, yielded=9))
    assert (
        reason == "yield near zero: 9 examples from 1,000 paths in iteration 0, 0.90% against at least 1.00%"
    )
    assert isinstance(after(True, candidates=1_000, yielded=0, budget={"minimum_yield": 0}), Continue)
    assert "yield near zero" in stopped(after(True, candidates=0, yielded=0))


def test_a_method_that_declares_no_yield_never_stops_for_it() -> None:
    assert isinstance(after(True, candidates=None, yielded=None), Continue)


def test_patience_counts_iterations_since_the_last_promotion() -> None:
    assert isinstance(after(False), Continue)
    assert isinstance(after(False, True, False), Continue)
    reason = stopped(after(True, False, False))
    assert reason == "no gain: none of the last 2 iterations was promoted"
    assert isinstance(after(True, False, False, budget={"patience": 3}), Continue)


def test_a_budget_that_is_not_given_never_stops() -> None:
    assert isinstance(after(*[True] * 99, tokens=10**9, seconds=1e9), Continue)


# ---- from the lake --------------------------------------------------------------------------------------


def finish(lake: Lake, iteration: int, promoted: bool) -> Manifest:
    """An iteration of which only what the loop reads is there."""
    manifest, _ = store(
        lake,
        PROMOTION,
        [promotion_draft(str(iteration), promoted)],
        iteration=iteration,
        about={"seconds": 1.5},
    )
    return manifest


def test_nothing_starts_before_seeds_were_imported(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    assert stopped(decide_next(lake, experiment)).startswith("no seeds were imported yet; put a seed file")
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    assert decide_next(lake, experiment) == Continue(0, after="start", method="lmsi")


def test_finished_iterations_are_those_with_a_promotion_decision(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"minimum_yield": 0})
    store(lake, SEED_POOL, [seed_draft("a?"), seed_draft("b?")], about={"seconds": 2.0, "tokens": 7})
    assert finished_iterations(lake, experiment) == []
    manifest = finish(lake, 0, True)
    (summary,) = finished_iterations(lake, experiment)
    assert (summary.iteration, summary.promoted, summary.seconds, summary.tokens) == (0, True, 3.5, 7)
    assert decide_next(lake, experiment) == Continue(1, after=manifest.activity.id, method="lmsi")
    (result,) = results(lake, experiment)
    assert (result.promoted, result.reason) == (True, "because")
    assert result.counts == {"questions": 2, "samples": None, "kept": None}


def test_the_champion_is_what_was_promoted_last_before_the_iteration(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    base = Champion(experiment.model.path)
    assert champion_before(lake, experiment, 0) == base
    finish(lake, 0, True)
    finish(lake, 1, False)
    finish(lake, 2, True)
    assert champion_before(lake, experiment, 0) == base
    assert base.name == "the base model"
    for iteration, champion in ((1, 0), (2, 0), (3, 2), (1_000, 2)):
        found = champion_before(lake, experiment, iteration)
        assert (found.iteration, found.model_id, found.path) == (
            champion,
            f"b2:{champion}",
            f"/checkpoints/{champion}",
        )
        assert found.name == f"the checkpoint of iteration {champion}"


def test_a_promotion_whose_check_failed_makes_no_champion(lake: Lake, tmp_path: Path) -> None:
    manifest = finish(lake, 0, True)
    lake.record_checks(manifest, [CheckOutcome("one row", False, True, "there are two")])
    with pytest.raises(GateClosed):
        champion_before(lake, make_experiment(tmp_path), 1)
    (result,) = results(lake, make_experiment(tmp_path))
    assert result.closed_gates == ("lmsi/promotion: one row: there are two",)


def test_status_says_what_was_rejected_and_which_checks_only_warn(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(tmp_path)
    for iteration, reason in enumerate(["half are cut off", "a third are cut off"]):
        checks = [("finished", False, False, reason), ("loads", True, False, "it loads")]
        manifest = finish(lake, iteration, True)
        lake.record_checks(manifest, [CheckOutcome(*check) for check in checks])
    place = {"excerpt": "?", "source_file": "seeds.jsonl", "licence": "MIT"}
    drafts = [Draft({**place, "source_line": line, "reason": f"reason {line}"}) for line in range(1, 6)]
    print_status(lake, [experiment])
    assert "rejected" not in capsys.readouterr().out
    store(lake, REJECTED_SEEDS, drafts, partition={"experiment": experiment.name, "batch": "one"})
    print_status(lake, [experiment])
    printed = capsys.readouterr().out
    assert "warning in iterations 0, 1: lmsi/promotion: finished: a third are cut off" in printed
    assert "half" not in printed and "it loads" not in printed
    said = printed[printed.index("5 seed lines rejected:") :].splitlines()
    assert [line.partition(", line ")[2] for line in said[1:4]] == [f"{n}: reason {n}" for n in (1, 2, 3)]
    assert said[4] == "  … and 2 more, which `selfimprove seeds rejected NAME` prints"


# ---- progress -------------------------------------------------------------------------------------------


def test_progress_counts_what_was_done_before_but_not_in_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(0, 1_000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines: list[str] = []
    with ProgressReport("lmsi/raw_generations", 100, "paths", lines.append, done=40) as report:
        report.advance(20, tokens=2_000)
    assert lines[0] == "lmsi/raw_generations: 40 of 100 paths were finished before; resuming"
    assert lines[1].startswith("lmsi/raw_generations: 60 of 100 paths, ")
    assert "2,000 tokens at" in lines[1]


@pytest.mark.parametrize(
    ("count", "seconds", "shown"),
    [
        (0, 10, ""),
        (0, 0, ""),
        (3, 0, ""),
        (-1, 10, ""),
        (12_345, 1, "12,345 steps/s"),
        (5, 2, "2.5 steps/s"),
        (1, 10, "0.1 steps/s"),
        (1, 24, "2.5 steps/min"),
        (1, 900, "4.0 steps/h"),
        (1, 3600_000, ""),
    ],
)
def test_a_rate_is_shown_where_it_can_be_computed(count: int, seconds: float, shown: str) -> None:
    assert rate(count, "steps", seconds) == shown


@pytest.mark.parametrize("total", [0, 10])
def test_progress_shows_no_rate_of_nothing(total: int) -> None:
    lines: list[str] = []
    with ProgressReport("x", total, "steps", lines.append) as report:
        report.advance(0)
    assert lines == [f"x: 0 of {total} steps"]


def test_slow_progress_is_shown_per_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(0, 1_000, 30))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines: list[str] = []
    with ProgressReport("x", 10, "steps", lines.append) as report:
        report.advance(1)
    assert lines
    assert all("steps/min" in line and "0.0" not in line for line in lines)


def test_progress_says_that_the_work_was_stopped() -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), ProgressReport("x", 10, "paths", lines.append) as report:
        report.advance(1)
        raise KeyboardInterrupt
    assert lines[-1].startswith("stopped: x: 1 of 10 paths") and "kept" not in lines[-1]


def test_progress_says_which_work_was_in_vain() -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), ProgressReport("x", 10, "paths", lines.append, done=2) as report:
        report.kept = report.done
        report.advance(3)
        report.kept = report.done
        report.advance(4)
        raise KeyboardInterrupt
    assert lines[-1].startswith("stopped: x: 9 of 10 paths")
    assert lines[-1].endswith("; the last 4 of them are not kept")


def test_progress_of_what_is_found_done_has_no_rate() -> None:
    lines: list[str] = []
    with ProgressReport("x", 10, "answers", lines.append) as report:
        report.found(10)
    assert lines == ["x: 10 of 10 answers"]
