"""What an installation holds: the wheel, the names that Python imports, and the versions that resolve."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from kit.imports import imported

from selfimprove_dagster.home.home import SHIPPED_EXPERIMENTS

ROOT = Path(__file__).parents[2]
LINKED = ("assets", "resources", "experiments")
"""Folders of the checkout that ship inside the package."""

LOADED = """
import os, sys
import selfimprove_dagster.definitions
from selfimprove_dagster.cli.main import app
app(["--help"], standalone_mode=False)
files = {}
for name, module in list(sys.modules.items()):
    if getattr(module, "__file__", None):
        files.setdefault(os.path.realpath(module.__file__), set()).add(module.__name__)
here = os.path.realpath(os.curdir) + os.sep
print("twice:", [names for file, names in files.items() if len(names) > 1 and file.startswith(here)])
print("top level:", sorted(name for name in sys.modules if name.split(".")[0] in ("assets", "resources")))
"""
"""Loads the code location and the command line, then reports what was loaded under a second name."""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """The standard output of a command, which must succeed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


# ---- one import name ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_root_of_the_checkout_loads_nothing_a_second_time() -> None:
    """Python finds `assets` and `resources` from the root; nothing may import them by these names."""
    run(sys.executable, "-c", "import assets, resources", folder=ROOT)
    printed = run(sys.executable, "-c", LOADED, folder=ROOT)
    assert "Usage:" in printed
    assert printed.endswith("twice: []\ntop level: []\n")


def test_nothing_imports_the_linked_folders_by_their_top_level_names() -> None:
    sources = [
        path
        for folder in ("selfimprove_dagster", "assets", "resources", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 300
    top_level = {path: {name.split(".")[0] for name in imported(path)} for path in sources}
    assert not [path for path, names in top_level.items() if names & set(LINKED)]


# ---- the wheel ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone of what is committed: nothing that git ignores or does not know can get into its wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("clone")
    run("git", "clone", "--quiet", ROOT, folder, folder=ROOT)
    return folder


def build(source: Path, into: Path) -> Path:
    """A wheel of the sources, built with the setuptools of this environment."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", into)
    run(sys.executable, "-m", "pip", "wheel", *options, source, folder=into.parent)
    (wheel,) = into.glob("selfimprove_dagster-*.whl")
    return wheel


def contents(wheel: Path) -> set[str]:
    """The files of a wheel without its metadata."""
    return {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(clone, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(clone: Path, wheel: Path) -> None:
    tracked = run("git", "ls-files", "selfimprove_dagster", *LINKED, folder=clone).splitlines()
    wanted = {
        f"selfimprove_dagster/{name}" if name.split("/")[0] in LINKED else name
        for name in tracked
        if not (clone / name).is_symlink()
    }
    assert {f"selfimprove_dagster/{folder}" for folder in LINKED} <= {
        str(PurePosixPath(name).parent) for name in wanted
    }
    assert contents(wheel) == wanted
    with ZipFile(wheel) as files:
        assert not [entry.filename for entry in files.infolist() if (entry.external_attr >> 28) == 0xA], (
            "links"
        )
        for folder in ("assets", "resources"):
            name = f"{folder}/{'factory' if folder == 'assets' else 'home'}.py"
            assert files.read(f"selfimprove_dagster/{name}") == (clone / name).read_bytes()


@pytest.mark.slow
def test_a_source_distribution_makes_the_same_wheel(clone: Path, wheel: Path, tmp_path: Path) -> None:
    make = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", make, tmp_path, folder=clone)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert contents(build(archive, tmp_path / "wheel")) == contents(wheel)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of an environment that has the wheel, from an empty folder.

    The environment shares this one's dependencies. Their folders come from a .pth file, which Python does not
    search for other .pth files, so the editable installation of this checkout is not seen there.
    """
    folder = tmp_path_factory.mktemp("installed")
    environment, empty = folder / "environment", folder / "empty"
    venv.create(environment, with_pip=False)
    empty.mkdir()
    python = environment / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        wheel,
        folder=empty,
    )
    (packages,) = environment.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")

    def execute(program: str, *arguments: str) -> str:
        home = str(folder / "home")
        # The root of this checkout can be on the path of the tests, and must not be on that of the program.
        return run(
            environment / "bin" / program,
            *arguments,
            folder=empty,
            SELFIMPROVE_HOME=home,
            DAGSTER_HOME=home,
            SELFIMPROVE_EXPERIMENTS="experiments",
            PYTHONPATH="",
        )

    return execute


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(installed: Callable[..., str]) -> None:
    where = installed("python", "-c", "import selfimprove_dagster as package; print(package.__file__)")
    assert "/environment/lib/" in where
    look = "from importlib.util import find_spec; print(find_spec('assets'), find_spec('resources'))"
    assert installed("python", "-c", look) == "None None\n"
    defined = (
        "from selfimprove_dagster.definitions import defs; print(len(list(defs.resolve_all_asset_keys())))"
    )
    assert int(installed("python", "-c", defined)) > 50
    assert "Usage: selfimprove" in installed("selfimprove", "--help")
    assert "budget" in installed("selfimprove", "fields")


@pytest.mark.slow
def test_an_installed_wheel_finds_the_shipped_experiments(installed: Callable[..., str]) -> None:
    assert "demo: the embedded model" in installed("selfimprove", "status", "demo")
    names = "from selfimprove_dagster.home.home import *; print(*(p.stem for p in SHIPPED_EXPERIMENTS.glob('*.*')))"
    assert set(installed("python", "-c", names).split()) == {
        p.stem for p in SHIPPED_EXPERIMENTS.glob("*.yaml")
    }
    listed = "from selfimprove_dagster.home.home import *; print(Home.from_environment().experiment_names())"
    assert installed("python", "-c", listed) == "[]\n", "nobody asked for them, so no sensor may start them"


# ---- versions ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_constraints_resolve(version: str, tmp_path: Path) -> None:
    """Wheels of the pinned versions are to be had for each Python; rouge-score is published as source only."""
    uv = pytest.importorskip("uv", reason="uv is part of the extra `test`")
    options = ["--extra", "test", "--extra", "openlineage", "--constraints", "constraints.txt"]
    options += ["--only-binary", ":all:", "--no-binary", "rouge-score"]
    options += ["--python-version", version, "--python-platform", "x86_64-manylinux_2_31"]
    resolved = subprocess.run(
        [uv.find_uv_bin(), "pip", "compile", "--no-annotate", "--no-header", *options, "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to fetch" in resolved.stderr:
        pytest.skip(f"the package index cannot be reached: {resolved.stderr}")
    assert resolved.returncode == 0, resolved.stderr
    pinned = set((ROOT / "constraints.txt").read_text().lower().splitlines())
    assert {"dagster==1.13.27", "duckdb==2.0.0", "pytest==9.2.0"} <= pinned & set(
        resolved.stdout.splitlines()
    )
