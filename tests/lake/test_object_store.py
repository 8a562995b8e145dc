"""A home in an object store: what one machine commits, another one sees, whole and once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from kit.object_stores import lake_of_kind, memory_address, mirror
from kit.small_lake import activity_of, known_ancestry, seed_draft, store

from selfimprove_dagster import environment
from selfimprove_dagster.environment import MARK, home_folder
from selfimprove_dagster.errors import PartitionBusy, StoreError
from selfimprove_dagster.host import process_name
from selfimprove_dagster.lake import object_store
from selfimprove_dagster.lake.disk import Outrun
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lake.object_store import ObjectStore
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.lake.store import DISK, store_of
from selfimprove_dagster.lineage.purge import out_of_reach, purge
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL

PLACE = partition_of("demo", 0)


@pytest.fixture(autouse=True)
def seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is not believed a second time."""
    monkeypatch.setattr(object_store, "_FRESH_SECONDS", 0.0)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[[str], Lake]]:
    """Lakes of several machines over one store."""
    address = memory_address()
    yield lambda name: Lake(mirror(tmp_path / name, address) / "lake")


Machines = Callable[[str], Lake]


def questions(lake: Lake) -> list[str]:
    return lake.read(SEED_POOL.name, PLACE)["question"].to_list()


def client(lake: Lake) -> Any:
    assert isinstance(lake.store, ObjectStore)
    return lake.store._client


def keys(lake: Lake) -> set[str]:
    return {meta["path"] for batch in client(lake).list() for meta in batch}


# ---- what another machine sees ------------------------------------------------------------------------


def test_another_machine_sees_what_was_committed_and_when_it_is_replaced(machines: Machines) -> None:
    one, two = machines("one"), machines("two")
    assert two.manifests() == []
    store(one, SEED_POOL, [seed_draft("a?")])
    assert questions(two) == ["a?"]
    store(one, SEED_POOL, [seed_draft("b?")], seed=1)
    assert questions(two) == ["b?"]
    store(two, SEED_POOL, [seed_draft("c?")], seed=2)
    assert questions(one) == ["c?"]
    assert len([key for key in keys(one) if key.endswith(".parquet")]) == 1


def test_the_store_has_the_layout_of_a_home_on_the_disk(machines: Machines, tmp_path: Path) -> None:
    known_ancestry(machines("one"))
    known_ancestry(local := Lake(tmp_path / "local" / "lake"))
    made = {key for key in keys(machines("one")) if not Path(key).name.startswith(".")}
    files = (path for path in local.root.rglob("*") if path.is_file())
    assert made == {path.relative_to(local.root.parent).as_posix() for path in files if path.name[0] != "."}
    assert verify(machines("two")).digest and {
        row for m in machines("two").manifests() for row in machines("two").read_whole(m)["id"]
    } == {row for m in local.manifests() for row in local.read_whole(m)["id"]}


def test_checks_and_revocations_of_one_machine_hold_on_the_other(machines: Machines) -> None:
    one, two = machines("one"), machines("two")
    known = known_ancestry(one)
    assert len(two.read(SEED_POOL.name, PLACE)) == 1
    one.record_checks(one.manifest(SEED_POOL.name, PLACE), [CheckOutcome("rows", False, False, "few")])
    assert [check.name for check in two.checks(two.manifest(SEED_POOL.name, PLACE))] == ["rows"]
    revoke(one, "seed", known.seed, None, "ann", "asked")
    assert two.read(SEED_POOL.name, PLACE).is_empty()
    with two.connect() as connection:
        assert connection.execute("SELECT count(*) FROM lmsi.seed_pool").fetchone() == (0,)


def test_a_purge_reaches_the_store_this_machine_and_others_when_they_read(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_ABANDONED_SECONDS", 0.0)
    text = "One and one are two, as everybody knows. The answer is 2."
    one, two = machines("one"), machines("two")
    known = known_ancestry(one, text)
    assert verify(two).findings == []
    purge(one, revoke(one, "record", known.question, None, "ann", "asked").revocation)

    def holding(folder: Path) -> list[Path]:
        files = (path for path in folder.rglob("*.parquet"))
        return [path for path in files if text.encode() in path.read_bytes()]

    assert not any(text.encode() in bytes(client(one).get(key).bytes()) for key in keys(one))
    assert holding(tmp_path / "one") == []
    assert [one.files for one in two.manifests()] == [one.files for one in one.manifests()]
    assert holding(tmp_path / "two") == []
    assert any("other machines" in place for place in out_of_reach(one))
    assert not any("other machines" in place for place in out_of_reach(Lake(tmp_path / "local")))


def test_a_shard_of_a_killed_machine_is_taken_up_by_another(machines: Machines) -> None:
    activity = activity_of(SEED_POOL)
    rows = build_records(SEED_POOL, [seed_draft("a?")], activity)
    with pytest.raises(KeyboardInterrupt), machines("one").writer(SEED_POOL, activity) as writer:
        writer.write_shard(0, rows)
        raise KeyboardInterrupt
    two = machines("two")
    assert [path.name for path in two.unfinished()] == [f"{writer._prefix}00000.parquet"]
    with two.writer(SEED_POOL, activity) as writer:
        assert writer.committed_shards == {0} and writer.read_shard(0).equals(rows)
        with pytest.raises(FileExistsError, match="shard 0 of lmsi/seed_pool is already written"):
            writer.write_shard(0, rows.head(0))
        writer.commit()
    assert questions(machines("one")) == ["a?"]


@pytest.mark.parametrize("how", ["lost", "changed"])
def test_verify_reads_the_store_and_not_the_copies(machines: Machines, how: str) -> None:
    lake = machines("one")
    manifest, _ = store(lake, SEED_POOL, [seed_draft("a?")])
    other, _ = store(lake, SEED_POOL, [seed_draft("b?")], iteration=1)
    assert verify(lake).findings == []
    key = f"lake/{manifest.paths[0].relative_to(lake.root)}"
    if how == "lost":
        client(lake).delete(key)
    else:
        client(lake).put(key, other.paths[0].read_bytes())
    assert {finding.kind for finding in verify(lake).findings} >= {how}


# ---- locks ---------------------------------------------------------------------------------------------


def test_two_machines_do_not_write_one_partition_at_a_time(machines: Machines) -> None:
    one, two = machines("one"), machines("two")
    with one.writer(SEED_POOL, activity_of(SEED_POOL)):
        with pytest.raises(PartitionBusy, match="iteration 000 is being written by another process"):
            store(two, SEED_POOL, [seed_draft()])
        store(two, SEED_POOL, [seed_draft()], iteration=1)
    store(two, SEED_POOL, [seed_draft()])


def _holder(lake: Lake, key: str, **changes: Any) -> None:
    holder = {"host": "elsewhere", "process": "1@1.00", "seconds": 60.0, "name": "x"}
    client(lake).put(key, json.dumps({**holder, **changes}).encode())


def test_the_lease_of_a_dead_process_is_taken_over(machines: Machines, monkeypatch: Any) -> None:
    lake = machines("one")
    key = "lake/lmsi/seed_pool/experiment=demo/iteration=000/.lock"
    _holder(lake, key)
    with pytest.raises(PartitionBusy):
        store(lake, SEED_POOL, [seed_draft()])
    _holder(lake, key, host=object_store.this_host())  # of this host, on which no such process lives
    store(lake, SEED_POOL, [seed_draft()])
    _holder(lake, key, host=object_store.this_host(), process=process_name(1))
    with pytest.raises(PartitionBusy):
        store(lake, SEED_POOL, [seed_draft()])
    _holder(lake, key, seconds=-object_store._SKEW_SECONDS - 1)  # of another host, and run out
    store(lake, SEED_POOL, [seed_draft("b?")])
    assert questions(lake) == ["b?"]


def test_a_writer_that_lost_its_lease_does_not_commit(machines: Machines) -> None:
    """It was paused for so long that another one took its place and committed."""
    one, two = machines("one"), machines("two")
    activity = activity_of(SEED_POOL)
    with one.writer(SEED_POOL, activity) as writer:
        writer.write_shard(0, build_records(SEED_POOL, [seed_draft("slow?")], activity))
        client(one).put("lake/lmsi/seed_pool/experiment=demo/iteration=000/.lock", b"null")
        store(two, SEED_POOL, [seed_draft("fast?")], seed=1)
        with pytest.raises(PartitionBusy, match="written by another process meanwhile"):
            writer.commit()
    assert questions(one) == questions(two) == ["fast?"]


def test_a_lease_is_renewed_and_its_loss_noticed(machines: Machines, monkeypatch: Any) -> None:
    monkeypatch.setattr(object_store, "LEASE_SECONDS", 0.4)
    lake, path = machines("one"), machines("one").root / "x" / ".lock"
    with lake.store.lock(path, wait=False) as lease:
        first = client(lake).head("lake/x/.lock")["e_tag"]
        time.sleep(0.5)
        assert client(lake).head("lake/x/.lock")["e_tag"] != first and lease.is_locked
        client(lake).put("lake/x/.lock", b"null")
        time.sleep(0.3)
        assert not lease.is_locked
    assert bytes(client(lake).get("lake/x/.lock").bytes()) == b"null"


def test_a_lock_that_is_waited_for_is_reentrant_and_one_at_a_time(machines: Machines) -> None:
    one, two = machines("one"), machines("two")
    order: list[str] = []

    def wait() -> None:
        with two.ledger.lock():
            order.append("waited")

    with one.ledger.lock(), one.ledger.lock():
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        order.append("held")
        with pytest.raises(Timeout), two.store.lock(two.root / ".lock", wait=False):
            pass
    thread.join(timeout=10)
    assert order == ["held", "waited"]


def test_a_revocation_is_not_missed_by_a_commit_whose_lease_ran_out(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines("one"), machines("two")
    known = known_ancestry(one)
    row = one.read("lmsi/voted_answers", PLACE)
    revoked: list[str] = []
    swap = ObjectStore.swap

    def slow(self: ObjectStore, path: Path, data: bytes, before: Any) -> Any:
        if path.name == "manifest.json" and not revoked:
            client(one).put("lake/.lock", b"null")  # it was taken for dead
            revoked.append(revoke(two, "seed", known.seed, None, "ann", "asked").revocation.id)
            for lease in one.store._leases.values():  # type: ignore[attr-defined]
                lease._lost = True
        return swap(self, path, data, before)

    monkeypatch.setattr(ObjectStore, "swap", slow)
    from selfimprove_dagster.methods.lmsi.tables import VOTED_ANSWERS

    activity = activity_of(VOTED_ANSWERS, iteration=1)
    with one.writer(VOTED_ANSWERS, activity) as writer:
        writer.write_shard(0, row)
        writer.commit()
    assert revoked and one.read(VOTED_ANSWERS.name, partition_of("demo", 1)).is_empty()


# ---- conditions ----------------------------------------------------------------------------------------


def test_a_lost_answer_and_a_conflict_are_no_refusals(machines: Machines, monkeypatch: Any) -> None:
    """The client repeats a put whose answer was lost, and stores answer 409 to two puts at once."""
    from obstore.exceptions import AlreadyExistsError

    lake = machines("one")
    put, told = ObjectStore._put, []

    def forgetful(self: ObjectStore, key: str, data: bytes, mode: Any = "overwrite") -> Any:
        if key.endswith("a") and not told:
            told.append(put(self, key, data, mode))
            raise AlreadyExistsError("the first try has put it")
        if key.endswith("b") and len(told) < 3:
            told.append(key)
            raise AlreadyExistsError("409")
        return put(self, key, data, mode)

    monkeypatch.setattr(ObjectStore, "_put", forgetful)
    version = lake.store.swap(lake.root / "a", b"mine", None)
    assert version == told[0]
    assert lake.store.swap(lake.root / "b", b"mine", None) and len(told) == 3
    with pytest.raises(Outrun):
        lake.store.swap(lake.root / "a", b"other", None)
    assert lake.store.swap(lake.root / "a", b"next", version)
    with pytest.raises(Outrun):
        lake.store.swap(lake.root / "a", b"late", version)


@pytest.mark.parametrize(
    ("ignored", "said"),
    [("create", "overwrote an object that was to be put if absent"), ("swap", "whose ETag had changed")],
)
def test_a_store_that_ignores_conditions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: str, said: str
) -> None:
    put = ObjectStore._put

    def careless(self: ObjectStore, key: str, data: bytes, mode: Any = "overwrite") -> Any:
        ignores = mode == "create" if ignored == "create" else isinstance(mode, dict)
        return put(self, key, data, "overwrite" if ignores else mode)

    monkeypatch.setattr(ObjectStore, "_put", careless)
    with pytest.raises(StoreError, match=f"cannot be a home.*{said}.*conditional writes"):
        Lake(mirror(tmp_path, memory_address()) / "lake")


def test_a_store_without_conditions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="cannot be a home: it has no conditional writes"):
        ObjectStore(f"file://{tmp_path}/there", tmp_path / "mirror")


# ---- the home ------------------------------------------------------------------------------------------


def test_the_variable_names_a_folder_or_an_object_store(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path))
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    assert home_folder() == tmp_path / "home" and store_of(home_folder()) is DISK
    monkeypatch.setenv("SELFIMPROVE_HOME", "s3://bucket/a/b/")
    assert home_folder().parent == tmp_path / "homes"
    assert json.loads((home_folder() / MARK).read_text()) == {"address": "s3://bucket/a/b"}
    monkeypatch.setenv("SELFIMPROVE_HOME", "s3://bucket/a-b")
    home_folder()
    assert len([*(tmp_path / "homes").iterdir()]) == 2
    monkeypatch.delenv("SELFIMPROVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environment.cache_folder() == tmp_path / "xdg" / "selfimprove"


@pytest.mark.parametrize("address", ["ftp://host/x", "memory:///x", "file:///x", "s3://"])
def test_other_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", address)
    with pytest.raises(StoreError, match="a home is a folder, or an object store such as s3://bucket/prefix"):
        home_folder()


# ---- checkpoints ---------------------------------------------------------------------------------------


def trained(lake: Lake, weights: str = "w" * 3_000) -> Path:
    folder = lake.root.parent / "checkpoints" / "demo" / "000-lmsi-0123456789ab"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "more" / "config.json").write_text("{}")
    return folder


def test_a_trained_model_is_found_on_another_machine(machines: Machines) -> None:
    one, two = machines("one"), machines("two")
    folder = trained(one)
    address = one.address_of(folder)
    assert not Path(two.model_at(address)).exists(), "it is not published yet"
    one.store.publish_folder(folder)
    found = Path(two.model_at(address))
    assert found == two.root.parent / address and (found / "model.safetensors").read_text() == "w" * 3_000
    assert (found / "more" / "config.json").read_text() == "{}"
    assert sorted(path.name for path in found.parent.iterdir()) == [found.name, f"{found.name}.files.json"]


def test_the_list_of_files_is_put_last(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machines("one"), machines("two")
    folder = trained(one)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "_put_if", killed)
        with pytest.raises(KeyboardInterrupt):
            one.store.publish_folder(folder)
    assert not Path(two.model_at(one.address_of(folder))).exists()
    one.store.publish_folder(folder)
    assert Path(two.model_at(one.address_of(folder))).is_dir()


def test_the_model_that_was_published_first_counts(machines: Machines) -> None:
    """Two machines trained the same; what differs in bits would not be the model that the row names."""
    one, two = machines("one"), machines("two")
    first, second = trained(one, "first"), trained(two, "second")
    one.store.publish_folder(first)
    two.store.publish_folder(second)
    assert (second / "model.safetensors").read_text() == "first"


@pytest.mark.parametrize(("how", "said"), [("lost", "has lost files"), ("changed", "checksums differ")])
def test_a_model_that_is_not_whole_does_not_appear(machines: Machines, how: str, said: str) -> None:
    one, two = machines("one"), machines("two")
    folder = trained(one)
    one.store.publish_folder(folder)
    (key,) = (key for key in keys(one) if key.endswith("model.safetensors"))
    client(one).delete(key) if how == "lost" else client(one).put(key, b"other")
    with pytest.raises(StoreError, match=said):
        two.model_at(one.address_of(folder))
    assert not (two.root.parent / one.address_of(folder)).exists()


def test_a_writer_leaves_the_copies_alone_that_a_reader_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit deletes the unfinished files of its partition; a reader's are not its own."""
    lake = lake_of_kind("store", tmp_path)
    store(lake, SEED_POOL, [seed_draft("0?")])
    write_bytes, done = Path.write_bytes, []

    def committed_meanwhile(path: Path, data: Any) -> int:
        written = write_bytes(path, data)
        if not done:
            done.append(path)
            store(lake, SEED_POOL, [seed_draft("1?")], seed=1)
        return written

    manifest = lake.manifests()[0].directory / "manifest.json"
    monkeypatch.setattr(Path, "write_bytes", committed_meanwhile)
    lake.store.bring([manifest], anew=True)
    assert done and manifest.is_file()
