"""A backfill of two iterations of a method that may learn from other methods, launched in Dagster's own UI."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import dagster as dg
import pytest
from kit.daemons import ROOT, make_home, running
from kit.judging_home import EXPERIMENTS

from selfimprove_dagster.assets.partitions import add_iterations
from selfimprove_dagster.home.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.rotates]

SECONDS = 240


@contextmanager
def webserver(folder: Path) -> Iterator[str]:
    """The address of Dagster's UI over the workspace of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [program, "-w", folder / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "webserver.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + SECONDS
            while not _answers(address):
                assert process.poll() is None and time.monotonic() < deadline, (
                    folder / "webserver.log"
                ).read_text()[-4000:]
                time.sleep(1)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, TimeoutError):
        return False


def _launch_backfill(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{address}/assets/pit/seed_pool?view=partitions")
    page.get_by_role("button", name="Materialize").click()
    page.get_by_role("button", name="Confirm").click()  # the methods that it may learn from have made nothing
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    page.get_by_role("button", name="Launch backfill").wait_for(state="detached")
    page.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return make_home(tmp_path, monkeypatch, {**EXPERIMENTS["pit"], "name": "improver"})


def test_two_iterations_are_backfilled(chromium: Any, home: Home, tmp_path: Path) -> None:
    keys = ["improver-000", "improver-001"]
    with dg.DagsterInstance.get() as instance:
        add_iterations(instance, "pit", keys)
        with webserver(tmp_path) as address, running(tmp_path) as wait:
            _launch_backfill(chromium, address)
            wait(
                lambda: any(one.status.name.startswith("COMPLETED") for one in instance.get_backfills()),
                SECONDS,
            )
        (backfill,) = instance.get_backfills()
        assert backfill.status.name == "COMPLETED_SUCCESS", backfill.error
        materialised = instance.get_materialized_partitions(dg.AssetKey(["pit", "seed_pool"]))
    assert sorted(materialised) == keys
    assert [one.iteration for one in home.lake.manifests("pit/seed_pool", "improver")] == [0, 1]
