"""The export of a table to Iceberg: the rows of the lake, in its own files, without what is withdrawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import known_ancestry
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.lake.iceberg import export_iceberg
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lineage.purge import purge
from selfimprove_dagster.lineage.revoke import revoke

pytestmark = pytest.mark.scale
pytest.importorskip("pyiceberg", reason="pip install '.[iceberg]'")


def opened(warehouse: Path, identifier: str) -> Any:
    from pyiceberg.catalog import load_catalog

    return load_catalog(
        "selfimprove", type="sql", uri=f"sqlite:///{warehouse / 'catalog.sqlite'}"
    ).load_table(identifier)


def rows(warehouse: Path, identifier: str) -> Any:
    import polars as pl

    return pl.from_arrow(opened(warehouse, identifier).scan().to_arrow())


def ids(lake: Lake, table: str) -> list[str]:
    return sorted(id for one in lake.manifests(table) for id in lake.read_ungated(one)["id"])


@pytest.mark.parametrize(("table", "copied"), [("lmsi/raw_generations", 0), ("lmsi/voted_answers", 1)])
def test_other_engines_read_the_rows_of_the_lake(lake: Lake, tmp_path: Path, table: str, copied: int) -> None:
    known_ancestry(lake)
    identifier = table.replace("/", ".")
    made = export_iceberg(lake, table, tmp_path / "warehouse")
    assert (made.identifier, made.rewritten, made.removed) == (identifier, copied, 0)
    found = rows(tmp_path / "warehouse", identifier)
    assert sorted(found["id"]) == ids(lake, table) and made.rows == found.height > 0
    (manifest,) = lake.manifests(table)
    assert found["activity_id"].unique().to_list() == [manifest.activity.id]
    used = {task.file.file_path for task in opened(tmp_path / "warehouse", identifier).scan().plan_files()}
    assert (used == {f"file://{path}" for path in manifest.paths}) is (copied == 0)
    again = export_iceberg(lake, table, tmp_path / "warehouse")
    assert (again.added, again.removed, again.rows) == (0, 0, made.rows)


def test_what_is_withdrawn_or_purged_is_in_no_snapshot(lake: Lake, tmp_path: Path) -> None:
    known_ancestry(lake)
    table, warehouse = "lmsi/raw_generations", tmp_path / "warehouse"
    before = export_iceberg(lake, table, warehouse)
    withdrawn = ids(lake, table)[0]
    revocation = revoke(lake, "record", withdrawn, None, "me", "because").revocation
    after = export_iceberg(lake, table, warehouse)
    assert (after.rows, after.added, after.removed, after.rewritten) == (before.rows - 1, 1, 1, 1)
    assert withdrawn not in rows(warehouse, "lmsi.raw_generations")["id"].to_list()
    assert len(opened(warehouse, "lmsi.raw_generations").snapshots()) == 1
    purge(lake, revocation)
    purged = export_iceberg(lake, table, warehouse)
    assert (purged.rows, purged.rewritten) == (after.rows, 0)
    assert sorted(rows(warehouse, "lmsi.raw_generations")["id"]) == ids(lake, table)
    assert not [*(warehouse / "rewritten").rglob("*.parquet")], "what no table uses is deleted"


def test_a_partition_whose_blocking_check_failed_is_left_out(lake: Lake, tmp_path: Path) -> None:
    known_ancestry(lake)
    export_iceberg(lake, "lmsi/raw_generations", tmp_path)
    (manifest,) = lake.manifests("lmsi/raw_generations")
    lake.record_checks(manifest, [CheckOutcome("empty", False, True, "40% are empty")])
    with pytest.raises(PartitionMissing, match="nothing but partitions whose blocking checks failed"):
        export_iceberg(lake, "lmsi/raw_generations", tmp_path)


def test_a_partition_that_is_gone_is_taken_out(lake: Lake, tmp_path: Path) -> None:
    known_ancestry(lake)
    export_iceberg(lake, "lmsi/raw_generations", tmp_path)
    known_ancestry(lake, "3 - 1 = 2. The answer is 2.")
    made = export_iceberg(lake, "lmsi/raw_generations", tmp_path, "demo")
    assert sorted(rows(tmp_path, "lmsi.raw_generations")["id"]) == ids(lake, "lmsi/raw_generations")
    assert made.rows == len(ids(lake, "lmsi/raw_generations"))


def test_the_command_says_what_it_did(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_ancestry(lake)
    monkeypatch.setenv("SELFIMPROVE_HOME", str(lake.root.parent))
    run = CliRunner().invoke
    done = run(app, ["iceberg", "lmsi/raw_generations", str(tmp_path / "warehouse")])
    assert done.exit_code == 0 and "4 rows in 1 files; 1 files added" in done.output, done.output
    wrong = run(app, ["iceberg", "lmsi/raw_generations", str(tmp_path / "w"), "--catalog", "uri"])
    assert wrong.exit_code == 2 and "KEY=VALUE" in wrong.output
    with pytest.raises(PartitionMissing, match="lmsi/decisions of experiment other has nothing committed"):
        export_iceberg(lake, "lmsi/decisions", tmp_path, "other")
