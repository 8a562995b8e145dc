"""The manifest of a large partition is split, so that no file of the lake grows with the partition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit.object_stores import lake_of_kind
from kit.small_lake import activity_of, seed_draft, store

from selfimprove_dagster.lake import partition
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import (
    FILES_PER_PART,
    FORMAT_WITH_PARTS,
    Manifest,
    PartitionWriter,
    ShardFile,
    load_manifest,
)
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.lineage.purge import purge
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL

ACTIVITY = activity_of(SEED_POOL)
MANY = 5


@pytest.fixture(params=["disk", "store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake on the disk, and one in an object store."""
    return lake_of_kind(request.param, tmp_path)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Manifests list two files in a part."""
    monkeypatch.setattr(partition, "FILES_PER_PART", 2)
    yield


def committed(lake: Lake, *, shards: int = MANY, seed: int = 0) -> Manifest:
    activity = activity_of(SEED_POOL, seed=seed)
    with lake.writer(SEED_POOL, activity) as writer:
        for at in range(shards):
            rows = build_records(SEED_POOL, [seed_draft(f"What is {at} + {seed}?", line=at)], activity)
            writer.write_shard(at, rows)
        return writer.commit()


def parts_in(manifest: Manifest) -> list[Path]:
    return sorted(manifest.directory.glob("manifest-*.json"))


def test_a_small_partition_has_one_manifest_that_lists_its_files(lake: Lake) -> None:
    manifest = committed(lake)
    data = json.loads((manifest.directory / "manifest.json").read_text())
    assert [file["name"] for file in data["files"]] == [path.name for path in manifest.paths]
    assert "parts" not in data and not parts_in(manifest)
    assert lake.format == 1


@pytest.mark.usefixtures("small_parts")
def test_a_large_one_reads_like_a_small_one(lake: Lake, tmp_path: Path) -> None:
    large = committed(lake)
    assert len(large.parts) == len(parts_in(large)) == 3
    assert large.rows == len(large.files) == MANY
    assert len(lake.read(SEED_POOL.name, ACTIVITY.partition)) == MANY
    with lake.connect() as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (MANY,)
        assert connection.execute("SELECT count(*) FROM activities").fetchone() == (1,)
    assert verify(lake).findings == [] == verify(lake).notes
    partition.FILES_PER_PART = FILES_PER_PART
    small = committed(Lake(tmp_path / "small"))
    assert small.files == large.files and verify(Lake(tmp_path / "small")).digest == verify(lake).digest


@pytest.mark.usefixtures("small_parts")
def test_an_earlier_version_is_refused_a_lake_with_parts(lake: Lake) -> None:
    committed(lake)
    assert json.loads((lake.root / "format.json").read_text()) == {"format": FORMAT_WITH_PARTS}
    committed(lake, shards=1, seed=1)
    assert lake.format == FORMAT_WITH_PARTS, "it stays"


@pytest.mark.usefixtures("small_parts")
def test_parts_of_an_earlier_commit_are_deleted(lake: Lake) -> None:
    before = committed(lake)
    after = committed(lake, seed=1)
    assert {path.name for path in parts_in(after)} == {*after.parts} and not {*after.parts} & {*before.parts}
    assert parts_in(committed(lake, shards=1, seed=2)) == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("lake", ["disk"], indirect=True)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_verify_finds_a_part_that_is_changed_or_missing(lake: Lake, how: str) -> None:
    part = parts_in(committed(lake))[0]
    part.write_text(part.read_text().replace("part-", "PART-", 1)) if how == "changed" else part.unlink()
    (found,) = verify(lake).findings
    assert found.kind == "unreadable" and how in found.problem and part.name in found.problem


@pytest.mark.usefixtures("small_parts")
def test_a_killed_commit_leaves_parts_that_verify_notes_and_the_next_commit_deletes(lake: Lake) -> None:
    with lake.writer(SEED_POOL, ACTIVITY) as writer:
        file = ShardFile("part-x-00000.parquet", 1, 1, "b2:0")
        writer._listed([replace(file, rows=rows) for rows in range(MANY)])
        left = sorted(writer.directory.glob("manifest-*.json"))
        assert len(left) == 3
        assert {note.file for note in verify(lake).notes} == {path.name for path in left}
        writer.write_shard(0, build_records(SEED_POOL, [seed_draft()], ACTIVITY))
        assert parts_in(writer.commit()) == []


@pytest.mark.usefixtures("small_parts")
def test_a_reader_between_two_commits_sees_one_of_them(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the first are deleted after it read which they are."""
    first = committed(lake)
    checked = partition.file_checksum
    second: list[Manifest] = []

    def replaced(path: Path) -> str:
        if not second and path.name in first.parts:
            monkeypatch.setattr(partition, "file_checksum", checked)
            second.append(committed(lake, seed=1))
        return checked(path)

    monkeypatch.setattr(partition, "file_checksum", replaced)
    assert lake.manifest(SEED_POOL.name, ACTIVITY.partition) == second[0] != first


@pytest.mark.usefixtures("small_parts")
def test_a_purge_rewrites_a_large_partition(lake: Lake) -> None:
    committed(lake)
    (id, *_) = lake.read(SEED_POOL.name, ACTIVITY.partition)["id"]
    revocation = revoke(lake, "record", id, None, "me", "because").revocation
    assert purge(lake, revocation).rows == {SEED_POOL.name: 1}
    manifest = lake.manifest(SEED_POOL.name, ACTIVITY.partition)
    assert (manifest.rows, manifest.edition, len(parts_in(manifest))) == (MANY - 1, 1, 3)


def made_up(lake: Lake, files: int) -> Path:
    """A manifest of files that are not there, with names and numbers as long as they get."""
    store(lake, SEED_POOL, [seed_draft()])
    path = lake.manifest(SEED_POOL.name, ACTIVITY.partition).directory / "manifest.json"
    listed = [
        ShardFile(f"part-0123456789ab.12-{at:05d}.parquet", 1_000_000, 10**10, f"b2:{at:032x}")
        for at in range(files)
    ]
    data = json.loads(path.read_text())
    del data["files"]
    writer = PartitionWriter(path.parent, SEED_POOL, ACTIVITY, lake.ledger)
    path.write_text(json.dumps({**data, **writer._listed(listed)}, indent=1))
    return path


@pytest.mark.parametrize("files", [FILES_PER_PART, FILES_PER_PART + 1, 781_250])
def test_no_file_is_larger_than_ten_megabytes(lake: Lake, files: int) -> None:
    path = made_up(lake, files)
    sizes = [one.stat().st_size for one in path.parent.glob("manifest*.json")]
    assert max(sizes) < 10_000_000 and len(sizes) == 1 + (
        -(-files // FILES_PER_PART) if len(sizes) > 1 else 0
    )
    assert len(load_manifest(path).files) == files


@pytest.mark.usefixtures("small_parts")
def test_a_view_names_very_many_files_by_one_pattern(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "NAMED", 2)
    rows = committed(lake).rows
    lake.refresh_catalog()
    with lake.connect() as connection:
        found = connection.execute("SELECT count(*) FROM lmsi.seed_pool").fetchone()
        view = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'seed_pool'").fetchone()
    assert found == (rows,) and view is not None and "-*.parquet" in view[0]
