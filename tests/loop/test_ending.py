"""The hooks of `on_stop`: run once for an end, given the state, and never the end of anything themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import make_experiment, promotion_draft, seed_draft, store

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.loop import ending
from selfimprove_dagster.loop.ending import report_end
from selfimprove_dagster.loop.state import state_of
from selfimprove_dagster.methods.lmsi.tables import PROMOTION
from selfimprove_dagster.shared_tables import SEEDS


@pytest.fixture
def address() -> Iterator[tuple[str, list[Any], list[int]]]:
    """A server: its address, what it was sent, and the status of its next answers."""
    sent: list[Any] = []
    answers = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[0])
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", sent, answers
    server.shutdown()
    server.server_close()


def finished(lake: Lake, folder: Path, iterations: int = 1, **on_stop: Any) -> Experiment:
    experiment = make_experiment(
        folder, budget={"iterations": iterations, "minimum_yield": 0, "patience": 9}, on_stop=on_stop
    )
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    store(lake, PROMOTION, [promotion_draft("0", True)], iteration=iterations - 1)
    return experiment


def report(lake: Lake, experiment: Experiment) -> list[str]:
    return report_end(lake, [experiment], state_of(lake, [experiment]))


def test_a_command_gets_the_state_of_each_end_once(lake: Lake, tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    command = f"cat >> {told}; echo >> {told}"
    experiment = finished(lake, tmp_path, command=command)
    assert report(lake, experiment) == report(lake, experiment) == []
    (line,) = told.read_text().splitlines()
    said = json.loads(line)
    assert (said["experiment"], said["state"]) == ("demo", "finished")
    assert said["reason"] == "iteration budget spent: 1 of 1 iterations are done"
    assert report(lake, finished(lake, tmp_path, 2, command=command)) == []
    assert len(told.read_text().splitlines()) == 2, "another iteration makes another end"


def test_nothing_is_reported_before_the_end(lake: Lake, tmp_path: Path) -> None:
    told = tmp_path / "told"
    store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "b"})
    assert report(lake, make_experiment(tmp_path, on_stop={"command": f"touch {told}"})) == []
    assert not told.exists()


def test_an_end_before_the_hook_was_added_is_not_reported(lake: Lake, tmp_path: Path) -> None:
    report(lake, finished(lake, tmp_path))
    told = tmp_path / "told"
    assert report(lake, finished(lake, tmp_path, command=f"touch {told}")) == []
    assert not told.exists()


def test_an_address_gets_the_state(
    lake: Lake,
    tmp_path: Path,
    address: tuple[str, list[Any], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, sent, _ = address
    monkeypatch.setenv("HOOK_ADDRESS", url)
    assert report(lake, finished(lake, tmp_path, url="${HOOK_ADDRESS}")) == []
    assert [one["state"] for one in sent] == ["finished"]


@pytest.mark.parametrize(
    ("on_stop", "warning"),
    [
        ({"command": "echo no >&2; exit 3"}, "the command ended with code 3: no"),
        ({"command": "sleep 60"}, "the command did not end within 0 seconds and was stopped"),
        (
            {"url": "http://127.0.0.1:9/secret"},
            "the address cannot be reached: [Errno 111] Connection refused",
        ),
        (
            {"url": "${NO_SUCH_VARIABLE}"},
            "the environment variable NO_SUCH_VARIABLE of the address is not set",
        ),
        ({"url": "file:///etc/passwd"}, "the address must start with http:// or https://"),
    ],
)
def test_a_hook_that_fails_is_a_warning_and_is_not_run_again(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_stop: dict[str, str], warning: str
) -> None:
    monkeypatch.setattr(ending, "HOOK_SECONDS", 0.3)
    experiment = finished(lake, tmp_path, **on_stop)
    assert report(lake, experiment) == [f"on_stop of demo: {warning}"]
    assert report(lake, experiment) == []


def test_an_answer_that_is_an_error_is_a_warning(
    lake: Lake, tmp_path: Path, address: tuple[str, list[Any], list[int]]
) -> None:
    url, sent, answers = address
    answers[0] = 500
    assert report(lake, finished(lake, tmp_path, url=url)) == [
        "on_stop of demo: the address answered with status 500"
    ]
    assert len(sent) == 1
