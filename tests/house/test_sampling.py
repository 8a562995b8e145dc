"""The choice of methods that a matrix runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kit.sampling import ROTATING, changed_files, chosen_methods, takes_turn, touched_methods

METHODS = ["adding", "counting", "doubling", "halving", "squaring", "summing"]


def git(folder: Path, *arguments: str) -> None:
    names = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def write(folder: Path, path: str, text: str = "x = 1\n") -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six methods on the branch `main`, two of them on the family `sums`, which uses `terms`."""
    monkeypatch.delenv("SELFIMPROVE_ALL_METHODS", raising=False)
    for method in METHODS:
        uses = (
            "from selfimprove_dagster.families.sums.tables import T\n"
            if method.startswith("s")
            else "x = 1\n"
        )
        write(tmp_path, f"selfimprove_dagster/methods/{method}/stages.py", uses)
    uses = "import selfimprove_dagster.families.terms.a\n"
    write(tmp_path, "selfimprove_dagster/families/sums/tables.py", uses)
    git(tmp_path, "init", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "methods")
    write(tmp_path, "README.md")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "words")
    return tmp_path


def test_where_no_method_is_touched_two_run_and_the_same_two_again(repository: Path) -> None:
    chosen = chosen_methods(METHODS, repository)
    assert len(chosen) == ROTATING and chosen == [method for method in METHODS if method in chosen]
    assert chosen_methods(METHODS, repository) == chosen


def test_over_some_commits_every_method_has_its_turn(repository: Path) -> None:
    seen = set(chosen_methods(METHODS, repository))
    for number in range(40):
        git(repository, "commit", "--allow-empty", "-m", str(number))
        seen |= set(chosen_methods(METHODS, repository))
    assert seen == set(METHODS)


@pytest.mark.parametrize(
    "path", ["selfimprove_dagster/methods/halving/stages.py", "tests/methods/halving/test_halving.py"]
)
def test_a_changed_method_runs_beside_two_others(repository: Path, path: str) -> None:
    write(repository, path, "x = 2\n")
    assert path in changed_files(repository), "before it is committed"
    git(repository, "add", ".")
    git(repository, "commit", "-m", "half")
    chosen = chosen_methods(METHODS, repository)
    assert "halving" in chosen and len(chosen) == 1 + ROTATING


def test_a_branch_runs_all_that_it_changed_since_it_left_main(repository: Path) -> None:
    git(repository, "checkout", "-b", "work")
    for method in ("adding", "counting"):
        write(repository, f"selfimprove_dagster/methods/{method}/stages.py", "x = 3\n")
        git(repository, "commit", "-a", "-m", method)
    assert {"adding", "counting"} < set(chosen_methods(METHODS, repository))


def test_a_changed_family_runs_the_methods_that_use_it(repository: Path) -> None:
    for family in ("sums", "terms"):
        files = [f"selfimprove_dagster/families/{family}/tables.py"]
        assert touched_methods(files, METHODS, repository) == {"squaring", "summing"}
    assert touched_methods(["selfimprove_dagster/lake/lake.py"], METHODS, repository) == set()


def test_all_run_when_asked_for(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_ALL_METHODS", "1")
    assert chosen_methods(METHODS, repository) == METHODS


def test_outside_a_repository_two_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFIMPROVE_ALL_METHODS", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert changed_files(tmp_path) == [] and len(chosen_methods(METHODS, tmp_path)) == ROTATING


def test_a_file_that_rotates_runs_where_it_changed_and_one_time_in_three(repository: Path) -> None:
    file = repository / "tests" / "test_slowly.py"
    turns = []
    for number in range(24):
        git(repository, "commit", "--allow-empty", "-m", f"step {number}")
        turns.append(takes_turn.__wrapped__(file, repository))
    assert 2 <= sum(turns) <= 16, "one in three"
    write(repository, "tests/test_slowly.py")
    assert takes_turn.__wrapped__(file, repository)
