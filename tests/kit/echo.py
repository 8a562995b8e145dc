"""The toy method as a stranger brings it: installed by its entry point, or in a folder of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.home.home import Home

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "toy_method"
EXPERIMENT = {
    "method": "echo",
    "words": ["cat", "horse", "hare", "mouse", "ox"],
    "budget": {"iterations": 2},
}


class Stranger:
    """A home with one experiment of the toy method, and a shell in which the method is found."""

    def __init__(self, folder: Path, *, by: str, source: Path = PACKAGE) -> None:
        self.home, self.experiments = folder / "home", folder / "experiments"
        self.experiments.mkdir()
        self.write("loud", EXPERIMENT)
        (self.home / "dagster").mkdir(parents=True)
        self.variables = {
            "SELFIMPROVE_HOME": str(self.home),
            "SELFIMPROVE_EXPERIMENTS": str(self.experiments),
            "DAGSTER_HOME": str(self.home / "dagster"),
            registry.FOLDERS: str(source) if by == "folder" else "",
        }
        self.path: list[str] = []
        if by == "entry point":
            release = folder / "site" / "echo_method-1.0.dist-info"
            release.mkdir(parents=True)
            (release / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-method\nVersion: 1.0\n")
            (release / "entry_points.txt").write_text(f"[{registry.GROUP}]\necho = echo_method:METHOD\n")
            self.path = [str(source), str(folder / "site")]

    def write(self, name: str, settings: Mapping[str, Any]) -> None:
        """Write an experiment's file."""
        (self.experiments / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **settings}))

    def python(self, code: str, *arguments: str) -> str:
        """What a program prints in this shell."""
        return self._succeeded([sys.executable, "-W", "ignore", "-c", code, *arguments])

    def call(self, *arguments: str) -> str:
        """What a command of the command line prints, in a process of its own."""
        return self._succeeded(self._command(arguments))

    def refused(self, *arguments: str) -> str:
        """What a command says that fails, in a process of its own."""
        done = self._run(self._command(arguments))
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, *arguments: str) -> str:
        """What a command prints that only reads, in this process, which takes no seconds to start."""
        from selfimprove_dagster.cli.main import app

        with self.entered():
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    def pages(self, *addresses: str) -> dict[str, str]:
        """The lineage pages at these addresses."""
        from kit.pages import client

        with self.entered() as home:
            answers = {address: client(home).get(address) for address in addresses}
        assert {one: answer.status_code for one, answer in answers.items()} == dict.fromkeys(addresses, 200)
        return {one: answer.text for one, answer in answers.items()}

    @contextmanager
    def entered(self) -> Iterator[Home]:
        """Let this process find the home and the method for a while, as the shell does."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "path", [*self.path, *sys.path])
            registry.forget()
            try:
                yield Home.from_environment()
            finally:
                for name in [name for name in sys.modules if name.split(".")[0] == "echo_method"]:
                    del sys.modules[name]
        registry.forget()

    def rows(self, table: str, iteration: int = 0, experiment: str = "loud") -> list[dict[str, Any]]:
        """The rows of a table, read without the package."""
        import polars as pl

        files = self.files(table, iteration, experiment)
        return pl.concat([pl.read_parquet(file) for file in files]).rows(named=True)

    def files(self, table: str, iteration: int = 0, experiment: str = "loud") -> list[Path]:
        """The committed files of a table."""
        folder = self.folder(table, iteration, experiment)
        return [folder / file["name"] for file in self.manifest(table, iteration, experiment)["files"]]

    def manifest(self, table: str, iteration: int = 0, experiment: str = "loud") -> dict[str, Any]:
        """What was committed of a table."""
        found: dict[str, Any] = json.loads(
            (self.folder(table, iteration, experiment) / "manifest.json").read_text()
        )
        return found

    def folder(self, table: str, iteration: int = 0, experiment: str = "loud") -> Path:
        """Where a table of an iteration lies."""
        return self.home / "lake" / table / f"experiment={experiment}" / f"iteration={iteration:03d}"

    def killed(self, code: str) -> None:
        """Run a program that is killed with SIGKILL."""
        done = self._run([sys.executable, "-W", "ignore", "-c", code])
        assert done.returncode == -9, done.stdout + done.stderr

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "selfimprove_dagster.cli", *arguments]

    def _succeeded(self, command: list[str]) -> str:
        done = self._run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([*self.path, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **self.variables, "PYTHONPATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=self.home)
