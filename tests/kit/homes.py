"""Installations of a test's own: a folder with a lake, and one with experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfimprove_dagster.home.home import Home


def make_home(folder: Path, *experiments: Mapping[str, Any]) -> Home:
    """A home that knows these experiments, none of them run."""
    home = Home(root=folder / "home", experiments=folder / "experiments")
    home.experiments.mkdir(parents=True)
    for settings in experiments:
        (home.experiments / f"{settings['name']}.yaml").write_text(yaml.safe_dump(dict(settings)))
    return home


def environment_of(home: Home) -> dict[str, str]:
    """The variables by which the package finds the home."""
    return {
        "SELFIMPROVE_HOME": str(home.root),
        "SELFIMPROVE_EXPERIMENTS": str(home.experiments),
        "DAGSTER_HOME": str(home.dagster),
    }


def enter(home: Home, patch: pytest.MonkeyPatch) -> Home:
    """Let the package find this home until the patch is undone."""
    for name, value in environment_of(home).items():
        patch.setenv(name, value)
    return home


@contextmanager
def entered(home: Home) -> Iterator[pytest.MonkeyPatch]:
    """Let the package find this home for a while; gives the patch, for more of the kind."""
    with pytest.MonkeyPatch.context() as patch:
        enter(home, patch)
        yield patch
