"""What a table declares of itself, and what is known of a table whose method is not installed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from kit.small_lake import seed_draft, store

from selfimprove_dagster import registry
from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lineage.prov import trace_document
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.quality.suites import checks_of
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import COMMON_COLUMNS, Table

NAMES_OF_A_ROW = {"id", "content_hash", "activity_id", "sample_index"}
"""Columns of every table that name a row and come from no other column."""


@pytest.mark.parametrize("table", registry.tables().values(), ids=lambda table: table.name)
def test_a_table_says_where_its_columns_come_from_and_checks_each_thing_once(table: Table) -> None:
    assert set(table.sources) == set(table.polars) - NAMES_OF_A_ROW
    for sources in table.sources.values():
        for source, column in sources:
            assert column in registry.table(source).polars
            assert source != table.name
        assert len(sources) == len(set(sources))
    names = [check.name for check in checks_of(table)]
    assert len(names) == len(set(names))


def test_a_drawn_table_holds_what_a_replay_needs_and_models_what_a_checkpoint_has() -> None:
    for table in registry.tables().values():
        if table.draw:
            assert {"prompt_token_ids", "token_ids", "seed"} <= set(table.content)
        if table.holds_model:
            assert {"model_id", "base_model_id", "dataset_activity_id"} <= set(table.content)
        if table.made_with:
            assert registry.table(table.made_with).made_with == table.name


def test_an_unknown_name_is_refused_by_the_registry() -> None:
    with pytest.raises(MethodError, match="there is no table 'gone/answers': is its method installed"):
        registry.table("gone/answers")


# ---- a table whose method is gone ----------------------------------------------------------------------

GONE = Table(
    "gone/answers",
    "ans",
    content={"question": pl.String, "answer": pl.String, "tries": pl.Int64},
    measures={"score": pl.Float64, "seconds": pl.Float64},
)


def _stored(lake: Lake) -> tuple[Manifest, list[str]]:
    seeds, asked = store(lake, SEEDS, [seed_draft("How many legs has an ant?")])
    content = {"question": "How many legs has an ant?", "answer": "Six, as all insects do.", "tries": 2}
    drafts = [
        Draft(content, [Parent(asked[0], "question")], {"score": 0.5, "seconds": 1.0}, index)
        for index in (0, 1)
    ]
    return store(lake, GONE, drafts, inputs=(seeds.activity.id,))


def test_the_files_of_a_partition_show_content_measures_and_tag(tmp_path: Path) -> None:
    manifest, _ = _stored(Lake(tmp_path / "lake"))
    shown = registry.table_of(manifest)
    assert (shown.name, shown.tag) == (GONE.name, GONE.tag)
    assert (dict(shown.content), dict(shown.measures)) == (dict(GONE.content), dict(GONE.measures))
    assert not shown.holds_model


def test_rows_of_a_table_without_its_method_are_traced_found_and_verified(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    manifest, ids = _stored(lake)
    ancestry = trace(lake, ids[0])
    assert (ancestry.table, [parent.table for parent in ancestry.parents]) == (GONE.name, [SEEDS.name])
    assert [(hit.id, hit.table) for hit in search(lake, "all insects")] == [
        (id, GONE.name) for id in sorted(ids)
    ]
    described = trace_document(lake, ids[0])["entity"][ids[0]]
    assert described["column:answer"] == "Six, as all insects do."
    assert verify(lake).findings == []

    rows = pl.read_parquet(manifest.paths[0])
    forged = rows.with_columns(answer=pl.lit("Eight."))
    assert list(forged.columns)[: len(COMMON_COLUMNS)] == list(COMMON_COLUMNS)
    forged.write_parquet(manifest.paths[0])
    problems = {finding.problem for finding in verify(lake).findings}
    assert any("content hash does not match" in problem for problem in problems)


def test_a_changed_measure_leaves_the_ids_as_they_are(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    manifest, _ = _stored(lake)
    changed = pl.read_parquet(manifest.paths[0]).with_columns(score=pl.lit(0.9))
    changed.write_parquet(manifest.paths[0])
    assert registry.table_of(manifest).measures == GONE.measures
    kinds = {finding.problem for finding in verify(lake).findings}
    assert kinds == {"the file was changed after the commit: its checksum differs"}
