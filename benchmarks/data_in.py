"""Import a million questions as seeds, and compare a million training texts with an evaluation.

    python benchmarks/data_in.py              a million questions and texts
    python benchmarks/data_in.py --rows 50000

The questions are those of GSM8K ($SELFIMPROVE_DATA/gsm8k) with other names and numbers, so their lengths are those of a
real data set. Every step has a process of its own, whose peak memory is stated:

- `import`: the questions from JSON Lines into the lake, as `selfimprove seeds import` does;
- `import, compressed shards`: the same from a folder of ten `.jsonl.gz` files;
- `import with decontamination`: the same, without those that are or quote one of 1,319 held-out questions;
- `contamination`: a million training texts (a question and its solution) against 10,000 evaluation texts, of which
  1,000 are hidden in training texts: their punctuation is changed, or they are quoted within another text. All must be
  found. What else is found quotes 13 words of a held-out question, as some of GSM8K's own questions do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "data_in.md"
CORES = len(os.sched_getaffinity(0))
EVALUATION, HIDDEN = 10_000, 1_000
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def published(name: str) -> list[dict[str, str]]:
    folder = Path(os.environ.get("SELFIMPROVE_DATA", ROOT.parent / "shared" / "data")) / "gsm8k"
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def varied(texts: list[str], count: int, seed: int) -> Iterator[str]:
    """Texts with other numbers and names, each different from all others by a number of its own."""
    chance = random.Random(seed)
    parts = [re.split(r"(\d+|(?<=[a-z,] )[A-Z][a-z]+)", text) for text in texts]
    for at in range(count):
        own = "".join(chance.choices(SYLLABLES, k=4)).capitalize()
        chosen = parts[at % len(parts)]
        words = [
            part if index % 2 == 0 else str(chance.randrange(2, 10_000)) if part.isdigit() else own
            for index, part in enumerate(chosen)
        ]
        yield f"{''.join(words)} ({own} {at})"


def write_questions(folder: Path, rows: int) -> None:
    """Write the questions once as a file and once as ten compressed shards."""
    (folder / "shards").mkdir()
    with ExitStack() as stack:
        stream = stack.enter_context((folder / "questions.jsonl").open("w"))
        shards = [
            stack.enter_context(gzip.open(folder / "shards" / f"{at}.jsonl.gz", "wt", 1)) for at in range(10)
        ]
        for at, text in enumerate(varied([row["question"] for row in published("train.jsonl")], rows, 0)):
            line = json.dumps({"question": text, "answer": "#### 1"}) + "\n"
            stream.write(line)
            shards[at % 10].write(line)


# --- the steps. Each runs in its own process and prints what it found. ---


def import_(folder: Path, source: str, decontaminate: bool) -> dict[str, Any]:
    from selfimprove_dagster.home.files import parse_experiment
    from selfimprove_dagster.home.imports import import_file
    from selfimprove_dagster.lake.lake import Lake

    held_out = (
        Path(os.environ.get("SELFIMPROVE_DATA", ROOT.parent / "shared" / "data")) / "gsm8k" / "test.jsonl"
    )
    data = {
        "name": "many",
        "model": {"path": "embedded"},
        "seeds": {"file": str(folder / source)},
        "evaluation": {"file": str(held_out)},
        **({"decontamination": {}} if decontaminate else {}),
    }
    with tempfile.TemporaryDirectory(dir=folder) as lake:
        began = time.perf_counter()
        _, accepted, rejected = import_file(Lake(lake), parse_experiment(data, folder=folder))
        return {"seconds": time.perf_counter() - began, "found": f"{accepted:,} seeds, {rejected:,} rejected"}


def contamination(rows: int) -> dict[str, Any]:
    from selfimprove_dagster.filters.contamination import hits

    test = [row["question"] for row in published("test.jsonl")]
    evaluation = list(varied(test, EVALUATION, 1))
    train = published("train.jsonl")
    texts = list(varied([f"{row['question']} {row['answer']}" for row in train], rows, 2))
    hidden: dict[int, int] = {}
    chance = random.Random(3)
    for which, at in enumerate(chance.sample(range(rows), HIDDEN)):
        said = evaluation[which]
        changed = said.rstrip("?").replace("'", "’").replace(",", "").upper()
        texts[at] = changed if which % 2 else f"Here is one. {said} Now solve it."
        hidden[at] = which
    began, cpu = time.perf_counter(), time.process_time()
    found = {hit.training: hit.evaluation for hit in hits(texts, evaluation)}
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    missing = hidden.keys() - found.keys()
    others = found.keys() - hidden.keys()
    characters = sum(map(len, texts)) / len(texts)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "found": f"{len(found):,} hits, {len(missing)} of {HIDDEN:,} missed, {len(others)} others; "
        f"{characters:.0f} characters a text",
    }


def step(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """Run a step in this process."""
    began = time.process_time()
    if name == "contamination":
        found = contamination(rows)
    else:
        source = "shards" if name == "shards" else "questions.jsonl"
        found = import_(folder, source, name == "decontaminated")
    found.setdefault("cpu", time.process_time() - began)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    return {**found, "megabytes": int(peak[1]) / 1024}


def main() -> None:
    """Run the steps, one after another, and write the table."""
    parser = argparse.ArgumentParser(description="Time the import of seeds, and decontamination.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, folder = options.step
        print(json.dumps(step(name, Path(folder), options.rows)))
        return
    titles = {
        "import": "import",
        "shards": "import, compressed shards",
        "decontaminated": "import with decontamination",
        "contamination": "contamination",
    }
    lines = [
        "# Importing seeds, and decontamination",
        "",
        f"`python {' '.join(sys.argv)}`: {options.rows:,} questions made from GSM8K's; {options.rows:,} training texts "
        f"against {EVALUATION:,} evaluation texts.",
        "",
        "| | seconds | CPU seconds | peak memory | result |",
        "|---|---:|---:|---:|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_questions(folder, options.rows)
        for name, title in titles.items():
            command = [sys.executable, __file__, "--rows", str(options.rows), "--step", name, str(folder)]
            said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
            it = json.loads(said.stdout)
            lines.append(
                f"| {title} | {it['seconds']:.1f} | {it['cpu']:.1f} | {it['megabytes']:,.0f} MiB | {it['found']} |"
            )
            print(lines[-1], flush=True)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{name} {version(name)}" for name in ("polars", "pyarrow", "numpy"))
    lines += [
        "",
        f"{cpu[1] if cpu else platform.processor()}, {CORES} cores; Python {platform.python_version()}, "
        f"{versions}; load average {os.getloadavg()[0]:.1f}.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
