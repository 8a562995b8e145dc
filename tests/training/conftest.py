"""Fixtures of the trainers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.torch_threads import torch_threads
from kit.training import make_base


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Weights are compared bit by bit, and models this small gain nothing from a second thread."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("model") / "base")
