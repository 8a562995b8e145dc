"""The index of lineage and the walks over it: exact on any graph, whatever happens to its files."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.small_lake import known_ancestry

from selfimprove_dagster.errors import LakeError, LakeNotWritable
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lineage import index, snapshot
from selfimprove_dagster.lineage.index import FOLDER
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.walk import Lineage, Walk
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL, VOTED_ANSWERS

Edge = tuple[str, str]
Rows = Mapping[str, Sequence[Edge]]
"""By id, the parents and their roles."""


def commit(
    lake: Lake,
    rows: Rows,
    number: int = 0,
    inputs: Sequence[Manifest] = (),
    version: str = "1",
    shard_rows: int = 1_000,
) -> Manifest:
    """Commit forged rows as partition `number` of the table of questions."""
    activity = Activity(
        SEED_POOL.name,
        partition_of("demo", number),
        version,
        {},
        0,
        inputs=tuple(manifest.activity.id for manifest in inputs),
    )
    frame = pl.DataFrame(
        {
            "id": list(rows),
            "parents": [[{"id": parent, "role": role} for parent, role in edges] for edges in rows.values()],
        },
        schema={name: SEED_POOL.polars[name] for name in ("id", "parents")},
    ).with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in SEED_POOL.polars.items()
        if name not in ("id", "parents")
    )
    with lake.writer(SEED_POOL, activity) as writer:
        for shard in range(max(1, -(-len(frame) // shard_rows))):
            writer.write_shard(shard, frame.slice(shard * shard_rows, shard_rows), overwrite=True)
        return writer.commit()


# ---- against a plain walk ---------------------------------------------------------------------------------


class PlainGraph:
    """The same questions, answered by a breadth-first walk over a list of edges."""

    def __init__(self, partitions: Sequence[Rows], activities: Sequence[str]) -> None:
        self.edges = {
            (child, parent, role)
            for rows in partitions
            for child, edges in rows.items()
            for parent, role in edges
        }
        datasets = {parent for _, parent, role in self.edges if role == "trained_on"}
        self.members = {
            (activity, row, "member_of")
            for rows, activity in zip(partitions, activities, strict=True)
            if activity in datasets
            for row in rows
        }

    def walk(self, start: str, *, down: bool) -> tuple[dict[str, int], set[tuple[str, str, str]]]:
        """Depths, and the edges between what was reached."""
        edges = self.edges | self.members if down else self.edges
        depths, frontier = {start: 0}, [start]
        while frontier:
            reached = {
                (child if down else parent)
                for child, parent, _ in edges
                if (parent if down else child) in frontier
            }
            frontier = sorted(reached - depths.keys())
            depths |= dict.fromkeys(frontier, depths[next(reversed(depths))] + 1)
        return depths, {edge for edge in edges if edge[0] in depths and edge[1] in depths}


def told(walk: Walk) -> tuple[dict[str, int], set[tuple[str, str, str]]]:
    assert walk.nodes["id"].is_unique().all()
    assert walk.edges.is_unique().all()
    assert walk.nodes.select("depth", "id").equals(walk.nodes.select("depth", "id").sort("depth", "id"))
    return dict(walk.nodes.select("id", "depth").iter_rows()), set(walk.edges.iter_rows())


NAMES = ["a", "b", "c", "d", "q:" + "0" * 32, "q:" + "0" * 31 + "1", "", "é\0", "x" * 70, "act:1"]


@st.composite
def graphs(draw: st.DrawFn, *, downhill: bool) -> list[dict[str, list[tuple[int | str, str]]]]:
    """Partitions of rows with any parents; a number stands for the activity of an earlier partition.

    Cycles run within a partition, and across them unless `downhill`: then parents stand in the same
    partition or in earlier ones, as they do in a lake.
    """
    names = draw(st.permutations(NAMES))
    bounds = sorted(draw(st.lists(st.integers(0, len(names)), min_size=2, max_size=2)))
    parts = [names[: bounds[0]], names[bounds[0] : bounds[1]], names[bounds[1] :]]
    roles = st.sampled_from(["seed", "trained_on"])
    partitions = []
    for number, own in enumerate(parts):
        known = list(itertools.chain(*parts[: number + 1])) if downhill else list(names)
        parents: st.SearchStrategy[int | str] = st.sampled_from([*known, "stranger", *range(number)])
        edges = st.lists(st.tuples(parents, roles), max_size=4)
        partitions.append({row: draw(edges) for row in own})
    return partitions


@contextmanager
def graph_lake(partitions: Sequence[Mapping[str, Sequence[tuple[int | str, str]]]]) -> Any:
    """A lake of those partitions, each with all earlier ones for inputs, and the plain graph."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder) / "lake")
        manifests: list[Manifest] = []
        named = []
        for number, rows in enumerate(partitions):
            resolved = {
                row: [(manifests[p].activity.id if isinstance(p, int) else p, role) for p, role in edges]
                for row, edges in rows.items()
            }
            manifests.append(commit(lake, resolved, number, manifests, shard_rows=2))
            named.append(resolved)
        yield lake, PlainGraph(named, [manifest.activity.id for manifest in manifests])


SEGMENT_ROWS = st.sampled_from([1, 4, 250_000])
"""A partition has as many segments as files, or fewer."""


@settings(max_examples=40)
@given(partitions=graphs(downhill=False), segment_rows=SEGMENT_ROWS)
def test_walks_are_those_of_a_plain_search_on_any_graph(partitions: Any, segment_rows: int) -> None:
    with graph_lake(partitions) as (lake, plain), pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_SEGMENT_ROWS", segment_rows)
        lineage = Lineage(lake)
        assert len(segment_files(lake)) == sum(
            max(1, -(-len(rows) // (2 if segment_rows == 1 else segment_rows))) for rows in partitions
        )
        up = {name: told(lineage.ancestors([name])) for name in NAMES}
        for name in NAMES:
            assert up[name] == plain.walk(name, down=False)
            down = told(lineage.descendants([name]))
            assert down == plain.walk(name, down=True)
            if not plain.members:
                assert {other for other in NAMES if name in up[other][0]} == set(down[0]) & set(NAMES)
            place = lineage.find(name) if name else None
            assert place is None or (place.id, partitions[place.iteration or 0].keys() >= {name}) == (
                name,
                True,
            )


@settings(max_examples=15)
@given(partitions=graphs(downhill=True), segment_rows=SEGMENT_ROWS)
def test_without_the_index_walks_are_the_same(partitions: Any, segment_rows: int) -> None:
    with graph_lake(partitions) as (lake, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_SEGMENT_ROWS", segment_rows)
        indexed = Lineage(lake)
        for name in [*NAMES, "stranger"]:
            for way in ("ancestors", "descendants"):
                found = getattr(Lineage(lake, use_index=False), way)([name])
                expected = getattr(indexed, way)([name])
                assert found.nodes.equals(expected.nodes)
                assert found.edges.equals(expected.edges)
            assert Lineage(lake, use_index=False).rows([name]) == indexed.rows([name])


@settings(max_examples=20)
@given(partitions=graphs(downhill=False), hashes=st.integers(1, 3))
def test_colliding_hashes_change_no_answer(partitions: Any, hashes: int) -> None:
    honest = index._keys
    with graph_lake(partitions) as (lake, plain), pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_keys", lambda ids: honest(ids) % np.uint64(hashes))
        lineage = Lineage(lake)
        for name in NAMES:
            assert told(lineage.ancestors([name])) == plain.walk(name, down=False)
            assert told(lineage.descendants([name])) == plain.walk(name, down=True)


def test_a_walk_from_several_records_has_the_shortest_depths(lake: Lake) -> None:
    commit(lake, {"a": [("b", "seed")], "b": [("c", "seed")], "c": []})
    lineage = Lineage(lake)
    assert told(lineage.ancestors(["a", "b", "a"]))[0] == {"a": 0, "b": 0, "c": 1}
    assert told(lineage.ancestors([])) == ({}, set())


def test_rows_with_an_empty_or_no_list_of_parents_have_none(lake: Lake) -> None:
    manifest = commit(lake, {"a": [("b", "seed")], "b": [], "c": [("b", "")]})
    frame = pl.read_parquet(manifest.paths[0], hive_partitioning=False)
    nothing = pl.when(pl.col("id") == "c").then(None).otherwise("parents")
    lake.write(SEED_POOL, manifest.activity, frame.with_columns(parents=nothing))
    assert told(Lineage(lake).descendants(["b"])) == ({"b": 0, "a": 1}, {("a", "b", "seed")})


def test_each_parent_of_a_real_lake_stands_in_an_input_of_its_row(finished_home: Home) -> None:
    """What walks without the index go by."""
    manifests = finished_home.lake.manifests()
    home_of = {
        record: manifest.activity.id
        for manifest in manifests
        for record in finished_home.lake.read_whole(manifest)["id"]
    }
    edges = 0
    for manifest in manifests:
        allowed = {manifest.activity.id, *manifest.activity.inputs}
        for parent in finished_home.lake.read_whole(manifest)["parents"].explode().struct.field("id"):
            if parent in home_of:
                edges += 1
                assert home_of[parent] in allowed, (manifest.table, parent)
    assert edges > 1000


def test_a_real_lake_is_walked_alike_with_the_index_and_without(finished_home: Home) -> None:
    lake = finished_home.lake
    indexed = Lineage(lake)
    for manifest in lake.manifests(experiment="small"):
        rows = lake.read_whole(manifest)
        if rows.is_empty():
            continue
        record = rows["id"][len(rows) // 2]
        assert indexed.find(record[:30]) == Lineage(lake, use_index=False).find(record[:30])
        for way in ("ancestors", "descendants"):
            found = getattr(Lineage(lake, use_index=False), way)([record])
            expected = getattr(indexed, way)([record])
            assert found.nodes.equals(expected.nodes)
            assert found.edges.equals(expected.edges)
            ids = expected.nodes["id"]
            assert Lineage(lake, use_index=False).rows(ids) == indexed.rows(ids)


# ---- files of the index -----------------------------------------------------------------------------------


def segment_files(lake: Lake) -> list[Path]:
    return sorted((lake.root / FOLDER).glob("*"))


def parents_named(lake: Lake, record: str) -> set[str]:
    return set(Lineage(lake).ancestors([record]).nodes["id"]) - {record}


def test_a_segment_is_made_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(lake, {"a": [("b", "seed")], "b": []})
    assert parents_named(lake, "a") == {"b"}
    monkeypatch.setattr(index, "build", None)
    assert parents_named(lake, "a") == {"b"}


def test_a_partition_that_changed_gets_a_new_segment_and_loses_the_old_one(lake: Lake) -> None:
    commit(lake, {"a": [("b", "seed")]})
    commit(lake, {"b": [("c", "seed")]}, 1)
    assert parents_named(lake, "a") == {"b", "c"}
    before = segment_files(lake)
    commit(lake, {"b": [("d", "seed")]}, 1)
    assert parents_named(lake, "a") == {"b", "d"}, "the same activity, other content"
    commit(lake, {"b": [("e", "seed")]}, 1, version="2")
    assert parents_named(lake, "a") == {"b", "e"}
    after = segment_files(lake)
    assert (len(after), len(set(before) & set(after))) == (2, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:20],
        lambda data: b"\xff" * len(data),
        lambda data: data.replace(b'"stamp": [1,', b'"stamp": [0,'),
        lambda data: data + b"more",
        lambda data: data[:8] + b"[" + data[9:],
    ],
)
def test_a_damaged_segment_is_made_again(lake: Lake, damage: Any) -> None:
    commit(lake, {"a": [("b", "seed")], "b": []})
    Lineage(lake)
    (file,) = segment_files(lake)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert parents_named(lake, "a") == {"b"}
    assert file.read_bytes() == whole


def test_a_lake_that_cannot_be_written_is_walked_all_the_same(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(lake, {"a": [("b", "seed")], "b": []})

    def refused(path: Path, data: bytes) -> None:
        raise LakeNotWritable(f"cannot write {path}")

    monkeypatch.setattr(index, "write_atomically", refused)
    assert parents_named(lake, "a") == {"b"}
    assert segment_files(lake) == []


def test_a_shard_that_is_being_written_over_is_not_kept_in_the_index(lake: Lake) -> None:
    """The writer has put its shard in place, and not yet its manifest."""
    manifest = commit(lake, {"a": [("b", "seed")]})
    with lake.writer(SEED_POOL, manifest.activity) as writer:
        frame = writer.read_shard(0)
        writer.write_shard(0, frame.with_columns(parents=pl.lit([], frame["parents"].dtype)), overwrite=True)
        Lineage(lake)
        assert segment_files(lake) == []


def test_temporary_files_of_other_processes_stay_until_they_are_old(lake: Lake) -> None:
    commit(lake, {"a": []})
    Lineage(lake)
    fresh, old = lake.root / FOLDER / ".x.1.tmp", lake.root / FOLDER / ".x.2.tmp"
    fresh.touch()
    old.touch()
    os.utime(old, (0, 0))
    Lineage(lake)
    assert (fresh.exists(), old.exists()) == (True, False)


def test_a_lost_file_is_named_with_a_remedy(lake: Lake) -> None:
    manifest = commit(lake, {"a": []})
    manifest.paths[0].unlink()
    with pytest.raises(
        LakeError, match=r"file is missing; materialise its partition again: .*part-.*parquet"
    ):
        Lineage(lake)


def test_a_file_that_is_no_parquet_is_named_with_a_remedy(lake: Lake) -> None:
    manifest = commit(lake, {"a": []})
    manifest.paths[0].write_bytes(b"PAR1 no more")
    with pytest.raises(LakeError, match=r"part-.*parquet cannot be read .* materialise lmsi/seed_pool again"):
        Lineage(lake)


# ---- while the lake is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("use_index", [True, False])
def test_a_walk_while_its_partition_is_replaced_tells_one_committed_state(
    lake: Lake, use_index: bool
) -> None:
    """Versions name parents of their own: no answer may mix them."""
    seeds = commit(lake, {f"s{version}.{n}": [] for version in range(3) for n in range(3)}, 0)
    stop = threading.Event()

    def write(version: int) -> None:
        own = {f"m{n}": [(f"s{version}.{n}", "seed")] for n in range(3)}
        commit(lake, {"top": [(row, "seed") for row in own], **own}, 1, [seeds], version=str(version))

    def write_on() -> None:
        for version in itertools.cycle(range(3)):
            if stop.is_set():
                return
            write(version)

    write(0)
    writer = threading.Thread(target=write_on)
    writer.start()
    seen = set()
    try:
        for _ in range(40):
            lineage = Lineage(lake, use_index=use_index)
            reached = set(lineage.ancestors(["top"]).nodes["id"]) - {"top", "m0", "m1", "m2"}
            (version,) = {record.split(".")[0] for record in reached}
            assert reached == {f"{version}.{n}" for n in range(3)}
            seen.add(version)
            assert lineage.rows(["top"])["top"]["parents"][0]["id"] == "m0"
            tree = trace(lake, "top").to_json()
            ends = {parent["id"] for middle in tree["parents"] for parent in middle["parents"]}
            (version,) = {record.split(".")[0] for record in ends}
            assert ends == {f"{version}.{n}" for n in range(3)}
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1, "the writer was not seen to write"


def test_rows_are_read_anew_when_their_file_was_replaced(lake: Lake) -> None:
    commit(lake, {"a": [("b", "seed")]})
    lineage = Lineage(lake)
    commit(lake, {"a": [("c", "seed")]}, version="2")
    assert lineage.rows(["a"])["a"]["parents"] == [{"id": "c", "role": "seed"}]


def test_withdrawn_rows_are_walked_but_not_read(lake: Lake) -> None:
    known = known_ancestry(lake)
    (manifest,) = lake.manifests(VOTED_ANSWERS.name)
    lake.withdraw(manifest, {known.vote: "rev:1"})
    lineage = Lineage(lake)
    assert known.vote in lineage.ancestors([known.example]).nodes["id"]
    assert set(lineage.rows([known.vote, known.example])) == {known.example}
    assert lineage.find(known.vote).id == known.vote
