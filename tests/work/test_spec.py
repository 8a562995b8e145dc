"""Work that is named: found in another process, and refused where its files differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.work.spec import Spec, files_hash

PACKAGE = "plugin_of_the_test"
TWICE = "def scaled(value, by):\n    return value * by\n"
RUN = """
import json, sys
from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.work.spec import Spec
try:
    print(Spec(**json.load(sys.stdin)).call(21))
except MethodError as error:
    print(error)
"""


def plugin(folder: Path, source: str) -> Path:
    """A folder with a package of a module `work` with that source."""
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("")
    (folder / PACKAGE / "work.py").write_text(source)
    return folder


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spec]:
    """The spec of a function of a package that lies in `here`."""
    monkeypatch.syspath_prepend(str(plugin(tmp_path / "here", TWICE)))
    yield Spec.of(import_module(f"{PACKAGE}.work").scaled, by=2)
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    registry.forget()


def run(spec: Spec, folder: Path) -> str:
    """What a process prints that finds the package in another folder."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(spec.to_json()),
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_a_worker_with_the_same_files_runs_the_function(spec: Spec, tmp_path: Path) -> None:
    assert spec.call(21) == 42
    assert run(spec, plugin(tmp_path / "there", TWICE)) == "42"


def test_a_worker_whose_files_differ_refuses_it(spec: Spec, tmp_path: Path) -> None:
    there = plugin(tmp_path / "there", TWICE + "# another version\n")
    said = run(spec, there)
    known = f"import {PACKAGE}; from selfimprove_dagster.work.spec import files_hash; print(files_hash({PACKAGE!r}))"
    theirs = subprocess.run(
        [sys.executable, "-c", known],
        env={**os.environ, "PYTHONPATH": str(there)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()
    assert spec.files == files_hash(PACKAGE) != theirs
    assert said == (
        f"{PACKAGE}.work:scaled differs from the requested one (files {theirs} here, {spec.files} there); "
        "install the same version of its method everywhere"
    )


def test_a_worker_without_the_package_says_so(spec: Spec, tmp_path: Path) -> None:
    assert run(spec, tmp_path).startswith(f"{PACKAGE}.work:scaled cannot be found here: No module named")


def test_what_no_other_process_can_find_is_no_spec() -> None:
    with pytest.raises(MethodError, match="not at the top level"):
        Spec.of(lambda: None)
    with pytest.raises(MethodError, match="arguments must be plain data"):
        Spec.of(files_hash, module=Path("a"))
