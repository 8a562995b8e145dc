"""How the command line ends: at once, with its output whole and the exit code that the command gave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fields", "lmsi"], 0, "┘\n"),
        (["fields", "nope"], 1, "error: method: 'nope' is not one of 'constitutional'"),
        (["--nope"], 2, "No such option: --nope"),
    ],
)
def test_output_and_exit_code_reach_a_pipe(arguments: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "selfimprove_dagster.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert said in done.stdout + done.stderr
    assert done.returncode == code


def test_a_pipe_gets_every_field_with_its_whole_name() -> None:
    from selfimprove_dagster.home.files import describe_fields

    command = [sys.executable, "-m", "selfimprove_dagster.cli", "fields", "rlaif"]
    out = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True).stdout
    cells = {line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")}
    assert {field.name for field in describe_fields("rlaif")} <= cells
    assert "owner/model" in out and " … " not in out and "… │" not in out


def test_what_is_registered_for_the_exit_runs_and_an_error_that_nobody_foresaw_is_a_failure() -> None:
    program = (
        "import atexit, sys\n"
        "from selfimprove_dagster.cli import main as cli\n"
        "@cli.app.command()\n"
        "def fail() -> None:\n"
        "    atexit.register(print, 'cleaned up')\n"
        "    raise ValueError('unforeseen')\n"
        "sys.argv = ['selfimprove', 'fail']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "cleaned up\n"
    assert "ValueError: unforeseen" in done.stderr
    assert done.returncode == 1
