"""Which instances are trained on, judged task by task, and the limit over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.families.tasks.tables import POOL_TASKS
from selfimprove_dagster.filters.whole import apply_verdicts, in_parts, with_verdicts
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.methods.self_instruct.dataset import (
    InstanceRules,
    instance_candidates,
    instances_of_seeds,
)
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment


def experiment(**section: Any) -> SelfInstructExperiment:
    settled = parse_experiment(
        {
            "name": "own",
            "method": "self_instruct",
            "model": {"path": "none"},
            "seeds": {"file": "seeds.jsonl"},
            "evaluation": {"file": "held_out.jsonl"},
            "filter": section,
        },
        folder=Path(),
    )
    assert isinstance(settled, SelfInstructExperiment)
    return settled


def candidates(tasks: int = 6, each: int = 3) -> pl.LazyFrame:
    rows = [
        {
            "id": f"inst:{task}/{place}",
            "task_id": f"acc:{task}",
            "instruction": f"Do {task}.",
            "input": str(place),
            "output": " " if place == 0 else f"out {place}",
            "problem": None,
        }
        for task in range(tasks)
        for place in range(each)
    ]
    scores = [{"id": f"acc:{task}", "rouge_l": 0.5, "perplexity": 2.0} for task in range(tasks)]
    return instance_candidates(
        pl.LazyFrame(rows, schema_overrides={"problem": pl.String}), pl.LazyFrame(scores)
    )


def test_a_limit_over_all_instances_is_the_same_however_they_are_handed_out() -> None:
    rules = InstanceRules(experiment(most_examples=5), (), {})
    rows = candidates()
    whole = rules.within_limit([rows.collect()])
    assert whole.filter("kept").height == 5
    assert whole.height == 12  # those with an output
    assert rules.within_limit(in_parts(rows, "task_id", size=1)).equals(whole)
    kept = [
        row
        for part in in_parts(with_verdicts(rows, whole), "task_id", size=4)
        for row in apply_verdicts(rules.within_a_task(part)[0])[0]["candidate_id"]
    ]
    assert sorted(kept) == sorted(whole.filter("kept")["candidate_id"])


def test_without_a_limit_nothing_is_decided_over_all() -> None:
    assert InstanceRules(experiment(), (), {}).within_limit([candidates().collect()]).is_empty()


def test_held_out_and_banned_instances_are_dropped_with_a_decision() -> None:
    rules = InstanceRules(experiment(switched_off=True), {"do 1. 2"}, {})
    kept, decisions = rules.within_a_task(candidates(tasks=2).collect())
    dropped = decisions.filter(~pl.col("kept")).select("candidate_id", "rule").rows()
    assert ("inst:1/2", "held_out") in dropped
    assert kept["candidate_id"].to_list() == ["inst:0/1", "inst:0/2", "inst:1/1"]


def test_every_instance_by_people_is_one_of_its_task() -> None:
    nothing = dict.fromkeys(POOL_TASKS)
    two = [{"input": "a", "output": "b"}, {"input": "", "output": "c"}]
    pool = pl.LazyFrame(
        [
            {**nothing, "id": "task:0", "origin": "human", "instruction": "Sing.", "instances": two},
            {**nothing, "id": "task:1", "origin": "human", "instruction": "Hum.", "instances": None},
            {**nothing, "id": "task:2", "origin": "human", "instruction": "Add.", "instances": []},
            {**nothing, "id": "task:3", "origin": "machine", "instruction": "Count.", "instances": two},
        ],
        schema={"id": pl.String, **POOL_TASKS},
    )
    found = instances_of_seeds(pool).collect()
    assert found.select("candidate_id", "task_id", "input", "output").rows() == [
        ("task:0/0", "task:0", "a", "b"),
        ("task:0/1", "task:0", "", "c"),
    ]
