"""What is changed around a training run in this process, and put back after it."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

from selfimprove_dagster.language_model.quiet import quietly


@contextlib.contextmanager
def deterministic_kernels(on_cpu: bool) -> Iterator[None]:
    """Deterministic CUDA kernels where there are any; CPU kernels are, for one thread count."""
    if on_cpu:
        yield
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log lines, progress bars and warnings, and put them back as they were."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
