"""Workers in a Ray cluster: what cannot start says what to do. `test_four_ways` lets them work, and kills a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kit import ray_cluster

from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.sections import ModelSection, WorkersSection
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.workers.models import SharedModels

pytestmark = pytest.mark.scale
pytest.importorskip("ray", reason="pip install '.[ray]'")

SECTION = ModelSection(path=str(BASE_MODEL), device="cpu")


@pytest.fixture
def cluster() -> Iterator[Any]:
    with ray_cluster.running() as made:
        yield made


def test_what_cannot_start_says_what_to_do(cluster: Any) -> None:
    def opened(**settings: Any) -> None:
        workers = WorkersSection(kind="ray", **settings)
        models = SharedModels(LanguageModelResource(), workers, lambda line: None)
        with models.open(SECTION):
            pass

    with pytest.raises(ModelUnavailable, match=r"no Ray cluster at 127\.0\.0\.1:9"):
        opened(address="127.0.0.1:9")
    with pytest.raises(
        ModelError, match=r"no worker with 7 cores and 0 GPUs was ready .* lower run\.workers\.count"
    ):
        opened(address=cluster.address, resources={"cpus": 7}, patience=3)
    opened(address=cluster.address)
