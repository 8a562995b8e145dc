"""Several streams of work side by side, one CPU core each.

For a small model the operations are too short to be shared out among cores: two threads inside each operation
wait for each other, and where another process holds a core they do so at every operation (on two busy cores:
1,500 tokens/s with two threads an operation, 11,500 with one). Lanes share out rows instead, and meet only at
the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

import torch

Item = TypeVar("Item")


def merged(sources: Sequence[Callable[[], Iterator[Item]]]) -> Iterator[Item]:
    """What the sources yield, in the order of time; each runs in a thread of its own, on one core.

    A single source has the threads that PyTorch has. An error in a source is raised here, and ends the others
    at their next item, as does leaving the iteration early.
    """
    threads_before = torch.get_num_threads()
    queue: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    leave = threading.Event()

    def run(source: Callable[[], Iterator[Item]]) -> None:
        try:
            if len(sources) > 1:
                torch.set_num_threads(1)
            # Sharp attention has weights below 1e-38, and a processor that keeps these works several times
            # longer on them. The setting is one a thread, and ends with it.
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
        # The setting is one a thread for OpenMP, but one a process for MKL.
        torch.set_num_threads(threads_before)
