"""Which methods a run tries where trying each of them would take too long.

A matrix over methods runs those that the change touches and two more, which rotate with the commit: every
method has its turn, and a run of one commit can be repeated. `SELFIMPROVE_ALL_METHODS=1` runs all.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROTATING = 2
"""How many methods that the change does not touch run all the same."""

TURNS = 3
"""Of so many commits, a test that rotates runs on one."""

SLOW_TURNS = 3
"""Of so many commits, a slow test runs on one."""


def all_methods() -> bool:
    """Whether this run tries every method."""
    return os.environ.get("SELFIMPROVE_ALL_METHODS") == "1"


@cache
def takes_turn(file: Path, root: Path = ROOT, turns: int = TURNS) -> bool:
    """Whether a test file whose tests rotate runs now: where it was changed, and one commit in `turns`."""
    name = file.relative_to(root).as_posix()
    return all_methods() or name in changed_files(root) or int(rank(head(root), name), 16) % turns == 0


def chosen_methods(methods: Iterable[str], root: Path = ROOT, rotating: int = ROTATING) -> list[str]:
    """Those of `methods` that a matrix runs now, in the order given: `rotating` of those that are not touched."""
    known = list(methods)
    if all_methods():
        return known
    touched = touched_methods(changed_files(root), known, root)
    turn = sorted(set(known) - touched, key=lambda method: rank(head(root), method))[:rotating]
    return [method for method in known if method in touched or method in turn]


def touched_methods(files: Iterable[str], methods: Sequence[str], root: Path = ROOT) -> set[str]:
    """The methods whose folder, tests or families lie among the changed files."""
    parts = [Path(file).parts for file in files]
    named = {path[2] for path in parts if len(path) > 2 and path[1] == "methods"}
    families = {path[2] for path in parts if len(path) > 2 and path[1] == "families"}
    return {method for method in methods if method in named or families & families_of(method, root)}


def families_of(method: str, root: Path = ROOT) -> set[str]:
    """The families that a method's modules import, and those that these import."""
    library = root / "selfimprove_dagster"
    found: set[str] = set()
    ahead = _families_in(library / "methods" / method)
    while ahead:
        found |= ahead
        ahead = {
            further for family in ahead for further in _families_in(library / "families" / family)
        } - found
    return found


def _families_in(folder: Path) -> set[str]:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    return set(re.findall(r"selfimprove_dagster\.families\.(\w+)", sources))


def changed_files(root: Path = ROOT) -> list[str]:
    """What differs from the branch `main`, or on it from the commit before; with what is not committed yet.

    None where git does not know: outside a repository, and in a clone of one commit.
    """
    base = _git(root, "merge-base", "HEAD", "main") or _git(root, "merge-base", "HEAD", "origin/main")
    if not base or base == head(root):
        base = _git(root, "rev-parse", "--verify", "--quiet", "HEAD~1")
    changed = _git(root, "diff", "--name-only", base) if base else ""
    return [*changed.splitlines(), *_git(root, "ls-files", "--others", "--exclude-standard").splitlines()]


def head(root: Path = ROOT) -> str:
    """The hash of the commit; empty where there is none."""
    return _git(root, "rev-parse", "--verify", "--quiet", "HEAD")


def rank(commit: str, name: str) -> str:
    """What names are sorted by, so that each has its turn."""
    return hashlib.sha256(f"{commit} {name}".encode()).hexdigest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
