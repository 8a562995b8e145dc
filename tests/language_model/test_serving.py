"""A small HTTP server in place of vLLM's: it is started, watched and stopped, and never outlives its parent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.sections import ModelSection, ServeSection
from selfimprove_dagster.language_model import serving
from selfimprove_dagster.language_model.serving import ServerProcess, free_port
from selfimprove_dagster.language_model.vllm_server import flags

SERVER = textwrap.dedent(
    """
    import http.server, signal, subprocess, sys
    port, deaf = int(sys.argv[1]), len(sys.argv) > 2
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
        def log_message(self, *_):
            pass
    print("a word of the server", flush=True)
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """
)
"""It has a child that ignores SIGTERM; with a second argument it ignores SIGTERM itself."""


def start(log: Path, *arguments: str, source: str = SERVER, limit: float = 60.0) -> ServerProcess:
    port = free_port()
    program = [sys.executable, "-c", source, str(port), *arguments]
    return ServerProcess(program, name="test server", port=port, log=log, start_limit=limit)


def ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "server.log"


class Started:
    """The processes that this test process has started since the object was made.

    Other tests may have left processes that live as long as the test process, such as that of math-verify.
    """

    def __init__(self) -> None:
        self._before = set(psutil.Process().children(recursive=True))

    def __call__(self, *, recursive: bool = False) -> list[psutil.Process]:
        return [one for one in psutil.Process().children(recursive) if one not in self._before]


@pytest.fixture(autouse=True)
def started() -> Iterator[Started]:
    """Give the processes that a test has started, and fail the test if one remains."""
    started = Started()
    yield started
    assert started() == []


def test_a_server_is_stopped_with_all_its_processes(log: Path, started: Started) -> None:
    server = start(log)
    processes = started(recursive=True)
    assert len(processes) == 3
    assert server.problem is None
    server.close()
    assert ended(processes)
    assert log.read_text() == "a word of the server\n"
    server.close()


def test_a_server_that_ignores_the_signal_is_killed(
    log: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.guard, "GRACE", 0.5)
    server = start(log, "deaf")
    processes = started(recursive=True)
    server.close()
    assert ended(processes)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_server_ends_with_the_process_that_started_it(log: Path, name: str) -> None:
    starter = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from selfimprove_dagster.language_model.serving import ServerProcess, free_port
        port = free_port()
        program = [sys.executable, "-c", {SERVER!r}, str(port)]
        server = ServerProcess(program, name="test server", port=port, log=Path({str(log)!r}), start_limit=60)
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    processes = psutil.Process(parent.pid).children(recursive=True)
    assert len(processes) == 3
    parent.send_signal(getattr(signal, name))
    assert parent.wait(30) == -getattr(signal, name)
    parent.stdout.close()
    assert ended(processes)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(log: Path) -> None:
    source = "print('\\n'.join(f'line {at}' for at in range(40))); raise SystemExit('no memory')"
    with pytest.raises(ModelError) as error:
        start(log, source=source)
    first, *lines = str(error.value).splitlines()
    assert first == f"the test server ended with code 1. The end of its log {log}:"
    assert len(lines) == serving.SHOWN_LINES
    assert lines[-1] == "no memory" or "no memory" in lines


def test_a_server_that_never_answers_is_stopped_and_reported(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "_FIRST_NOTICE", 0.5)
    source = "import time; print('loading weights', flush=True); time.sleep(600)"
    with pytest.raises(ModelError, match=r"does not answer after 3 s: raise its start limit"):
        start(log, source=source, limit=3.0)
    assert re.search(
        rf"has been starting for \d s; {re.escape(str(log))} ends with: loading weights", caplog.text
    )


def test_a_server_that_ends_later_is_no_fault_of_a_request(log: Path, started: Started) -> None:
    """A ModelError stays as it is while the server runs; afterwards it is that the model is unavailable."""
    server = start(log)
    with pytest.raises(ModelError, match="one wrong request") as plain, server.watched():
        raise ModelError("one wrong request")
    assert not isinstance(plain.value, ModelUnavailable)
    (guard,) = started()
    (process,) = guard.children()
    os.kill(process.pid, signal.SIGKILL)
    server.process.wait(30)
    with (
        pytest.raises(ModelUnavailable, match="test server ended with code 137") as error,
        server.watched(),
    ):
        raise ModelError("no answer")
    assert str(error.value).endswith("a word of the server")
    server.close()


def test_a_port_with_another_server_is_refused(log: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ModelError, match=f"cannot listen to port {port}, as another program does"):
            ServerProcess(["true"], name="test server", port=port, log=log, start_limit=60)


def test_settings_become_a_command_line() -> None:
    settings = {
        "max_num_seqs": 8,
        "max_model_len": None,
        "enforce_eager": True,
        "enable-prefix-caching": False,
        "lora_modules": ["a=b", "c=d"],
        "config": {"backend": "guidance"},
    }
    assert flags(settings) == [
        *("--max-num-seqs", "8", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--lora-modules", "a=b", "c=d", "--config", '{"backend": "guidance"}'),
    ]


def test_an_argument_that_has_a_field_of_its_own_is_refused() -> None:
    assert ServeSection(arguments={"max_num_seqs": 8}).arguments == {"max_num_seqs": 8}
    with pytest.raises(ValidationError, match=r"must not name max-model-len: set model\.vllm\.max_length"):
        ServeSection(arguments={"max-model-len": 8})


def test_a_model_without_a_server_is_recorded_as_before() -> None:
    """The settings of judges are part of record ids."""
    plain = ModelSection(path="model", engine="vllm")
    assert "serve" not in plain.model_dump()["vllm"]
    assert "serve" not in plain.engine_options()
    served = ModelSection.model_validate(
        {"path": "model", "engine": "vllm", "vllm": {"serve": {"port": 8123}}}
    )
    assert served.engine_options()["serve"]["port"] == 8123
