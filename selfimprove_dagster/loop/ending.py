"""Report the end of a loop once, by the command or the address in `on_stop` of the experiment's file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from filelock import FileLock, Timeout

from selfimprove_dagster.errors import first_line
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.disk import write_atomically
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.loop.state import State
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.attempts import folder_of

HOOK_SECONDS = 20.0
"""Time limit of a command or a request: the sensor, which runs them as well, has a minute."""


def report_end(lake: Lake, chain: Sequence[Experiment], state: State) -> list[str]:
    """Run the hooks of an experiment if its loop has ended; return warnings about those that failed.

    An end is reported once, whichever process finds it first, also if the hook fails. It is a new end once an attempt
    was made or something was changed in between.
    """
    if not state.has_ended:
        return []
    folder = folder_of(lake, chain[0].name)
    folder.mkdir(parents=True, exist_ok=True)
    file, end = folder / "end.json", _end_of(state)
    try:
        with FileLock(folder / ".end.lock", timeout=0):
            with suppress(OSError, ValueError, TypeError, KeyError):
                if json.loads(file.read_text(encoding="utf-8"))["end"] == end:
                    return []
            # It is noted first: a hook that is killed halfway is not run again.
            noted = {"end": end, "at": time.time(), "state": state.to_json()}
            write_atomically(file, json.dumps(noted, indent=1).encode())
    except Timeout:
        return []
    section, text = chain[0].on_stop, json.dumps(state.to_json())
    warnings = [
        _run(section.command, text) if section.command else "",
        _post(section.url, text) if section.url else "",
    ]
    return [f"on_stop of {chain[0].name}: {one}" for one in warnings if one]


def _end_of(state: State) -> str:
    """Return a hash of an end: its kind and reason, and the attempt that led to it."""
    run = state.attempt.run_id if state.attempt else ""
    data: dict[str, Any] = {"kind": state.kind, "run": run, "inputs": state.inputs}
    return content_hash({**data, "reason": state.reason if state.kind == "finished" else ""})


def _run(command: str, text: str) -> str:
    """Run a shell command with the text on its standard input; return what went wrong, if anything."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        process = subprocess.Popen(command, shell=True, text=True, start_new_session=True, **pipes)
    except OSError as error:
        return f"the command could not be started: {error.strerror}"
    try:
        out, errors = process.communicate(text, timeout=HOOK_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"the command did not end within {HOOK_SECONDS:.0f} seconds and was stopped"
    if process.returncode:
        said = plain((errors or out).strip(), 300)
        return f"the command ended with code {process.returncode}{f': {said}' if said else ''}"
    return ""


def _post(address: str, text: str) -> str:
    """Send the text by POST; return what went wrong, if anything, without the address, which may be secret."""
    url = os.path.expandvars(address)
    if missing := re.findall(r"\$\{?(\w+)\}?", url):
        return f"the environment variable {missing[0]} of the address is not set"
    if not url.startswith(("http://", "https://")):
        return "the address must start with http:// or https://"
    request = urllib.request.Request(
        url, data=text.encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=HOOK_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return f"the address answered with status {error.code}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"the address cannot be reached: {first_line(Exception(str(reason)))}"
