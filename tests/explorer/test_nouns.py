"""Every table has a noun, and the pages call its rows by it: in a graph, on a record, and when revoked."""

from __future__ import annotations

import polars as pl
import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.explorer.graph import Family
from selfimprove_dagster.lineage.walk import Walk
from selfimprove_dagster.table import Table
from selfimprove_dagster.text import plural

TABLES = [*registry.tables().values()]


def label(table: Table, row: dict[str, object] | None) -> str:
    """The words for a row of a table in a graph; a row that is None was revoked."""
    record = f"{table.tag}:{'0' * 32}"
    nodes = pl.DataFrame(
        {"id": [record], "depth": [0], "table_name": [table.name], "experiment": ["e"], "iteration": [0]}
    )
    edges = pl.DataFrame(schema=["child", "parent", "role"])
    rows = {} if row is None else {record: {"id": record, "table_name": table.name, **row}}
    (node,) = Family(record, Walk(nodes, edges), rows).graph()["nodes"]
    return str(node["label"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_has_a_noun_of_its_own(table: Table) -> None:
    assert table.noun != "row", "the default of a table that nobody named"
    assert "_" not in table.noun and table.noun == table.noun.strip()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_revoked_row_is_called_by_the_noun_of_its_own_table(table: Table) -> None:
    assert label(table, None) == f"{table.noun} (revoked)"


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("pit/improver_dataset", {"completion": " Better."}, "improvement example: Better."),
        ("pit/policy_references", {"prompt": "Hello", "text": "Hi."}, "policy reference: Hi."),
        ("pit/seed_pool", {"prompt": "Hello", "chosen": "Hi."}, "comparison: Hi."),
        ("rlhf/seed_pool", {"prompt": "Hello", "chosen": "Hi."}, "comparison: Hi."),
        ("seeds/comparisons", {"prompt": "Hello", "chosen": "Hi."}, "seed comparison: Hi."),
        ("rlaif/seed_pool", {"prompt": "Hello"}, "prompt: Hello"),
        ("pit/gap_reward_model", {"examples": 1200}, "gap reward model of 1,200 examples"),
        ("lmsi/decisions", {"rule": "duplicate", "kept": False}, "duplicate: dropped"),
        ("lmsi/voted_answers", {"voted_answer": "42", "question": "?", "paths": []}, "vote: 42"),
        ("rlaif/promotion", {"promoted": True}, "promoted"),
    ],
)
def test_a_row_is_called_by_its_noun_and_its_text(name: str, row: dict[str, object], words: str) -> None:
    assert label(registry.tables()[name], row) == words


def test_no_row_of_pit_is_called_by_the_name_of_its_stage() -> None:
    samples = {pl.String: "a b", pl.Boolean: True, pl.Float64: 0.5, pl.Int64: 3, pl.Int32: 3}
    for table in registry.method("pit").tables.values():
        row = {column: samples.get(kind) for column, kind in {**table.content, **table.measures}.items()}
        row |= {"outcome": "win"} if "outcome" in row else {}
        assert table.stage not in label(table, row) or table.stage == table.noun


@pytest.mark.parametrize(
    ("one", "several"),
    [
        *(
            ("text", "texts"),
            ("class", "classes"),
            ("query", "queries"),
            ("survey", "surveys"),
            ("box", "boxes"),
        ),
        ("group of shouts", "groups of shouts"),
    ],
)
def test_plurals_are_english(one: str, several: str) -> None:
    assert plural(one) == several
