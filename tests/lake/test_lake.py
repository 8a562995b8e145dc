"""The lake: what is committed is whole, what is not does not exist, and nobody waits for a reader."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from kit.object_stores import lake_of_kind
from kit.small_lake import activity_of, known_ancestry, seed_draft, store

from selfimprove_dagster.errors import GateClosed, LakeError, LakeNotWritable, PartitionBusy, PartitionMissing
from selfimprove_dagster.lake import disk
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import FORMAT, CheckOutcome, Lake
from selfimprove_dagster.lake.partition import FORMAT_WITH_PARTS, partition_of
from selfimprove_dagster.lake.records import Activity, Draft, build_records
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL

POOL = SEED_POOL


@pytest.fixture(params=["disk", "store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake on the disk, and one in an object store."""
    return lake_of_kind(request.param, tmp_path)


def rows(activity: Activity, *questions: str) -> pl.DataFrame:
    return build_records(POOL, [seed_draft(question) for question in questions], activity)


def test_a_committed_partition_reads_back_as_it_was_written(lake: Lake) -> None:
    activity = activity_of(POOL, model_id="b2:1", about={"tokens": 5})
    manifest = lake.write(POOL, activity, rows(activity, "a?", "b?"))
    assert lake.read(POOL.name, partition_of("demo", 0)).equals(rows(activity, "a?", "b?"))
    assert (manifest.table, manifest.experiment, manifest.iteration, manifest.rows) == (
        POOL.name,
        "demo",
        0,
        2,
    )
    assert manifest.activity == activity
    assert manifest.bytes == manifest.paths[0].stat().st_size
    assert manifest.files[0].checksum == file_checksum(manifest.paths[0])
    assert lake.manifests(experiment="demo") == [manifest] == lake.manifests("lmsi/*")
    assert lake.manifests(experiment="other") == []


def test_what_no_manifest_names_does_not_exist(lake: Lake) -> None:
    """A run that is killed between its shards and the commit leaves nothing that can be read."""
    activity = activity_of(POOL)
    with lake.writer(POOL, activity) as writer:
        writer.write_shard(0, rows(activity, "a?"))
    with pytest.raises(
        PartitionMissing, match="lmsi/seed_pool has nothing committed for experiment demo, iter"
    ):
        lake.read(POOL.name, activity.partition)
    assert not lake.exists(POOL.name, activity.partition)
    with lake.connect() as connection, pytest.raises(duckdb.CatalogException):
        connection.execute("SELECT * FROM records")


def test_a_second_attempt_goes_on_after_the_shards_of_the_first(lake: Lake) -> None:
    activity = activity_of(POOL)
    with pytest.raises(KeyboardInterrupt), lake.writer(POOL, activity) as writer:
        writer.write_shard(0, rows(activity, "a?"))
        raise KeyboardInterrupt
    with lake.writer(POOL, activity) as writer:
        assert writer.committed_shards == {0}
        assert writer.read_shard(0).equals(rows(activity, "a?"))
        with pytest.raises(FileExistsError, match="shard 0 of lmsi/seed_pool is already written"):
            writer.write_shard(0, rows(activity, "other?"))
        writer.write_shard(1, rows(activity, "b?"))
        manifest = writer.commit({"seconds": 2.0})
    assert lake.read(POOL.name, activity.partition)["question"].to_list() == ["a?", "b?"]
    assert manifest.activity.about == {"seconds": 2.0}
    assert manifest.activity.id == activity.id


def test_shards_of_another_activity_are_not_taken_up_and_are_cleared_at_commit(lake: Lake) -> None:
    before, after = activity_of(POOL, seed=1), activity_of(POOL, seed=2)
    with lake.writer(POOL, before) as writer:
        writer.write_shard(0, rows(before, "old?"))
        writer.write_shard(1, rows(before, "old, too?"))
    with lake.writer(POOL, after) as writer:
        assert writer.committed_shards == set()
        writer.write_shard(0, rows(after, "new?"))
        manifest = writer.commit()
    assert lake.read(POOL.name, after.partition)["question"].to_list() == ["new?"]
    assert sorted(manifest.directory.glob("*.parquet")) == manifest.paths


def test_half_written_files_are_ignored_and_cleared(lake: Lake) -> None:
    activity = activity_of(POOL)
    with lake.writer(POOL, activity) as writer:
        leftover = writer.directory / ".part-000000000000-00000.parquet.99.tmp"
        leftover.write_bytes(b"PAR1 and then the power went")
        assert writer.committed_shards == set()
        writer.write_shard(0, rows(activity, "a?"))
        writer.commit()
    assert not leftover.exists()
    hidden = {path.name for path in leftover.parent.iterdir() if path.name.startswith(".")}
    assert hidden == (set() if lake.store.address else {".lock"})


def test_a_commit_without_a_shard_is_an_error(lake: Lake) -> None:
    with (
        lake.writer(POOL, activity_of(POOL)) as writer,
        pytest.raises(ValueError, match="no shard was written"),
    ):
        writer.commit()


def test_writing_again_replaces_the_partition_and_no_other(lake: Lake) -> None:
    store(lake, POOL, [seed_draft("a?")])
    store(lake, POOL, [seed_draft("other iteration?")], iteration=1)
    store(lake, POOL, [seed_draft("b?"), seed_draft("c?")], seed=9)
    assert lake.read(POOL.name, partition_of("demo", 0))["question"].to_list() == ["b?", "c?"]
    assert lake.read(POOL.name, partition_of("demo", 1))["question"].to_list() == ["other iteration?"]


def test_a_partition_without_rows_can_be_committed_and_read(lake: Lake) -> None:
    manifest, _ = store(lake, POOL, [])
    assert manifest.rows == 0
    assert lake.read(POOL.name, manifest.partition).schema == pl.Schema(POOL.polars)
    with lake.connect() as connection:
        assert connection.execute("SELECT count(*) FROM lmsi.seed_pool").fetchone() == (0,)


def test_a_reader_sees_the_old_rows_or_the_new_ones_and_nothing_else(lake: Lake) -> None:
    """A partition is replaced again and again while another thread reads it."""
    store(lake, POOL, [seed_draft("0?")] * 3, seed=0)
    finished = threading.Event()
    seen: set[tuple[str, ...]] = set()

    def replace() -> None:
        for seed in range(1, 25):
            store(lake, POOL, [seed_draft(f"{seed}?")] * 3, seed=seed)
        finished.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not finished.is_set():
        seen.add(tuple(lake.read(POOL.name, partition_of("demo", 0))["question"]))
    writer.join()
    assert all(len(questions) == 3 and len(set(questions)) == 1 for questions in seen)


# ---- checks -----------------------------------------------------------------------------------------


def test_a_partition_whose_blocking_check_failed_is_not_handed_on(lake: Lake) -> None:
    manifest, _ = store(lake, POOL, [seed_draft()])
    passed = CheckOutcome("columns", True, True, "all there")
    failed = CheckOutcome("duplicates", False, True, "40% are duplicates")
    lake.record_checks(manifest, [passed, failed])
    with pytest.raises(GateClosed, match=r"checks failed: duplicates \(40% are duplicates\)\. Materialise"):
        lake.read(POOL.name, manifest.partition)
    assert len(lake.read_ungated(manifest)) == 1
    assert lake.checks(manifest) == [passed, failed]


def test_a_check_that_only_warns_closes_nothing(lake: Lake) -> None:
    manifest, _ = store(lake, POOL, [seed_draft()])
    lake.record_checks(manifest, [CheckOutcome("length", False, False, "some are long")])
    assert len(lake.read(POOL.name, manifest.partition)) == 1


def test_a_check_that_passes_at_last_opens_the_gate(lake: Lake) -> None:
    manifest, _ = store(lake, POOL, [seed_draft()])
    lake.record_checks(manifest, [CheckOutcome("a", False, True, "bad"), CheckOutcome("b", True, True, "")])
    lake.record_checks(manifest, [CheckOutcome("a", True, True, "mended")])
    assert len(lake.read(POOL.name, manifest.partition)) == 1
    assert {check.name for check in lake.checks(manifest)} == {"a", "b"}


def test_a_check_that_is_no_more_gates_nothing(lake: Lake) -> None:
    """The same activity, looked at by a later version of the code that calls its checks otherwise."""
    manifest, _ = store(lake, POOL, [seed_draft()])
    lake.record_checks(manifest, [CheckOutcome("old", False, True, "bad"), CheckOutcome("b", True, True, "")])
    lake.record_checks(manifest, [CheckOutcome("new", True, True, "")], known={"new", "b"})
    assert len(lake.read(POOL.name, manifest.partition)) == 1
    assert {check.name for check in lake.checks(manifest)} == {"new", "b"}


def test_a_new_activity_opens_the_gate_and_the_same_one_does_not(lake: Lake) -> None:
    """What a check said of other rows says nothing of these; the same activity gives the same rows."""
    manifest, _ = store(lake, POOL, [seed_draft()])
    lake.record_checks(manifest, [CheckOutcome("a", False, True, "bad")])
    manifest, _ = store(lake, POOL, [seed_draft()])
    with pytest.raises(GateClosed):
        lake.read(POOL.name, manifest.partition)
    manifest, _ = store(lake, POOL, [seed_draft("better?")], seed=1)
    assert len(lake.read(POOL.name, manifest.partition)) == 1
    assert lake.checks(manifest) == []


# ---- what can go wrong with a disk ------------------------------------------------------------------


@pytest.mark.parametrize("lake", ["disk"], indirect=True)
def test_a_second_process_is_told_that_the_partition_is_being_written(lake: Lake) -> None:
    attempt = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from kit.small_lake import *\n"
        "from selfimprove_dagster.methods.lmsi.tables import SEED_POOL\n"
        "try:\n    store(Lake(sys.argv[1]), SEED_POOL, [seed_draft()])\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    arguments = [sys.executable, "-c", attempt, str(lake.root), str(Path(__file__).parents[1])]
    with lake.writer(POOL, activity_of(POOL)):
        said = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout
        with pytest.raises(PartitionBusy), lake.writer(POOL, activity_of(POOL, seed=3)):
            pass
        store(lake, POOL, [seed_draft()], iteration=1)  # another partition is free
    assert said.startswith("PartitionBusy lmsi/seed_pool experiment demo, iteration 000 is being written")
    store(lake, POOL, [seed_draft()])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_what_was_committed_stays(small_disk: Path) -> None:
    lake = Lake(small_disk)
    manifest, _ = store(lake, POOL, [seed_draft()])
    huge = [seed_draft(os.urandom(1000).hex()) for _ in range(500)]
    with pytest.raises(LakeNotWritable, match=r"cannot write .*parquet: the disk is full: free some space"):
        store(lake, POOL, huge, seed=1)
    assert lake.read(POOL.name, manifest.partition)["question"].to_list() == ["What is 1 + 1?"]
    assert sorted(manifest.directory.glob(".*.tmp")) == []
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 20))
    with pytest.raises(LakeNotWritable, match="disk is full"):
        lake.refresh_catalog()
    filler.unlink()
    store(lake, POOL, [seed_draft("again?")], seed=2)


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    lake = Lake(small_disk / "lake")
    manifest, _ = store(lake, POOL, [seed_draft()])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LakeNotWritable, match="read-only: set SELFIMPROVE_HOME to a writable folder"):
        store(lake, POOL, [seed_draft()], iteration=1)
    with pytest.raises(LakeNotWritable, match="read-only"):
        store(lake, POOL, [seed_draft()])
    with pytest.raises(LakeNotWritable, match="read-only"):
        lake.refresh_catalog()
    with pytest.raises(LakeNotWritable, match="read-only"):
        lake.record_checks(manifest, [])
    assert len(lake.read(POOL.name, manifest.partition)) == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (PermissionError(errno.EACCES, "x"), "permission denied"),
        (OSError("Disk quota exceeded (os error 122): /x"), "quota"),
        (OSError("Permission denied (os error 13): /x"), "permission denied"),
        (pl.exceptions.ComputeError("parquet: No space left on device (os error 28)"), "the disk is full"),
        (duckdb.IOException("Could not write file: No space left on device"), "the disk is full"),
    ],
)
def test_refusals_of_the_file_system_say_what_to_do(error: Exception, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(LakeNotWritable, match=remedy), disk.file_system_errors(tmp_path):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), ValueError("No space left on device")])
def test_other_errors_pass_as_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), disk.file_system_errors(tmp_path):
        raise error


def test_a_lake_inside_another_ones_partition_is_refused(tmp_path: Path) -> None:
    """Its rows would be read with the outer partition's name."""
    with pytest.raises(LakeError, match="a lake cannot be inside 'experiment=demo'"):
        Lake(tmp_path / "experiment=demo" / "lake")


# ---- DuckDB -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lake", "it's [1] of * lakes?", "run=3", 'a "ä" %20 \\ b'])
def test_views_show_what_polars_reads(tmp_path: Path, name: str) -> None:
    """Wherever the lake lies: quotes, wildcards and key=value in its path mean nothing."""
    lake = Lake(tmp_path / name)
    known_ancestry(lake)
    with lake.connect() as connection:
        for manifest in lake.manifests():
            method, stage = manifest.table.split("/")
            viewed = connection.sql(f'SELECT * FROM "{method}"."{stage}"').pl()
            read = lake.read(manifest.table, manifest.partition)
            assert viewed.select(read.columns).rows() == read.rows()
            assert viewed["experiment"].unique().to_list() == ["demo"]
            for key, value in (("iteration", 0), ("batch", "b")):
                if key in manifest.partition:
                    assert viewed[key].unique().to_list() == [value]


def test_records_edges_and_activities_span_all_tables(lake: Lake) -> None:
    known = known_ancestry(lake)
    with lake.connect() as connection:
        counts = dict(connection.execute("SELECT table_name, count(*) FROM records GROUP BY 1").fetchall())
        assert counts == {manifest.table: manifest.rows for manifest in lake.manifests()}
        edges = connection.execute(
            "SELECT role, count(*) FROM edges WHERE child = ? GROUP BY 1 ORDER BY 1", [known.vote]
        ).fetchall()
        assert edges == [("question", 1), ("voted_from", 4)]
        generation = connection.execute(
            "SELECT model_id, seed, parameters->>'engine', about->>'tokens', experiment FROM activities "
            "WHERE table_name = 'lmsi/raw_generations'"
        ).fetchall()
        assert generation == [("b2:fake", 0, "fake 1", "8", "demo")]
        unknown = "SELECT count(*) FROM records LEFT JOIN activities ON activities.id = activity_id "
        assert connection.execute(unknown + "WHERE activities.id IS NULL").fetchone() == (0,)


def test_iterations_stand_side_by_side_in_a_view(lake: Lake) -> None:
    for iteration in range(3):
        store(lake, POOL, [seed_draft(f"{iteration}?")], iteration=iteration)
    with lake.connect() as connection:
        found = connection.sql("SELECT iteration, question FROM lmsi.seed_pool ORDER BY 1").fetchall()
    assert found == [(0, "0?"), (1, "1?"), (2, "2?")]


def test_what_an_activity_is_about_never_spoils_the_views(lake: Lake) -> None:
    """File names may be no UTF-8, and figures no numbers."""
    about: dict[str, Any] = {"path": "seeds\udcff.jsonl", "loss": float("nan"), "note": "\0\u2028"}
    manifest, _ = store(lake, POOL, [seed_draft()], about=about)
    with lake.connect() as connection:
        assert connection.execute("SELECT id FROM activities").fetchall() == [(manifest.activity.id,)]


@pytest.mark.parametrize("lake", ["disk"], indirect=True)
def test_the_catalog_opens_with_plain_duckdb(lake: Lake) -> None:
    known = known_ancestry(lake)
    path = lake.refresh_catalog()
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.sql("SELECT id FROM lmsi.filtered_dataset").fetchall() == [(known.example,)]
        assert connection.sql("SELECT count(*) FROM edges").fetchall() == [(26,)]
    with duckdb.connect(str(path)):  # a user's session, which holds the file's lock
        assert lake.refresh_catalog() == path
        store(lake, POOL, [seed_draft()], iteration=1)
    assert [found.name for found in lake.root.glob("*.duckdb*")] == ["catalog.duckdb"]


def test_a_manifest_is_plain_json(lake: Lake) -> None:
    manifest, _ = store(lake, POOL, [seed_draft()])
    data = json.loads((manifest.directory / "manifest.json").read_text())
    assert data["rows"] == 1
    assert data["activity"]["id"] == manifest.activity.id
    assert [file["name"] for file in data["files"]] == [path.name for path in manifest.paths]


def test_the_columns_are_those_of_the_schema_in_its_order(lake: Lake) -> None:
    activity = activity_of(POOL)
    frame = rows(activity, "a?")
    lake.write(POOL, activity, frame.select(reversed(frame.columns)).with_columns(extra=1))
    assert lake.read(POOL.name, activity.partition).equals(frame)


def test_a_draft_may_hold_any_text(lake: Lake) -> None:
    hostile = ["\0", "'; DROP VIEW records; --", "\x1b[31m", "a\u2028b\r\n", "🏳️‍🌈", "x" * 100_000]
    drafts = [Draft({**seed_draft().content, "question": text}) for text in hostile]
    store(lake, POOL, drafts)
    with lake.connect() as connection:
        assert [row[0] for row in connection.sql("SELECT question FROM lmsi.seed_pool").fetchall()] == hostile


# ---- format ---------------------------------------------------------------------------------------------


def test_the_first_write_says_which_format_the_lake_has(lake: Lake) -> None:
    assert lake.format == 0 and not lake.root.exists(), "opening writes nothing"
    store(lake, POOL, [seed_draft()])
    assert json.loads((lake.root / "format.json").read_text()) == {"format": FORMAT}
    assert Lake(lake.root).format == FORMAT


def test_a_lake_that_names_no_format_is_read_and_written(lake: Lake) -> None:
    manifest, ids = store(lake, POOL, [seed_draft()])
    (lake.root / "format.json").unlink()
    old = Lake(lake.root)
    assert old.format == 0
    assert old.read(manifest.table, manifest.partition)["id"].to_list() == ids
    store(old, POOL, [seed_draft("What is 2 + 2?")], iteration=1)
    assert old.format == FORMAT and len(old.manifests()) == 2


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            {"format": FORMAT_WITH_PARTS + 1},
            f"has format {FORMAT_WITH_PARTS + 1}.*install the version that wrote it",
        ),
        ({"fromat": 1}, "does not contain the lake's format"),
        ([], "does not contain the lake's format"),
    ],
)
def test_a_lake_of_a_later_or_unknown_format_is_refused(lake: Lake, written: Any, said: str) -> None:
    store(lake, POOL, [seed_draft()])
    (lake.root / "format.json").write_text(json.dumps(written))
    with pytest.raises(LakeError, match=said):
        Lake(lake.root)
