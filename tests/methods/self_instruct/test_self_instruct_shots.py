"""The worked examples that Self-Instruct's prompts show: those that ship, or seed tasks at random."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.families.tasks.settings import ShotSection
from selfimprove_dagster.families.tasks.tables import POOL_TASKS
from selfimprove_dagster.families.tasks.tasks import Instance
from selfimprove_dagster.methods.self_instruct.shots import (
    CLASSIFICATION_SHOTS,
    OUTPUT_FIRST_SHOTS,
    Shots,
    demonstrations_of,
    task_of,
)


def pool_task(number: int, is_classification: bool | None, origin: str = "human") -> dict[str, Any]:
    task = {"instruction": f"Do {number}.", "instances": [{"input": "a", "output": str(number)}]}
    nothing = dict.fromkeys(POOL_TASKS)
    known = {"id": f"task:{number}", "origin": origin, "is_classification": is_classification}
    return {**nothing, **task, **known}


@pytest.fixture
def pool() -> pl.LazyFrame:
    rows = [
        *(pool_task(number, number % 3 == 0) for number in range(12)),
        pool_task(12, None),
        pool_task(13, True, "machine"),
    ]
    return pl.LazyFrame(rows, schema={"id": pl.String, **POOL_TASKS})


def seeds(shots: int) -> ShotSection:
    return ShotSection(shots=shots, shots_from="seeds")


def test_those_that_ship_are_the_same_for_every_prompt(pool: pl.LazyFrame) -> None:
    shots = Shots(pool, ShotSection(shots=2, shots_from="shipped"), 0)
    both, one, other = shots.of([("classification", None), ("Sing.", True), ("Hum.", True)])
    assert [shot["instruction"] for shot in both] == [text for text, _ in CLASSIFICATION_SHOTS[:2]]
    assert [task_of(shot) for shot in one] == [*OUTPUT_FIRST_SHOTS[:2]]
    assert one == other
    assert demonstrations_of(one) == []


def test_seed_tasks_are_drawn_by_the_key_of_each_prompt(pool: pl.LazyFrame) -> None:
    shots = Shots(pool, seeds(3), 0)
    prompts = [(f"Task {number}.", number % 2 == 0) for number in range(20)]
    shown = shots.of(prompts)
    assert {len(chosen) for chosen in shown} == {3}
    for (_, kind), chosen in zip(prompts, shown, strict=True):
        assert all(shot["is_classification"] == kind for shot in chosen)
    assert len({tuple(shot["id"] for shot in chosen) for chosen in shown}) > 10
    assert shots.of(prompts[7:8]) == shown[7:8]


def test_prompts_of_both_kinds_show_as_many_of_each(pool: pl.LazyFrame) -> None:
    (chosen,) = Shots(pool, seeds(4), 0).of([("classification", None)])
    assert sorted(shot["is_classification"] for shot in chosen) == [False, False, True, True]
    assert {one.role for one in demonstrations_of(chosen)} == {"demonstration"}
    number = chosen[0]["id"].removeprefix("task:")
    assert task_of(chosen[0]).instances == (Instance("a", number),)


def test_a_pool_with_few_seed_tasks_shows_them_all(pool: pl.LazyFrame) -> None:
    (chosen,) = Shots(pool.filter(pl.col("id") == "task:1"), seeds(4), 0).of([("Sing.", False)])
    assert [shot["id"] for shot in chosen] == ["task:1"]
