"""The pool of workers: which call goes where, what a death costs, and when it gives up. The workers are fakes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.work.at_once import in_any_order
from selfimprove_dagster.workers.pool import DEATHS, Pool, WorkerDied


@dataclass
class FakeWorker:
    """Answers with its slot and the arguments; `does` may die or fail before."""

    slot: int
    does: Callable[[FakeWorker, Any], None] = lambda worker, argument: None
    about: dict[str, Any] = field(default_factory=dict)
    closed: bool = False

    def call(self, method: str, arguments: Sequence[Any], progress: Any) -> Any:
        if progress:
            progress(1, 10)
        self.does(self, arguments[0])
        return self.slot, arguments[0]

    def close(self) -> None:
        self.closed = True


def pool_of(
    count: int, does: Callable[[FakeWorker, Any], None] = lambda worker, argument: None
) -> tuple[Pool, list[FakeWorker], list[str]]:
    started: list[FakeWorker] = []
    lines: list[str] = []

    def start(slot: int) -> FakeWorker:
        started.append(FakeWorker(slot, does))
        return started[-1]

    return Pool(count, start, lines.append), started, lines


def test_calls_at_the_same_time_have_a_worker_each() -> None:
    together = threading.Barrier(3, timeout=20)
    pool, started, _ = pool_of(3, lambda worker, argument: together.wait() and None)
    found = dict(in_any_order(lambda one: pool.call("generate", [one]), range(9), 3))
    assert sorted(found) == [*range(9)] and all(found[one][1] == one for one in found)
    assert Counter(slot for slot, _ in found.values()) == {0: 3, 1: 3, 2: 3}
    assert sorted(one.slot for one in started) == [0, 1, 2]
    pool.close()
    assert all(one.closed for one in started)


def test_one_call_at_a_time_starts_one_worker() -> None:
    pool, started, _ = pool_of(4)
    assert pool.first() is started[0]
    assert [pool.call("score", [one])[1] for one in "abc"] == ["a", "b", "c"]
    assert len(started) == 1


def test_a_call_whose_worker_dies_is_repeated_and_counts_once() -> None:
    died: list[int] = []

    def does(worker: FakeWorker, argument: Any) -> None:
        if argument == "bad luck" and not died:
            died.append(worker.slot)
            raise WorkerDied("it was killed")

    pool, started, lines = pool_of(2, does)
    counted: Counter[str] = Counter()
    progress = lambda units, tokens: counted.update(units=units, tokens=tokens)  # noqa: E731
    assert pool.call("generate", ["bad luck"], progress)[1] == "bad luck"
    assert counted == {"units": 1, "tokens": 10}
    assert started[0].closed and lines == ["worker 1 ended: it was killed; another one repeats its part"]
    assert pool.call("generate", ["again"])[1] == "again"
    assert {one.slot for one in started} <= {0, 1}, "a slot that a dead worker had is used again"


def test_what_kills_every_worker_ends_the_stage() -> None:
    def does(worker: FakeWorker, argument: Any) -> None:
        if argument == "poison":
            raise WorkerDied("it was killed")

    pool, started, _ = pool_of(2, does)
    with pytest.raises(ModelError, match=f"{DEATHS} workers ended in turn"):
        pool.call("generate", ["poison"])
    assert len(started) >= DEATHS
    assert pool.call("generate", ["fine"])[1] == "fine"


def test_an_error_of_the_call_is_the_callers_and_kills_nobody() -> None:
    def does(worker: FakeWorker, argument: Any) -> None:
        if argument < 0:
            raise ModelError("it cannot be negative")

    pool, started, _ = pool_of(1, does)
    with pytest.raises(ModelError, match="negative"):
        pool.call("generate", [-1])
    assert pool.call("generate", [1]) == (0, 1) and len(started) == 1


def test_fewer_workers_go_on_where_no_further_one_can_start() -> None:
    lines: list[str] = []
    refused = threading.Barrier(3, timeout=20)

    def start(slot: int) -> FakeWorker:
        if slot:
            refused.wait()
            raise ModelError("no room")
        return FakeWorker(slot, lambda worker, argument: None if argument else refused.wait() and None)

    pool = Pool(3, start, lines.append)
    found = dict(in_any_order(lambda one: pool.call("generate", [one]), range(8), 3))
    assert {slot for slot, _ in found.values()} == {0} and len(found) == 8
    until = time.monotonic() + 20
    while pool.count > 1 or not lines:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert all("no further one could start: no room" in line for line in lines)


def test_the_reason_is_raised_where_none_can_start() -> None:
    def start(slot: int) -> FakeWorker:
        raise ModelError("the model is missing")

    pool = Pool(2, start, lambda line: None)
    with pytest.raises(ModelError, match="the model is missing"):
        pool.first()


def test_closing_ends_who_waits() -> None:
    go_on = threading.Event()
    pool, _, _ = pool_of(1, lambda worker, argument: go_on.wait(20) and None)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            pool.call("generate", [1])
        except WorkerDied as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for one in threads:
        one.start()
    while not pool._all or pool._idle:
        threading.Event().wait(0.01)
    pool.close()
    go_on.set()
    for one in threads:
        one.join(20)
    assert len(errors) == 1, "the second call was waiting for the worker"


# ---- several parts at once ---------------------------------------------------------------------------


def test_parts_that_are_being_made_are_kept_when_one_fails() -> None:
    together = threading.Barrier(3, timeout=20)

    def make(part: int) -> int:
        if part < 3:
            together.wait()
        if part == 1:
            raise ValueError("part 1")
        time.sleep(0.2 if part > 2 else 0)
        return part * 10

    found: dict[int, int] = {}
    with pytest.raises(ValueError, match="part 1"):
        for part, made in in_any_order(make, range(9), 3):
            found[part] = made
    assert {0, 2} <= {*found} and 8 not in found, "no further parts are begun after the error"


def test_parts_that_are_being_made_are_kept_when_no_further_one_may_begin() -> None:
    def affordable() -> Any:
        yield from range(3)
        raise RuntimeError("the budget is spent")

    found: list[int] = []
    with pytest.raises(RuntimeError, match="budget"):
        for part, _ in in_any_order(lambda part: part, affordable(), 2):
            found.append(part)
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_all_parts_are_made_once(at_once: int) -> None:
    made = Counter(part for part, _ in in_any_order(lambda part: part, range(20), at_once))
    assert made == Counter(range(20))
