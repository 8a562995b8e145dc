"""Run several streams of work in parallel, one per CPU core.

For a small model the operations are too short to be distributed among cores: two threads in each operation
wait for each other, at every operation if another process uses a core (on two busy cores: 1,500 tokens/s with
two threads per operation, 11,500 with one). Lanes distribute rows instead and synchronise only at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

import torch

Item = TypeVar("Item")


def merged(sources: Sequence[Callable[[], Iterator[Item]]]) -> Iterator[Item]:
    """Yield the items of all sources as they arrive; each source runs in its own thread, on one core.

    A single source uses PyTorch's threads. An error in a source is raised here and stops the others at their
    next item, and so does leaving the iteration early.
    """
    threads_before = torch.get_num_threads()
    queue: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    leave = threading.Event()

    def run(source: Callable[[], Iterator[Item]]) -> None:
        try:
            if len(sources) > 1:
                torch.set_num_threads(1)
            # Sharp attention has weights below 1e-38 (denormals), which are several times slower to process. The
            # setting is per thread and ends with it.
            torch.set_flush_denormal(True)
            for item in source():
                if leave.is_set():
                    break
                queue.put((item, None))
            queue.put((None, None))
        except BaseException as error:
            queue.put((None, error))

    threads = [threading.Thread(target=run, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        leave.set()
        for thread in threads:
            thread.join()
        # The setting is per thread for OpenMP, but per process for MKL.
        torch.set_num_threads(threads_before)
