"""The pool of tasks: imported by file and line, edited and banned by file, grown by accepted tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.families.tasks.pool import TaskPool, pool
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.home.imports import import_file
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.methods.self_instruct.tables import SI_ACCEPTED_TASKS
from selfimprove_dagster.shared_tables import REJECTED_SEEDS


def task(name: str, instruction: str, *instances: tuple[str, str]) -> dict[str, Any]:
    shown = [{"input": given, "output": output} for given, output in instances or [("a", "b")]]
    return {"id": name, "instruction": instruction, "instances": shown, "is_classification": False}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def experiment(folder: Path, **seeds: Any) -> SelfInstructExperiment:
    settled = parse_experiment(
        {
            "name": "own",
            "method": "self_instruct",
            "model": {"path": "none"},
            "seeds": {"file": str(folder / "seeds.jsonl"), "licence": "MIT", **seeds},
            "evaluation": {"file": str(folder / "held_out.jsonl")},
        },
        folder=folder,
    )
    assert isinstance(settled, SelfInstructExperiment)
    return settled


def tasks(found: TaskPool) -> pl.DataFrame:
    return found.judged.filter("kept").collect()


def out(found: TaskPool) -> pl.DataFrame:
    return found.judged.filter(~pl.col("kept")).collect()


def instructions(found: TaskPool) -> list[str]:
    return tasks(found)["instruction"].to_list()


def accept(lake: Lake, iteration: int, *texts: str) -> None:
    activity = Activity("self_instruct/accepted_tasks", partition_of("own", iteration), "1", {}, 0)
    drafts = [
        Draft(
            {"instruction": text, "candidate_id": f"cand:{text}"},
            [Parent(f"cand:{text}", "accepted")],
            {"rouge_l": 0.5, "perplexity": 2.0},
        )
        for text in texts
    ]
    lake.write(SI_ACCEPTED_TASKS, activity, build_records(SI_ACCEPTED_TASKS, drafts, activity))


def test_a_file_is_imported_once_by_file_and_line(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "seeds.jsonl", task("a", "Sing."), {"id": "b"}, task("c", "Count."), task("a", "Hum."))
    own = experiment(tmp_path)
    _, accepted, rejected = import_file(lake, own)
    assert (accepted, rejected) == (2, 2)
    assert import_file(lake, own)[1:] == (2, 2)
    (manifest,) = lake.manifests("seeds/tasks", "own")
    rows = lake.read_ungated(manifest).select("name", "instruction", "source_line", "licence").rows()
    assert rows == [("a", "Sing.", 1, "MIT"), ("c", "Count.", 3, "MIT")]
    (bad,) = lake.manifests(REJECTED_SEEDS.name, "own")
    assert [row["reason"] for row in lake.read_ungated(bad).iter_rows(named=True)] == [
        "there is no field `instruction`; the fields are: id",
        "has the id of line 1",
    ]


def test_an_edited_task_replaces_the_one_of_its_id(tmp_path: Path, lake: Lake) -> None:
    own = experiment(tmp_path)
    write(tmp_path / "seeds.jsonl", task("a", "Sing."), task("b", "Count."))
    import_file(lake, own)
    write(tmp_path / "seeds.jsonl", task("a", "Sing."), task("b", "Count to ten."), task("c", "Add."))
    assert import_file(lake, own)[1:] == (2, 1)
    found = pool(lake, own, 0)
    assert instructions(found) == ["Sing.", "Count to ten.", "Add."]
    replaced = out(found).row(0, named=True)
    newer = tasks(found).filter(instruction="Count to ten.")["id"][0]
    assert (replaced["rule"], replaced["nearest_id"]) == ("newest_version", newer)
    assert len(found.judged.collect()) == 4


def test_what_a_person_bans_leaves_the_pool_whoever_wrote_it(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "seeds.jsonl", task("a", "Sing."), task("b", "Count the words."))
    banned = tmp_path / "banned.jsonl"
    own = experiment(tmp_path, banned=str(banned))
    import_file(lake, own)
    accept(lake, 0, "Name a tree.", "Name a bird.")
    write(
        banned,
        {"instruction": "count THE words", "by": "Ida", "why": "too easy"},
        {"instruction": "Name a bird."},
    )
    found = pool(lake, own, 1)
    assert instructions(found) == ["Sing.", "Name a tree."]
    assert tasks(found)["origin"].to_list() == ["human", "machine"]
    dropped = out(found)
    assert dropped["rule"].to_list() == ["not_banned"] * 2
    assert dropped["reason"][0] == "banned by Ida: too easy"


def test_a_replaced_task_that_is_banned_too_is_out_since_it_was_replaced(tmp_path: Path, lake: Lake) -> None:
    banned = write(tmp_path / "banned.jsonl", {"instruction": "Sing."})
    own = experiment(tmp_path, banned=str(banned))
    write(tmp_path / "seeds.jsonl", task("a", "Sing."))
    import_file(lake, own)
    write(tmp_path / "seeds.jsonl", task("a", "Hum."))
    import_file(lake, own)
    found = pool(lake, own, 0)
    assert out(found)["rule"].to_list() == ["newest_version"]
    assert instructions(found) == ["Hum."]


def test_a_ban_that_cannot_be_read_stops_the_run(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "seeds.jsonl", task("a", "Sing."))
    banned = tmp_path / "banned.jsonl"
    banned.write_text('{"instruction": "Sing."\n')
    own = experiment(tmp_path, banned=str(banned))
    import_file(lake, own)
    with pytest.raises(SeedFileError, match=r"banned\.jsonl, line 1: not JSON"):
        pool(lake, own, 0)


def test_an_iteration_sees_only_what_earlier_ones_accepted(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "seeds.jsonl", task("a", "Sing."))
    own = experiment(tmp_path)
    import_file(lake, own)
    for iteration in range(3):
        accept(lake, iteration, f"Task of {iteration}.")
    assert [instructions(pool(lake, own, iteration))[1:] for iteration in range(3)] == [
        [],
        ["Task of 0."],
        ["Task of 0.", "Task of 1."],
    ]
    assert len(pool(lake, own, 2).inputs) == 3


def test_a_pool_without_people_is_refused(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "seeds.jsonl", {"id": "a"})
    own = experiment(tmp_path)
    import_file(lake, own)
    with pytest.raises(SeedFileError, match="has no seed tasks"):
        pool(lake, own, 0)


def test_the_published_seed_tasks_read_as_they_are(lake: Lake, tmp_path: Path, shared_data: Path) -> None:
    published = shared_data / "self_instruct" / "seed_tasks.jsonl"
    _, accepted, rejected = import_file(lake, experiment(tmp_path), published)
    assert (accepted, rejected) == (175, 0)
    (manifest,) = lake.manifests("seeds/tasks", "own")
    assert lake.read_ungated(manifest)["is_classification"].sum() == 26
