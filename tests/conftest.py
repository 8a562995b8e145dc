"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from kit.homes import entered, make_home
from kit.lmsi_iterations import Iterations, build_iterations
from kit.sampling import SLOW_TURNS, TURNS, all_methods, chosen_methods, takes_turn
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster import registry
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake

# Before anything imports great_expectations, which reads it at import and would otherwise phone home.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

# A busy machine is no reason to fail.
settings.register_profile("whole", deadline=None)
# The short run repeats the same examples, so that a change fails by its own fault; the long one draws new ones.
settings.register_profile("sample", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("whole" if all_methods() else "sample")


def pytest_report_header() -> str:
    """Which methods the matrices run."""
    names = registry.methods()
    return f"matrices over methods: {', '.join(chosen_methods(names))} of {len(names)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what rotates and has no turn, and slow tests on one commit in three, unless files are named.

    Slow tests of the targets of their own (training, Chromium, …) always run.

    Files with slow tests come first: at the end they would keep one worker busy and the others waiting.
    """
    if not config.option.file_or_dir:
        due: list[pytest.Item] = []
        waiting: list[pytest.Item] = []
        for item in items:
            runs = all(takes_turn(item.path, turns=turns) for turns in _turns(item))
            (due if runs else waiting).append(item)
        config.hook.pytest_deselected(items=waiting)
        items[:] = due
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _turns(item: pytest.Item) -> Iterator[int]:
    """In how many commits a test has one turn; nothing for a test that always runs."""
    marks = {mark.name for mark in item.iter_markers()}
    if "rotates" in marks:
        yield TURNS
    elif "slow" in marks and not marks & {"train", "browser", "docs", "vllm", "real", "scale"}:
        yield SLOW_TURNS


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


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path / "lake")


def _built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder that `build` filled: once for all of pytest's workers, while the others wait for it."""
    shared = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            (folder / "whole").touch()
    return folder


def _home_in(folder: Path) -> Home:
    return Home(root=folder / "home", experiments=folder / "experiments")


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two whole iterations of the experiment `small` on the embedded model.

    To be read only, as the other homes of a session: a test that changes one works on a copy.
    """

    def build(folder: Path) -> None:
        from selfimprove_dagster.runs import run_iteration

        home = make_home(folder, SMALL_EXPERIMENT)
        with entered(home):
            for iteration in range(2):
                assert run_iteration(home, home.experiment("small"), iteration) == []

    return _home_in(_built_once(tmp_path_factory, "finished", build))


@pytest.fixture(scope="session")
def judge_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One iteration each of Constitutional AI (`cai`), RLAIF (`ai`) and RLHF (`people`), written row by row."""
    from kit.judge_lake import make_judge_home

    return _home_in(_built_once(tmp_path_factory, "judges", make_judge_home))


@pytest.fixture(scope="session")
def task_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two iterations each of Self-Instruct (`si`) and Unnatural Instructions (`ui`) by a scripted model."""
    from kit.task_lake import make_task_home

    return _home_in(_built_once(tmp_path_factory, "tasks", make_task_home))


@pytest.fixture(scope="session")
def tool_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two iterations of Toolformer (`tf`) by a scripted model, and one whose calls are chosen at random."""
    from kit.tool_lake import make_tool_home

    return _home_in(_built_once(tmp_path_factory, "tools", make_tool_home))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterations:
    """Two sound iterations of LMSI, written row by row."""
    return build_iterations(tmp_path_factory.mktemp("template"))


@pytest.fixture
def made(template: Iterations, tmp_path: Path) -> Iterations:
    """A copy of the template that a test may spoil."""
    shutil.copytree(template.folder / "lake", tmp_path / "lake")
    return Iterations(tmp_path, template.experiment)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser of a module, without a window."""
    from kit.browser import CHROMIUM, QUIET

    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium: install it, or set SELFIMPROVE_CHROMIUM to its program")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()
