"""The state of an experiment: each of them, what people and programs read of it, and what starts next."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import make_experiment, promotion_draft, seed_draft, store

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.loop.rules import Continue
from selfimprove_dagster.loop.state import State, inputs_of, state_of
from selfimprove_dagster.methods.lmsi.tables import PROMOTION, SEED_POOL
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.work.attempts import Attempt, begin, save
from selfimprove_dagster.work.progress import Progress


@pytest.fixture
def experiment(tmp_path: Path, lake: Lake) -> Experiment:
    """An experiment whose seeds are imported."""
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    return make_experiment(tmp_path, retries={"attempts": 3, "wait": 60}, budget={"minimum_yield": 0})


def attempt(lake: Lake, experiment: Experiment, **changes: Any) -> Attempt:
    """An attempt of this process at the first iteration, changed."""
    begun = begin(
        lake,
        experiment,
        0,
        run_id="run",
        number=1,
        inputs=inputs_of(lake, experiment, 0),
        parent=os.getpid(),
        by_person=False,
    )
    return save(lake, replace(begun, **changes))


def state(lake: Lake, experiment: Experiment) -> State:
    """The state, after it was seen to fit into JSON."""
    found = state_of(lake, [experiment])
    data = json.loads(json.dumps(found.to_json()))
    assert (data["state"], data["experiment"], data["words"]) == (found.kind, "demo", found.in_words)
    return found


def test_nothing_starts_without_seeds(lake: Lake, tmp_path: Path) -> None:
    found = state(lake, make_experiment(tmp_path))
    assert found.kind == "not started" and not found.may_run() and not found.has_ended
    assert found.in_words.startswith("not started: no seeds were imported yet")


def test_an_experiment_with_seeds_is_ready(lake: Lake, experiment: Experiment) -> None:
    found = state(lake, experiment)
    assert (found.kind, found.step) == ("ready", Continue(0, after="start", method="lmsi"))
    assert found.may_run() and found.number == 1 and found.in_words == "iteration 0 of lmsi, ready to run"


def test_a_running_stage_with_its_progress(lake: Lake, experiment: Experiment) -> None:
    progress = Progress("lmsi/raw_generations", 3, 12, "paths", 60, 90.0)
    attempt(lake, experiment, stage="raw_generations", progress=progress, number=2)
    found = state(lake, experiment)
    assert found.kind == "running" and not found.may_run()
    assert found.in_words == (
        "running: raw_generations of iteration 0 of lmsi, attempt 2 of 3: 3 of 12 paths, 90 s left"
    )
    data = found.to_json()
    assert (data["done"], data["total"], data["unit"], data["seconds_left"]) == (3, 12, "paths", 90.0)
    assert (data["iteration"], data["stage"], data["process"]) == (0, "raw_generations", str(os.getpid()))


def test_waiting_for_the_model_says_who_has_it(lake: Lake, experiment: Experiment, tmp_path: Path) -> None:
    attempt(lake, experiment, stages=("seed_pool",))
    assert state(lake, experiment).kind == "running", "nobody else has the model"
    other = make_experiment(tmp_path, name="other")
    begun = begin(lake, other, 4, run_id="theirs", number=1, inputs="", parent=os.getpid(), by_person=True)
    holder = replace(begun, stage="seed_pool", stage_since=time.time() - 180)
    save(lake, holder)
    assert state(lake, experiment).kind == "running", "it uses no model"
    training = {"stage": "fine_tuned_checkpoint", "uses_model": True}
    save(lake, replace(holder, **training, progress=Progress("x", 5, 20, "steps")))  # type: ignore[arg-type]
    found = state(lake, experiment)
    assert found.kind == "waiting" and not found.may_run()
    assert found.in_words == (
        "waiting: iteration 0 of lmsi waits at raw_generations for the model: iteration 4 of other has had it for "
        f"3.0 minutes (stage fine_tuned_checkpoint, 5 of 20 steps, process {os.getpid()})"
    )
    assert found.to_json()["holder"]["experiment"] == "other"


def test_waiting_for_dagster_to_start_an_attempt(lake: Lake, experiment: Experiment) -> None:
    attempt(lake, experiment, status="ended", asked_at=time.time() - 5)
    found = state(lake, experiment)
    assert found.kind == "waiting" and "was requested from Dagster and has not started" in found.reason
    attempt(lake, experiment, status="ended", asked_at=time.time() - 3_600)
    assert state(lake, experiment).kind == "ready", "no daemon took it"


def block(lake: Lake) -> None:
    manifest, _ = store(lake, SEED_POOL, [seed_draft()])
    outcome = CheckOutcome("no_empty_text", False, True, "1 of 4 rows are empty. Fix the seed file")
    lake.record_checks(manifest, [outcome])


def test_a_blocked_iteration_waits_until_its_input_changes(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    attempt(lake, experiment, status="blocked")
    block(lake)
    found = state(lake, experiment)
    assert found.kind == "blocked" and found.has_ended and not found.may_run()
    assert found.in_words == (
        "blocked: iteration 0 by the check no_empty_text of lmsi/seed_pool: 1 of 4 rows are empty. Fix the seed file"
    )
    assert found.remedy and found.to_json()["checks"][0]["table"] == "lmsi/seed_pool"
    for change in (
        {"sampling": {"questions": 5, "paths": 3, "shard_questions": 2}},
        {"seeds": {"file": "others.jsonl"}},
    ):
        changed = make_experiment(tmp_path, **change)
        assert state(lake, changed).kind == "ready"
    for without_effect in ({"budget": {"hours": 3}}, {"retries": {"attempts": 9}}, {"description": "x"}):
        assert state(lake, make_experiment(tmp_path, **without_effect)).kind == "blocked"
    (tmp_path / "seeds.jsonl").write_text("now the file is there\n")
    assert state(lake, experiment).kind == "ready"


def test_new_seeds_open_the_way_for_a_blocked_iteration_too(lake: Lake, experiment: Experiment) -> None:
    attempt(lake, experiment, status="blocked")
    block(lake)
    assert state(lake, experiment).kind == "blocked"
    store(lake, SEEDS, [seed_draft("Another?")], partition={"experiment": "demo", "batch": "c"})
    assert state(lake, experiment).kind == "ready"


def test_without_a_recorded_attempt_a_closed_gate_blocks_too(lake: Lake, experiment: Experiment) -> None:
    block(lake)
    assert state(lake, experiment).kind == "blocked"


def test_a_passing_failure_is_repeated_with_growing_waits_up_to_the_limit(
    lake: Lake, experiment: Experiment
) -> None:
    waits = []
    for number in (1, 2, 3):
        made = attempt(lake, experiment, status="failed", number=number, error="voted: gone", may_pass=True)
        found = state(lake, experiment)
        assert found.kind == "failed" and f"attempt {number} of 3: voted: gone" in found.reason
        if number < 3:
            assert found.retry_at is not None and found.number == number + 1 and not found.has_ended
            assert not found.may_run() and found.may_run(found.retry_at)
            waits.append(round(found.retry_at - made.updated))
        else:
            assert found.retry_at is None and found.has_ended and not found.may_run(time.time() + 1e6)
            assert "no attempt is left" in found.reason and "selfimprove run demo" in found.remedy
    assert waits == [60, 120]
    assert experiment.retries.wait_after(50) == 3600


def test_a_killed_process_counts_as_a_passing_failure(lake: Lake, experiment: Experiment) -> None:
    attempt(lake, experiment, stage="raw_generations", process="1@0.00", parent="1@0.00")
    found = state(lake, experiment)
    assert found.kind == "failed" and found.retry_at is not None
    assert "raw_generations: its process (1) was killed" in found.reason


def test_an_error_that_will_not_pass_is_not_repeated_until_something_changes(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    attempt(lake, experiment, status="failed", error="seed_pool: no such file", may_pass=False)
    found = state(lake, experiment)
    assert found.kind == "failed" and found.has_ended and found.retry_at is None
    assert "another attempt would fail as well" in found.reason
    assert state(lake, make_experiment(tmp_path, seed=7)).kind == "ready"


def test_only_a_person_goes_on_with_what_a_person_stopped(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    attempt(lake, experiment, status="stopped", stages=("seed_pool",))
    found = state(lake, experiment)
    assert found.kind == "stopped" and not found.may_run() and not found.has_ended
    assert found.in_words == (
        "stopped: a person stopped iteration 0 of lmsi at raw_generations; finished shards are kept; "
        "`selfimprove run demo` resumes"
    )
    assert state(lake, make_experiment(tmp_path, seed=7)).kind == "stopped"
    attempt(lake, experiment, status="ended", run_id="by hand")
    assert state(lake, experiment).kind == "ready"


def test_a_finished_experiment_says_why(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"iterations": 1})
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    attempt(lake, experiment, status="ended")
    manifest, _ = store(lake, PROMOTION, [promotion_draft("0", True)])
    found = state(lake, experiment)
    assert found.kind == "finished" and found.has_ended and not found.may_run()
    assert found.in_words == "finished: iteration budget spent: 1 of 1 iterations are done"
    more = make_experiment(tmp_path, budget={"iterations": 2, "minimum_yield": 0})
    assert state(lake, more).step == Continue(1, after=manifest.activity.id, method="lmsi")
    # A decision whose check failed makes no champion, so nothing can follow.
    lake.record_checks(manifest, [CheckOutcome("consistent", False, True, "there are two")])
    assert state(lake, more).kind == "blocked"


def test_what_an_attempt_starts_from_does_not_change_while_it_runs(
    lake: Lake, experiment: Experiment
) -> None:
    before = inputs_of(lake, experiment, 0)
    store(lake, SEED_POOL, [seed_draft()])
    assert inputs_of(lake, experiment, 0) == before
    assert inputs_of(lake, experiment, 1) != before
