"""Verify: a lake that was tampered with says where; what was only left or made anew is no fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from kit.small_lake import activity_of, known_ancestry, seed_draft, store
from typer.testing import CliRunner

from selfimprove_dagster.cli.lineage import lineage_app
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Draft, Parent, build_records, recompute_ids
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.shared_tables import SEEDS

PATHS = RAW_GENERATIONS


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    known_ancestry(lake)
    return lake


def manifest_of(lake: Lake) -> Manifest:
    return lake.manifest(PATHS.name, partition_of("demo", 0))


def found(lake: Lake) -> set[tuple[str, str]]:
    """Kind and table of every finding."""
    return {(finding.kind, finding.table) for finding in verify(lake).findings}


def rewrite(lake: Lake, change: Callable[[pl.DataFrame], pl.DataFrame], *, manifest_too: bool) -> None:
    """Put other rows into the file of the paths, and into the manifest what then fits them."""
    manifest = manifest_of(lake)
    (path,) = manifest.paths
    change(lake.read_whole(manifest)).write_parquet(path)
    if manifest_too:
        target = manifest.directory / "manifest.json"
        data = json.loads(target.read_text())
        rows = len(pl.read_parquet(path, hive_partitioning=False))
        file = {"rows": rows, "bytes": path.stat().st_size, "checksum": file_checksum(path)}
        data["files"][0] |= file
        data["rows"] = rows
        target.write_text(json.dumps(data))


def forged(lake: Lake, text: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The rows with another text in the last one, and ids and hashes that fit it."""

    def forge(rows: pl.DataFrame) -> pl.DataFrame:
        last = pl.int_range(pl.len()) == pl.len() - 1
        rows = rows.with_columns(text=pl.when(last).then(pl.lit(text)).otherwise("text"))
        return rows.with_columns(recompute_ids(PATHS, rows))

    return forge


def test_a_lake_as_it_was_committed_has_no_findings(lake: Lake) -> None:
    counted: list[int] = []
    report = verify(lake, progress=counted.append)
    assert (report.findings, report.notes) == ([], [])
    assert report.rows == sum(manifest.rows for manifest in lake.manifests()) == sum(counted)
    assert report.partitions == len(lake.manifests())
    assert verify(lake, expect=report.digest).findings == []


def test_a_whole_experiment_has_no_findings(finished_home: Home) -> None:
    report = verify(finished_home.lake, "small")
    assert (report.findings, report.notes) == ([], [])
    assert verify(finished_home.lake, "other").rows == 0


def test_one_flipped_byte_is_found(lake: Lake) -> None:
    (path,) = manifest_of(lake).paths
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert ("changed", PATHS.name) in found(lake)


def test_a_lost_file_is_found_with_the_rows_that_hang_on_it(lake: Lake) -> None:
    manifest_of(lake).paths[0].unlink()
    assert found(lake) == {
        ("lost", PATHS.name),
        ("lost", VOTED_ANSWERS.name),
        ("lost", DECISIONS.name),
        ("lost", FILTERED_DATASET.name),
    }


@pytest.mark.parametrize("name", ["manifest.json", "part"])
def test_what_cannot_be_read_is_found(lake: Lake, name: str) -> None:
    manifest = manifest_of(lake)
    path = manifest.paths[0] if name == "part" else manifest.directory / name
    path.write_bytes(path.read_bytes()[:40])
    assert ("unreadable", PATHS.name) in found(lake)


def test_a_file_that_goes_away_once_its_rows_were_checked_is_found(lake: Lake) -> None:
    manifest = manifest_of(lake)
    manifests = lake.manifests()
    due = sum(one.rows for one in manifests[: manifests.index(manifest) + 1])
    checked: list[int] = []

    def take_away(rows: int) -> None:
        checked.append(rows)
        if sum(checked) == due:
            manifest.paths[0].unlink()

    findings = verify(lake, progress=take_away).findings
    assert ("unreadable", PATHS.name) in {(one.kind, one.table) for one in findings}
    assert any("the parents of its rows cannot be read" in one.problem for one in findings)


def test_an_input_with_a_quote_in_its_name_is_a_finding_and_no_error(lake: Lake) -> None:
    target = manifest_of(lake).directory / "manifest.json"
    data = json.loads(target.read_text())
    data["activity"]["inputs"].append("act:it's")
    target.write_text(json.dumps(data))
    assert ("changed", PATHS.name) in found(lake)


def test_a_row_appended_to_a_file_is_found(lake: Lake) -> None:
    rewrite(lake, lambda rows: pl.concat([rows, rows.tail(1)]), manifest_too=False)
    problems = [str(finding) for finding in verify(lake).findings]
    assert any("checksum differs" in problem for problem in problems)
    assert any("the file has 5 rows, but 4 were committed" in problem for problem in problems)
    assert any("its id occurs more than once" in problem for problem in problems)


def test_a_row_forged_with_its_manifest_is_found_by_its_hash(lake: Lake) -> None:
    lie = forged(lake, "The answer is 3.")
    rewrite(lake, lambda rows: lie(rows).with_columns(rows["id"], rows["content_hash"]), manifest_too=True)
    problems = {finding.problem: finding for finding in verify(lake).findings}
    assert set(problems) == {
        "its content hash does not match its content",
        "its id does not match its content",
    }
    row = lake.read_whole(manifest_of(lake))["id"][-1]
    assert {finding.row for finding in problems.values()} == {row}


def test_a_row_forged_with_its_id_leaves_orphans(lake: Lake) -> None:
    rewrite(lake, forged(lake, "The answer is 3."), manifest_too=True)
    assert {kind for kind, _ in found(lake)} == {"lost"}
    assert PATHS.name not in {table for _, table in found(lake)}


def test_a_row_forged_so_that_all_fits_is_found_by_the_digest_alone(lake: Lake) -> None:
    store(lake, SEED_POOL, [seed_draft("last?")], iteration=9)
    anchor = verify(lake).digest
    manifest = lake.manifest(SEED_POOL.name, partition_of("demo", 9))
    frame = build_records(SEED_POOL, [seed_draft("lie?")], manifest.activity)
    lake.write(SEED_POOL, manifest.activity, frame)
    assert verify(lake).findings == []
    (finding,) = verify(lake, expect=anchor).findings
    assert finding.kind == "changed" and anchor in finding.problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seed": 1}, "the activity's id does not match its content"),
        (
            {"partition": {"experiment": "demo", "iteration": "001"}},
            "another table or partition than its folder",
        ),
    ],
)
def test_a_changed_activity_is_found(lake: Lake, change: dict[str, object], problem: str) -> None:
    target = manifest_of(lake).directory / "manifest.json"
    data = json.loads(target.read_text())
    data["activity"] |= change
    target.write_text(json.dumps(data))
    assert any(problem in finding.problem for finding in verify(lake).findings)


def test_a_parent_that_the_activity_did_not_read_is_found(lake: Lake) -> None:
    read, (seed,) = store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "c"})
    _, (unread,) = store(lake, SEEDS, [seed_draft()], partition={"experiment": "demo", "batch": "d"})
    drafts = [Draft(seed_draft(f"{one}?").content, [Parent(one, "seed")]) for one in (seed, unread)]
    _, ids = store(lake, SEED_POOL, drafts, iteration=1, inputs=(read.activity.id,))
    (finding,) = verify(lake).findings
    assert (finding.row, finding.problem) == (ids[1], "one of its parents was not read by its activity")


def test_a_stage_whose_input_was_made_anew_is_stale_and_no_forgery(lake: Lake) -> None:
    batch = {"partition": {"experiment": "demo", "batch": "c"}}
    read, (seed,) = store(lake, SEEDS, [seed_draft()], **batch)
    child = Draft(seed_draft().content, [Parent(seed, "seed")])
    store(lake, SEED_POOL, [child], iteration=1, inputs=(read.activity.id,))
    store(lake, SEEDS, [seed_draft()], **batch, seed=1)
    report = verify(lake)
    assert report.findings == []
    assert [(note.kind, note.table) for note in report.notes] == [("stale", SEED_POOL.name)]


def test_shards_of_an_unfinished_run_are_named_and_are_no_fault(lake: Lake) -> None:
    activity = activity_of(SEED_POOL, 4)
    with lake.writer(SEED_POOL, activity) as writer:
        writer.write_shard(0, build_records(SEED_POOL, [seed_draft()], activity))
    report = verify(lake)
    assert report.findings == []
    assert [(note.kind, note.partition) for note in report.notes] == [
        ("uncommitted", "experiment=demo/iteration=004")
    ]


def test_a_changed_revocation_is_found(lake: Lake) -> None:
    settled = revoke(lake, "licence", "MIT", None, "ann", "asked")
    assert verify(lake).findings == []
    (path,) = (path for path in lake.ledger.folder.glob("*.json") if "." not in path.stem)
    path.write_text(path.read_text().replace("ann", "ben"))
    assert {finding.kind for finding in verify(lake).findings} == {"changed"}
    assert settled.revocation.id in {finding.row for finding in verify(lake).findings}


def test_a_checkpoint_whose_weights_changed_is_found(finished_home: Home, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shutil.copytree(finished_home.lake.root, lake.root)
    manifest = lake.manifest(FINE_TUNED_CHECKPOINT.name, partition_of("small", 0))
    row = lake.read_whole(manifest)
    shutil.copytree(finished_home.lake.folder_at(row["path"][0]), tmp_path / "checkpoint")
    moved = row.with_columns(path=pl.lit(str(tmp_path / "checkpoint")))
    lake.write(FINE_TUNED_CHECKPOINT, manifest.activity, moved)
    assert verify(lake).findings == []
    weights = next((tmp_path / "checkpoint").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (finding,) = verify(lake).findings
    assert (finding.kind, finding.row) == ("changed", row["id"][0])
    shutil.rmtree(tmp_path / "checkpoint")
    assert verify(lake).findings == [], "a folder that was cleared away is no fault"


# ---- commands -------------------------------------------------------------------------------------------


def test_the_command_exits_with_1_on_findings(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(lake.root.parent))
    runner = CliRunner()
    said = runner.invoke(lineage_app, ["verify", "demo"])
    assert said.exit_code == 0 and "no findings" in said.output
    assert runner.invoke(lineage_app, ["verify", "--expect", "b2:00"]).exit_code == 1


def test_revoke_and_restore_by_command(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(lake.root.parent))
    runner = CliRunner()
    revoking = ["revoke", "--licence", "MIT", "--why", "[bold]\x1b[31mit is not", "--by", "ann"]
    said = runner.invoke(lineage_app, revoking)
    assert said.exit_code == 0 and "Nothing was changed" in said.output
    assert lake.ledger.revocations() == []
    said = runner.invoke(lineage_app, [*revoking, "--yes"])
    assert "rows are revoked by rev:" in said.output
    (one,) = lake.ledger.revocations()
    said = runner.invoke(lineage_app, ["revocations"])
    assert "in force" in said.output and "\x1b[31m" not in said.output
    assert runner.invoke(lineage_app, ["restore", one.id, "--why", "it is"]).exit_code == 0
    assert "restored" in runner.invoke(lineage_app, ["revocations"]).output
    said = runner.invoke(lineage_app, [*revoking, "--yes", "--purge"])
    assert "texts were searched for" in said.output and "A purge cannot reach" in said.output
    assert runner.invoke(lineage_app, ["revoke", "--why", "x"]).exit_code == 2
