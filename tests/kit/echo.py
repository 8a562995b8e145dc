"""The toy method as a stranger brings it: installed by its entry point, or in a folder of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "toy_method"
EXPERIMENT = {
    "method": "echo",
    "model": {"path": "unused"},
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
        self.environment = {
            **os.environ,
            "SELFIMPROVE_HOME": str(self.home),
            "SELFIMPROVE_EXPERIMENTS": str(self.experiments),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "COLUMNS": "200",
        }
        if by == "folder":
            self.environment["SELFIMPROVE_METHODS"] = str(source)
        elif by == "entry point":
            release = folder / "site" / "echo_method-1.0.dist-info"
            release.mkdir(parents=True)
            (release / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-method\nVersion: 1.0\n")
            (release / "entry_points.txt").write_text(
                "[selfimprove_dagster.methods]\necho = echo_method:METHOD\n"
            )
            self.environment["PYTHONPATH"] = os.pathsep.join([str(source), str(folder / "site")])

    def write(self, name: str, settings: dict[str, Any]) -> None:
        """Write an experiment's file."""
        (self.experiments / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **settings}))

    def python(self, code: str) -> str:
        """What a program prints in this shell. Raises AssertionError with its errors when it fails."""
        return self._run([sys.executable, "-c", code])

    def call(self, *arguments: str) -> str:
        """What a command of the command line prints."""
        return self._run([sys.executable, "-W", "ignore", "-m", "selfimprove_dagster.cli", *arguments])

    def rows(self, table: str, iteration: int = 0, experiment: str = "loud") -> list[dict[str, Any]]:
        """The rows of a table, read without the package."""
        import polars as pl

        folder = self.home / "lake" / table / f"experiment={experiment}" / f"iteration={iteration:03d}"
        files = json.loads((folder / "manifest.json").read_text())["files"]
        return pl.concat([pl.read_parquet(folder / file["name"]) for file in files]).rows(named=True)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=self.home)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
