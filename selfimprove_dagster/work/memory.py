"""Measure the memory that this process has used."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak_memory() -> dict[str, float]:
    """Return the peaks of this process so far in bytes: `peak_memory`, and `peak_gpu_memory` if it uses a GPU.

    The first is the resident memory, the second what Torch allocated on the current GPU.
    """
    found = {"peak_memory": float(_resident())}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory"] = float(torch.cuda.max_memory_allocated())
    return found


def reset_peak_memory() -> bool:
    """Let the peaks start again from what this process uses now; return whether the system can do that.

    Only Linux can, of the resident memory. Memory that is free, but was not given back to the system, would count
    towards the next peak: the C library of Linux gives it back first.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):  # other systems and C libraries have no such function
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # a child process inherits the peak of its parent in `getrusage`
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
