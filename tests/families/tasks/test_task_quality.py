"""The checks on tasks pass on sound iterations and fail on those in which exactly their fault was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.quality.judges import EXAM_JUDGE_CHECKS
from selfimprove_dagster.quality.results import QualityResult
from selfimprove_dagster.quality.suites import checks_of, run_suite

pytestmark = pytest.mark.slow

NAMES = {"self_instruct": "si", "unnatural_instructions": "ui"}
TASKS = [table for table in registry.tables() if table.split("/")[0] in NAMES]


@dataclass(frozen=True)
class Made:
    """A copy of both experiments' lake, to be spoilt."""

    lake: Lake
    home: Home

    def experiment(self, table: str) -> Experiment:
        return self.home.experiment(NAMES[table.split("/")[0]])

    def rows(self, table: str) -> pl.DataFrame:
        manifest = self.lake.manifest(table, partition_of(self.experiment(table).name, 1))
        return self.lake.read_ungated(manifest)

    def replace(self, table: str, frame: pl.DataFrame) -> None:
        """Commit other rows of iteration 1 under the same activity."""
        manifest = self.lake.manifest(table, partition_of(self.experiment(table).name, 1))
        self.lake.write(registry.tables()[table], manifest.activity, frame)

    def check(self, table: str, name: str, experiment: Experiment | None = None) -> QualityResult:
        results = run_suite(table, self.lake, experiment or self.experiment(table), 1, only=[name])
        return next(result for result in results if result.name == name)


@pytest.fixture
def made(task_home: Home, tmp_path: Path) -> Made:
    shutil.copytree(task_home.root / "lake", tmp_path / "lake")
    (tmp_path / "checkpoints").symlink_to(task_home.root / "checkpoints")
    return Made(Lake(tmp_path / "lake"), task_home)


@pytest.mark.parametrize("iteration", [0, 1])
@pytest.mark.parametrize("table", TASKS)
def test_no_gate_is_closed_on_sound_iterations(made: Made, table: str, iteration: int) -> None:
    results = run_suite(table, made.lake, made.experiment(table), iteration)
    assert [result.name for result in results] == [check.name for check in checks_of(registry.table(table))]
    assert not [result for result in results if result.blocking and not result.passed]


Plant = Callable[[Made], None]


def first(table: str, rows: int = 1, **columns: Any) -> Plant:
    """Set columns of the first rows."""

    def plant(made: Made) -> None:
        frame = made.rows(table)
        values = {
            name: value if isinstance(value, pl.Expr) else pl.lit(value) for name, value in columns.items()
        }
        head = frame.head(rows).with_columns(**values).cast(dict(frame.schema))
        made.replace(table, pl.concat([head, frame.slice(rows)]))

    return plant


def every(table: str, **columns: Any) -> Plant:
    return first(table, rows=1_000_000, **columns)


def less_one(table: str) -> Plant:
    return lambda made: made.replace(table, made.rows(table).head(-1))


def emptied(table: str) -> Plant:
    return lambda made: made.replace(table, made.rows(table).clear())


def _show_held_out(made: Made) -> None:
    section = made.experiment("self_instruct/seed_pool").evaluation
    (line, *_) = Path(section.file).read_text().splitlines()
    task = json.loads(line)
    shown = [{"input": task.get("input", ""), "output": "?"}]
    first("self_instruct/seed_pool", instruction=task["instruction"], instances=shown)(made)


def _use_what_was_dropped(made: Made) -> None:
    decisions = made.rows("self_instruct/decisions")
    dropped = decisions.filter(~pl.col("kept"))["candidate_id"][0]
    parents = pl.lit([{"id": dropped, "role": "instance"}], dtype=decisions.schema["parents"])
    first("self_instruct/filtered_dataset", parents=parents)(made)


SI, UI = "self_instruct", "unnatural_instructions"
SIMILARITY, ACCEPTED = f"{SI}/similarity_scores", f"{SI}/accepted_tasks"
DATASET = f"{SI}/filtered_dataset"
NEAR = [{"id": "task:x", "rouge_l": 0.9}]
FAULTS: list[tuple[str, str, Plant]] = [
    (f"{SI}/seed_pool", "tasks_by_people", every(f"{SI}/seed_pool", origin="machine")),
    (f"{SI}/seed_pool", "no_overlap_with_evaluation", _show_held_out),
    (f"{SI}/raw_generations", "no_empty_text", every(f"{SI}/raw_generations", text="")),
    (f"{SI}/raw_generations", "logprobs_match_tokens", first(f"{SI}/raw_generations", logprobs=[-1.0])),
    (f"{SI}/raw_generations", "finished", every(f"{SI}/raw_generations", finish_reason="length")),
    (f"{SI}/candidate_tasks", "usable", every(f"{SI}/candidate_tasks", problem="cut off")),
    (f"{SI}/perplexity_scores", "one_score_a_candidate", less_one(f"{SI}/perplexity_scores")),
    (f"{SI}/perplexity_scores", "range", first(f"{SI}/perplexity_scores", perplexity=0.5)),
    (SIMILARITY, "consistent", first(SIMILARITY, kept=pl.col("kept").not_())),
    (SIMILARITY, "consistent", first(SIMILARITY, kept=True, neighbours=NEAR)),
    (SIMILARITY, "consistent", first(SIMILARITY, kept=False, neighbours=[{"id": "task:x", "rouge_l": 1.5}])),
    (
        SIMILARITY,
        "consistent",
        first(SIMILARITY, kept=True, neighbours=[{"id": "a", "rouge_l": 0.1}, {"id": "b", "rouge_l": 0.2}]),
    ),
    (f"{SI}/accepted_tasks", "new_tasks", every(f"{SI}/accepted_tasks", instruction="Sing.")),
    (f"{SI}/accepted_tasks", "below_threshold", first(f"{SI}/accepted_tasks", rouge_l=0.9)),
    (f"{SI}/accepted_tasks", "yield", emptied(ACCEPTED)),
    (f"{SI}/classified_tasks", "one_class_a_task", less_one(f"{SI}/classified_tasks")),
    (f"{SI}/classified_tasks", "both_classes", every(f"{SI}/classified_tasks", is_classification=True)),
    (DATASET, "not_empty", emptied(DATASET)),
    (DATASET, "no_duplicates", every(DATASET, question="Sing.", completion=" la")),
    (DATASET, "no_empty_text", first(DATASET, completion=" ")),
    (
        f"{SI}/filtered_dataset",
        "no_overlap_with_evaluation",
        first(DATASET, question="Repeat the syllable ba."),
    ),
    (DATASET, "length_drift", every(DATASET, completion="x" * 900)),
    (DATASET, "vocabulary_drift", every(DATASET, completion="entirely different words")),
    (DATASET, "decisions_kept", _use_what_was_dropped),
    (f"{UI}/accepted_tasks", "new_tasks", every(f"{UI}/accepted_tasks", instruction="Sing.", input="")),
]


WARNED = {(f"{SI}/raw_generations", "finished"), (f"{SI}/classified_tasks", "both_classes")}
"""What warns of the scripted model's texts already."""


@pytest.mark.parametrize(
    ("table", "check", "plant"),
    FAULTS,
    ids=[f"{table}-{check}-{at}" for at, (table, check, _) in enumerate(FAULTS)],
)
def test_a_planted_fault_fails_its_check(made: Made, table: str, check: str, plant: Plant) -> None:
    assert made.check(table, check).passed or (table, check) in WARNED
    plant(made)
    result = made.check(table, check)
    assert not result.passed
    assert result.reason


def test_every_check_of_tasks_has_a_planted_fault() -> None:
    planted = {check for _, check, _ in FAULTS}
    elsewhere = {
        check.name for table in registry.method("lmsi").tables.values() for check in checks_of(table)
    }
    elsewhere |= {check.name for check in EXAM_JUDGE_CHECKS}  # planted in test_judge_quality.py
    mine = {check.name for table in TASKS for check in checks_of(registry.table(table))}
    assert mine - elsewhere <= planted


def test_the_control_of_an_ablation_may_hold_copies(made: Made) -> None:
    experiment = made.experiment(DATASET)
    off = experiment.filter.model_copy(update={"switched_off": True})  # type: ignore[attr-defined]
    every(DATASET, question="Sing.", completion=" la")(made)
    result = made.check(DATASET, "no_duplicates", experiment.model_copy(update={"filter": off}))
    assert result.passed
    assert "switched_off" in result.reason
