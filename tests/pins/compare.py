"""Compares two versions of the code by what they do: exit code 1 when they differ in ids or in words.

    python tests/pins/compare.py BASE NEW [--only ids|text|expected] [--keep FOLDER] [--most 40]

Each of BASE and NEW is a checkout, or a JSON that `collect.py` wrote. A checkout's own `.venv` runs it; where
there is none, this interpreter, with the checkout on PYTHONPATH. Both are collected by the collector beside
this file, one after the other, on this machine: the last bits of sums differ between kinds of processors.

Differences of the section `expected` are printed and count for nothing, unless it is asked for by `--only`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTIONS = ("ids", "text", "expected")
COUNTED = ("ids", "text")
_LINES_A_DIFFERENCE = 14


def collected(given: Path, keep: Path, name: str, experiments: str | None) -> dict[str, Any]:
    """The report of a checkout, or the one that was written before."""
    if given.is_file():
        return json.loads(given.read_text())  # type: ignore[no-any-return]
    checkout, out = given.resolve(), keep / f"{name}.json"
    python, environment = checkout / ".venv" / "bin" / "python", {**os.environ, "OMP_NUM_THREADS": "1"}
    if not python.is_file():
        python, environment["PYTHONPATH"] = Path(sys.executable), str(checkout)
    collector = Path(__file__).with_name("collect.py")
    print(f"{name}: {checkout} by {python}", file=sys.stderr)
    command = [python, collector, out, "--checkout", checkout]
    command += ["--experiments", experiments] if experiments else []
    # Any other working directory: nothing may be imported from there by accident.
    subprocess.run(command, env=environment, cwd=keep, check=True)
    return json.loads(out.read_text())  # type: ignore[no-any-return]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value of nested dictionaries that is none itself, with the keys that lead to it."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    else:
        yield path, value


def difference(before: str | None, after: str | None) -> list[str]:
    """Lines that tell two values, given as JSON, apart: `-` before and `+` after."""
    old, new = (_lines(value) for value in (before, after))
    changed = [
        line[:300]
        for line in difflib.unified_diff(old, new, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    if len(changed) > _LINES_A_DIFFERENCE:
        return [*changed[:_LINES_A_DIFFERENCE], f"… {len(changed) - _LINES_A_DIFFERENCE:,} lines more"]
    return changed


def _lines(given: str | None) -> list[str]:
    if given is None:
        return []
    value = json.loads(given)
    several = value if isinstance(value, list) else [value]
    return [one if isinstance(one, str) else json.dumps(one) for one in several]


def compare(section: str, before: Any, after: Any, most: int) -> int:
    """Print how two reports differ in a section; the number of differences."""
    # As JSON: a value that is no number is equal to itself there.
    old, new = ({path: json.dumps(value) for path, value in leaves(one)} for one in (before, after))
    places = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    print(f"== {section}: {len(places):,} differences in {len({**old, **new}):,} values")
    for path, count in Counter(path[0] for path in places).most_common():
        print(f"   {count:6,}  {path}")
    for path in places[:most]:
        kind = "only in BASE" if path not in new else "only in NEW" if path not in old else "differs"
        print(f"\n{section} / {' / '.join(path)}: {kind}")
        for line in difference(old.get(path), new.get(path)):
            print(f"    {line}")
    if len(places) > most:
        print(f"\n… {len(places) - most:,} differences more; --most shows them")
    print()
    return len(places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", choices=SECTIONS, help="compare this section alone")
    parser.add_argument("--keep", type=Path, help="write base.json and new.json into this folder")
    parser.add_argument("--most", type=int, default=40, help="differences to print of a section")
    parser.add_argument("--experiments", help="of these alone, by commas")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pins-") as scratch:
        keep = (given.keep or Path(scratch)).absolute()
        keep.mkdir(parents=True, exist_ok=True)
        base = collected(given.base, keep, "base", given.experiments)
        new = collected(given.new, keep, "new", given.experiments)
    counted = 0
    for section in (given.only,) if given.only else SECTIONS:
        found = compare(section, base[section], new[section], given.most)
        counted += found if given.only or section in COUNTED else 0
    raise SystemExit(1 if counted else 0)


if __name__ == "__main__":
    main()
