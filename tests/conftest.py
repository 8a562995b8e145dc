"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import settings
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster.home.home import Home

# Before anything imports great_expectations, which reads it at import and would otherwise phone home.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end they would keep one worker busy and the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data sets (`gsm8k/`, `svamp/`, …): $SELFIMPROVE_DATA, or `../shared/data`.

    They are not part of the repository; a test that asks for them is skipped where they are missing.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SELFIMPROVE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set SELFIMPROVE_DATA to the folder that holds gsm8k/, svamp/")
    return folder


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two whole iterations of the experiment `small` on the embedded model, run once for all tests.

    To be read only: a test that changes it works on a copy.
    """
    from selfimprove_dagster.runs import run_iteration

    folder = tmp_path_factory.mktemp("finished")
    home = Home(root=folder / "home", experiments=folder / "experiments")
    home.experiments.mkdir()
    (home.experiments / "small.yaml").write_text(yaml.safe_dump(SMALL_EXPERIMENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFIMPROVE_HOME", str(home.root))
        patch.setenv("SELFIMPROVE_EXPERIMENTS", str(home.experiments))
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        for iteration in range(2):
            assert run_iteration(home, home.experiment("small"), iteration) == []
    return home
