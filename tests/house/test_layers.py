"""Arrows run one way: assets → resources → the library; in it methods → families → shared rooms."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from kit.imports import PACKAGE, ROOT, cycles, files, graph, imported, room, rooms

from selfimprove_dagster import registry

HEAVY = ("torch", "transformers", "trl", "vllm", "great_expectations")
DAGSTER_USERS = {"definitions", "runs", "assets", "resources", "cli"}
"""The rooms that may know Dagster; the command line names its console."""
PURE = (
    *(f"{PACKAGE}.methods.{name}.{name}" for name in registry.methods()),
    *(name for name in files() if room(name) in ("filters", "answers")),
)
"""Functions that can be read beside their papers and tested with plain rows."""
PACKAGES = {"language_model", "training", "quality", "embedded", "recipes"}
"""Rooms that are loaded only when asked for, and may import heavy libraries at once."""
METHODS = [*registry.methods()]
ALLOWED = {
    ("families.refining.ways", "pit"): "a way of refining is called by the method that teaches it",
    ("families.refining.refining", "pit"): "the constant of that way",
    ("families.judging.trust", "self_knowledge"): "the section of an experiment that sets the gate",
}


def part(module: str) -> str:
    """The name of a module without the package's."""
    return module.removeprefix(f"{PACKAGE}.")


@pytest.mark.parametrize("module", [*files()], ids=part)
def test_only_the_code_location_knows_dagster(module: str) -> None:
    if room(module) not in DAGSTER_USERS:
        outer = {name.split(".")[0] for name in imported(files()[module])}
        assert not outer & {"dagster", "assets", "resources"}


@pytest.mark.parametrize("module", [one for one in PURE if one in files()], ids=part)
def test_functions_of_papers_know_nothing_of_lakes_engines_or_files(module: str) -> None:
    allowed = (
        "answers",
        "filters",
        "families",
        "evaluation",
        "lots",
        "own_process",
        "prompts",
        "text",
        part(module).rpartition(".")[0],
    )
    for name in imported(files()[module]):
        if name.startswith(f"{PACKAGE}."):
            assert part(name).startswith(allowed), name
        forbidden = {*HEAVY, "duckdb", "pathlib", "os", "io", "shutil", "tempfile"}
        assert name.split(".")[0] not in forbidden, name


@pytest.mark.parametrize("module", [one for one in files() if room(one) not in PACKAGES], ids=part)
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    found = {name.split(".")[0] for name in imported(files()[module], top_level=True)}
    assert not found & set(HEAVY)


def test_the_code_location_loads_without_any_heavy_library() -> None:
    """`dagster dev` imports it again and again."""
    code = (
        "import sys, selfimprove_dagster.definitions\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert said.stdout.split() == []


def test_the_code_location_starts_no_thread_of_polars() -> None:
    """A fork has only one thread of its parent's pool and would wait for the others forever."""
    code = (
        "import pathlib, selfimprove_dagster.definitions, selfimprove_dagster.runs\n"
        "print(*[path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/comm')])"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "python" in said.stdout
    assert "polars-0" not in said.stdout


def test_no_file_and_no_room_is_part_of_a_circle() -> None:
    assert cycles(graph()) == []
    assert cycles(rooms()) == []


def test_the_graph_finds_circles_and_the_files_that_there_are() -> None:
    """A graph without files or arrows would pass every other test."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert len(graph()) > 300
    assert sum(map(len, graph().values())) > 1000
    assert "table" in rooms()["lake"] and "families/trained" in rooms()["methods/lmsi"]


@pytest.mark.parametrize("module", [*files()], ids=part)
def test_arrows_run_from_methods_to_families_to_shared_rooms(module: str) -> None:
    """Those inside functions too: only the registry finds methods, and it does so by name."""
    own = room(module)
    for name in graph()[module]:
        other = room(name)
        if other.startswith("methods/"):
            assert own == other, f"{module} imports {name}"
        if other.startswith("families/"):
            assert own.startswith(("families/", "methods/", "recipes", "cli", "resources")), name
        if other in ("assets", "resources", "definitions"):
            assert own in {"assets", "resources", "definitions", "runs", "cli"}, name


@pytest.mark.parametrize(
    "module",
    [one for one in files() if part(one).split(".")[0] not in ("methods", "recipes", "embedded")],
    ids=part,
)
def test_shared_rooms_name_no_method(module: str) -> None:
    named = "|".join(METHODS)
    inside, alone = re.compile(rf"(^|_)({named})(_|$)"), re.compile(rf"({named})|.*\b({named})/.*")
    text = files()[module].read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        said = token.string.lower()
        if token.type == tokenize.NAME:
            found = inside.search(said)
        elif token.type == tokenize.STRING and not token.string.startswith('"""'):
            found = alone.fullmatch(said.strip("rbf").strip("\"'"))
        else:
            continue
        if found and found[0] != said and "refinement" in said:
            continue  # an English word within another name
        reason = ALLOWED.get((part(module), said.strip("\"'")))
        assert not found or reason, f"line {token.start[0]}: {token.string}"


def test_templates_of_shared_pages_name_no_method() -> None:
    named = re.compile(rf"['\"]({'|'.join(METHODS)})['\"]")
    templates = [*(ROOT / PACKAGE / "explorer" / "templates").glob("*.html")]
    assert templates
    for template in templates:
        assert not named.search(template.read_text(encoding="utf-8")), template.name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_folder_with_the_same_files(name: str) -> None:
    folder = Path(ROOT, PACKAGE, "methods", name)
    for file in ("__init__.py", "tables.py", "settings.py", "stages.py"):
        assert (folder / file).is_file(), file
