"""Do several parts of some work at the same time, in threads, and take them as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

Part = TypeVar("Part")
Made = TypeVar("Made")


def in_any_order(
    make: Callable[[Part], Made], parts: Iterable[Part], at_once: int
) -> Iterator[tuple[Part, Made]]:
    """Yield each part with what `make` makes of it, as they end; at most `at_once` are being made.

    The next part is asked for when there is room for it. If making one fails, or asking for one, those that are being
    made are still yielded before the error is raised; with `at_once` 1, there are none, and this thread does all.
    """
    if at_once <= 1:
        for part in parts:
            yield part, make(part)
        return
    waiting = iter(parts)
    error: BaseException | None = None
    running: dict[Future[Made], Part] = {}
    executor = ThreadPoolExecutor(at_once)
    try:
        while True:
            while error is None and len(running) < at_once:
                try:
                    part = next(waiting)
                except StopIteration:
                    break
                except Exception as raised:
                    error = raised
                    break
                running[executor.submit(copy_context().run, make, part)] = part
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(done)
                if raised_by := done.exception():
                    error = error or raised_by
                else:
                    yield part, done.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    if error is not None:
        raise error
