"""A few seeds and held-out lines that are too long: every method names them, and keeps the rest."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.homes import entered, make_home
from kit.sampling import chosen_methods
from kit.small_lake import write_lines
from pins.small_experiments import EXPERIMENTS
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.failures import failed_prompts

pytestmark = [pytest.mark.slow, pytest.mark.matrix]

LONG = "Nina has 37 plums. " * 200
"""More tokens than the embedded models have positions, 1,024."""

SEEDS = {
    "lmsi": 20,
    "constitutional": 20,
    "rlaif": 40,
    "rlhf": 60,
    "pit": 60,
    "refinement": 20,
    "toolformer": 20,
    "curate": 20,
}
"""How many seeds a method gets, all of which its iteration uses; the others get all embedded ones."""

OWN: dict[str, dict[str, Any]] = {
    "lmsi": {"sampling": {"questions": 20, "paths": 8, "shard_questions": 6}},
    # Each instance of a line is answered three times.
    "curate": {"pool": {"examples": 100}, "tolerance": {"failed_share": 0.2}},
    "refinement": {"responses": {"prompts": 20, "max_tokens": 32}},
    # A seed task is shown in several prompts.
    "self_instruct": {"tolerance": {"failed_share": 0.4}},
    "unnatural_instructions": {"tolerance": {"failed_share": 0.6}},
}
BY_METHOD = {one["method"]: one for one in EXPERIMENTS.values() if "method" in one} | {
    "self_knowledge": EXPERIMENTS["knows"]
}
TEXT = ("question", "prompt", "instruction", "text")


def poisoned(file: Path, count: int | None, lines: tuple[int, ...], to: Path) -> Path:
    """A copy of the first rows of a file in which the rows at these lines are too long."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:count]
    for line in lines:
        field = next(name for name in TEXT if name in rows[line - 1])
        rows[line - 1][field] = LONG + rows[line - 1][field]
    return write_lines(to, rows)


def settings_of(method: str, folder: Path) -> tuple[dict[str, Any], set[str], set[str]]:
    """The small experiment of a method with poisoned files, and the places of poison in seeds and held-out lines."""
    settings = {**deepcopy(BY_METHOD[method]), **OWN.get(method, {}), "name": "small", "method": method}
    files = registry.method(method).embedded
    lines = (5, 17) if SEEDS.get(method, 0) > 20 else (5,)
    seeds: set[str] = set()
    if "seeds" in settings:
        file = poisoned(Path(str(files["seeds", "file"])), SEEDS.get(method), lines, folder / "mine.jsonl")
        settings["seeds"] = {"file": str(file), "licence": "MIT"}
        seeds = {f"mine.jsonl, line {line}" for line in lines}
    if method == "toolformer":
        settings["annotation"] = {**settings["annotation"], "texts": SEEDS[method]}
    if method == "self_knowledge":
        for task in settings["tasks"]:
            count = int(task.pop("rows").partition(":")[2])
            source = Path(str(files["evaluation", "file"])) if task["kind"] == "dialogues" else sums()
            task["file"] = str(poisoned(source, count + 16, (2,), folder / f"{task['name']}.jsonl"))
        return settings, {f"{task['name']}.jsonl, line 2" for task in settings["tasks"]}, set()
    held_out = poisoned(Path(str(files["evaluation", "file"])), 16, (3,), folder / "asked.jsonl")
    evaluation = {**settings["evaluation"], "file": str(held_out)}
    evaluation.pop("rows")
    settings["evaluation"] = evaluation
    return settings, seeds, {"asked.jsonl, line 3"}


def sums() -> Path:
    return Path(str(registry.method("lmsi").embedded["evaluation", "file"]))


@pytest.mark.parametrize("method", chosen_methods(registry.methods()))
def test_rows_that_are_too_long_are_named_and_the_rest_is_kept(method: str, tmp_path: Path) -> None:
    from selfimprove_dagster.runs import run_iteration

    settings, seeds, held_out = settings_of(method, tmp_path)
    home = make_home(tmp_path / "installation", settings)
    with entered(home):
        assert run_iteration(home, home.experiment("small"), 0) == []
    named = [*failed_prompts(home.lake, "small")]
    assert {one.place for one in named} == seeds | held_out, [*map(str, named)]
    assert all(one.problem.startswith("too_long: ") for one in named)
    with entered(home):
        shown = CliRunner().invoke(app, ["status", "small"], env={"COLUMNS": "300"}, catch_exceptions=False)
    assert f"{len(named)} prompt" in shown.output
    assert all(str(one) in shown.output for one in named[:3])
    partition = partition_of("small", 0)
    tables = registry.method(method).tables
    if held_out:
        answers = home.lake.read(f"{method}/evaluation", partition).filter(source_line=3)
        told = answers.filter(pl.col("correct").is_not_null())
        assert len(answers) and not told["correct"].any()
        assert answers["problem"].str.starts_with("too_long: ").any()
    if f"{method}/filtered_dataset" in tables:
        dataset = home.lake.read(f"{method}/filtered_dataset", partition)
        assert len(dataset)
    with entered(home):
        verified = CliRunner().invoke(app, ["lineage", "verify", "small"], catch_exceptions=False)
    assert "no findings" in " ".join(verified.output.split())
