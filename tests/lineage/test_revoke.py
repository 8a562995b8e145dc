"""Revoke: what was named falls with all that came of it, nothing else does, and no text outlives a purge."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.object_stores import lake_of_kind
from kit.small_lake import activity_of, known_ancestry, make_experiment, seed_draft, store, write_lines

from selfimprove_dagster.errors import PartitionBusy, RevocationError, SeedFileError
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft, Parent, build_records
from selfimprove_dagster.lineage.purge import purge
from selfimprove_dagster.lineage.revoke import Plan, plan, restore, revoke
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.methods.lmsi.sampling import demonstrations
from selfimprove_dagster.methods.lmsi.tables import (
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
)
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEEDS

TEXT = "One and one are two, as everybody knows. The answer is 2."


@pytest.fixture(params=["disk", "store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake on the disk, and one in an object store."""
    return lake_of_kind(request.param, tmp_path)


def revoked(lake: Lake, kind: str, value: str, experiment: str | None = None) -> Plan:
    return revoke(lake, kind, value, experiment, "ann", "the author asked")


def on_disk(lake: Lake) -> set[str]:
    return {record for manifest in lake.manifests() for record in lake.read_whole(manifest)["id"]}


def readable(lake: Lake) -> set[str]:
    """Ids that every way of reading gives; all ways must agree."""
    read = {row for m in lake.manifests() for row in lake.read(m.table, m.partition)["id"]}
    ungated = {row for m in lake.manifests() for row in lake.read_ungated(m)["id"]}
    columns = {row for m in lake.manifests() for row in lake.read_columns(m, ["id"])["id"]}
    with lake.connect() as connection:
        viewed = {row[0] for row in connection.execute("SELECT id FROM records").fetchall()}
        tabled = {
            row[0]
            for table in {manifest.table.replace("/", ".") for manifest in lake.manifests()}
            for row in connection.execute(f"SELECT id FROM {table}").fetchall()
        }
    if not lake.store.address:
        with duckdb.connect(str(lake.refresh_catalog()), read_only=True) as catalog:
            assert viewed == {row[0] for row in catalog.execute("SELECT id FROM records").fetchall()}
    assert read == ungated == columns == viewed == tabled
    assert sum(lake.live_rows(manifest) for manifest in lake.manifests()) == len(read)
    return read


# ---- what falls -----------------------------------------------------------------------------------------


def test_a_revoked_seed_takes_all_that_came_of_it_and_nothing_else(lake: Lake) -> None:
    known = known_ancestry(lake, TEXT)
    before = readable(lake)
    fell = set(revoked(lake, "seed", known.seed).fallen["id"])
    assert {known.seed, known.question, *known.paths, known.vote, known.example} <= fell
    assert len([record for record in fell if record.startswith("dec:")]) == 4
    assert before - fell == set(known.demonstrations) - fell
    assert readable(lake) == before - fell
    assert on_disk(lake) == before


def test_a_dry_run_changes_nothing(lake: Lake) -> None:
    known = known_ancestry(lake)
    before = readable(lake)
    assert len(plan(lake, "seed", known.seed[:20], None, "ann", "asked").fallen) > 10
    assert readable(lake) == before
    assert not lake.ledger.folder.exists()


def test_a_record_falls_without_its_siblings(lake: Lake) -> None:
    known = known_ancestry(lake)
    revoked(lake, "record", known.paths[2])
    assert readable(lake) & set(known.paths) == set(known.paths) - {known.paths[2]}
    assert known.vote not in readable(lake), "the path voted"
    assert known.question in readable(lake)


@pytest.mark.parametrize(("kind", "value"), [("source-file", "s.jsonl"), ("licence", "MIT")])
def test_a_file_and_a_licence_take_seeds_demonstrations_and_rejected_lines(
    lake: Lake, kind: str, value: str
) -> None:
    known_ancestry(lake)
    batch = {"partition": {"experiment": "demo", "batch": "b"}}
    bad = {"reason": "empty", "excerpt": "1 +", "source_file": "s.jsonl", "source_line": 1, "licence": "MIT"}
    store(lake, REJECTED_SEEDS, [Draft(bad)], **batch)
    revoked(lake, kind, value)
    assert readable(lake) == set()


def test_an_experiment_of_its_own_is_spared(lake: Lake) -> None:
    known = known_ancestry(lake)
    _, (other,) = store(lake, SEEDS, [seed_draft()], partition={"experiment": "other", "batch": "b"})
    revoked(lake, "seed", known.seed, "demo")
    assert other in readable(lake)
    revoked(lake, "seed", known.seed)  # the same question, wherever
    assert other not in readable(lake)


@pytest.mark.parametrize(
    ("kind", "value", "why", "said"),
    [
        ("seed", "seed:ffff", "x", "no record id starts with 'seed:ffff'"),
        ("source-file", "no.jsonl", "x", "nothing in the lake has the source-file 'no.jsonl'"),
        ("licence", "no", "x", "nothing in the lake has the licence 'no'"),
        ("seed", "ex:", "x", "is not a seed but a row of lmsi/filtered_dataset"),
        ("seed", "seed:", " ", "a revocation needs a reason"),
        ("person", "ann", "x", "a person cannot be revoked"),
    ],
)
def test_what_cannot_be_revoked_is_said(lake: Lake, kind: str, value: str, why: str, said: str) -> None:
    known_ancestry(lake)
    with pytest.raises((RevocationError, RecordNotFound), match=said):
        revoke(lake, kind, value, None, "ann", why)
    assert lake.ledger.revocations() == []


def test_revoking_twice_is_revoking_once(lake: Lake) -> None:
    known = known_ancestry(lake)
    first = revoked(lake, "seed", known.seed)
    again = revoke(lake, "seed", known.seed, None, "ben", "again")
    assert again.known
    assert [one.id for one in lake.ledger.revocations()] == [first.revocation.id]
    assert again.fallen.equals(first.fallen)


def test_the_ledger_says_who_why_when_and_what_fell(lake: Lake) -> None:
    known = known_ancestry(lake)
    settled = revoked(lake, "record", known.paths[0])
    (one,) = lake.ledger.revocations()
    assert (one.kind, one.value, one.by, one.why) == ("record", known.paths[0], "ann", "the author asked")
    assert sum(one.events["applied"]["fallen"].values()) == len(settled.fallen)
    manifest = lake.manifest(RAW_GENERATIONS.name, partition_of("demo", 0))
    assert lake.withdrawn(manifest) == {known.paths[0]: one.id}


def test_restoring_brings_all_back_but_for_what_fell_with_another(lake: Lake) -> None:
    known = known_ancestry(lake)
    before = readable(lake)
    all_of_it = revoked(lake, "seed", known.seed).revocation
    example = revoked(lake, "record", known.example).revocation
    restore(lake, all_of_it.id, "ben", "a mistake")
    assert readable(lake) == before - {known.example}
    with pytest.raises(RevocationError, match="is already lifted"):
        restore(lake, all_of_it.id, "ben", "a mistake")
    restore(lake, example.id[:12], "ben", "a mistake")
    assert readable(lake) == before
    assert revoked(lake, "seed", known.seed).revocation.events == {}, "it can be revoked anew"
    assert known.seed not in readable(lake)


Dag = list[list[int]]


@st.composite
def dags(draw: st.DrawFn) -> tuple[Dag, int]:
    size = draw(st.integers(2, 14))
    earlier = [st.integers(0, max(node - 1, 0)) for node in range(size)]
    parents = [draw(st.lists(nodes, max_size=3, unique=True)) for nodes in earlier]
    parents[0] = []
    return parents, draw(st.integers(0, size - 1))


@given(dags())
@settings(max_examples=10)
def test_whatever_the_ancestry_exactly_the_descendants_fall(
    tmp_path_factory: pytest.TempPathFactory, dag: tuple[Dag, int]
) -> None:
    parents, root = dag
    lake = Lake(tmp_path_factory.mktemp("dag") / "lake")
    ids: list[str] = []
    for node, edges in enumerate(parents):  # two rows a partition: the second may name the first
        content = seed_draft(f"{node}?").content
        activity = activity_of(SEED_POOL, node // 2, parameters={"pair": node // 2})
        drafts = [Draft(content, [Parent(ids[edge], "seed") for edge in edges])]
        frame = build_records(SEED_POOL, drafts, activity)
        ids += frame["id"].to_list()
        if node % 2:
            earlier = lake.read_whole(lake.manifest(SEED_POOL.name, activity.partition))
            frame = pl.concat([earlier, frame])
        lake.write(SEED_POOL, activity, frame)
    fallen = {root}
    for node, edges in enumerate(parents):
        if fallen & set(edges):
            fallen.add(node)
    settled = revoked(lake, "record", ids[root])
    assert set(settled.fallen["id"]) == {ids[node] for node in fallen}
    assert readable(lake) == set(ids) - {ids[node] for node in fallen}
    restore(lake, settled.revocation.id, "ann", "never mind")
    assert readable(lake) == set(ids)


# ---- while others write ---------------------------------------------------------------------------------


def test_what_was_read_before_and_committed_after_falls_too(lake: Lake) -> None:
    known = known_ancestry(lake)
    revoked(lake, "seed", known.seed)
    child = Draft(seed_draft("of the path?").content, [Parent(known.paths[1], "seed")])
    _, (late,) = store(lake, SEED_POOL, [child], iteration=1)
    _, (later,) = store(
        lake, SEED_POOL, [Draft(seed_draft("of it?").content, [Parent(late, "seed")])], iteration=2
    )
    _, (free,) = store(lake, SEED_POOL, [seed_draft("free?")], iteration=3)
    assert readable(lake) & {late, later, free} == {free}


def test_no_descendant_slips_through_while_partitions_are_written(lake: Lake) -> None:
    """Three threads build on rows that they read; the seed falls in their midst."""
    known = known_ancestry(lake)
    made: list[str] = []
    stop = threading.Event()

    def build(number: int) -> None:
        last, iteration = known.question, 100 * (number + 1)
        while not stop.is_set():
            child = Draft(seed_draft(f"{iteration}?").content, [Parent(last, "seed")])
            _, (last,) = store(lake, SEED_POOL, [child], iteration=iteration)
            made.append(last)
            iteration += 1

    threads = [threading.Thread(target=build, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while len(made) < 12:
        stop.wait(0.01)
    at = len(made)
    revoked(lake, "seed", known.seed)
    while len(made) < at + 12:
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert not readable(lake) & set(made)


def test_a_partition_that_is_made_anew_keeps_its_fallen_rows_known(lake: Lake) -> None:
    """A slow stage may still hold rows of the partition as it was."""
    known = known_ancestry(lake)
    revoked(lake, "record", known.paths[0])
    store(lake, RAW_GENERATIONS, [], seed=99)
    child = Draft(seed_draft("late?").content, [Parent(known.paths[0], "seed")])
    _, (late,) = store(lake, SEED_POOL, [child], iteration=1)
    assert late not in readable(lake)


# ---- imports --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [{"question": "How many legs has an ant?"}, {"question": "How many legs has a cat?"}]
    write_lines(tmp_path / "seeds.jsonl", lines)
    return tmp_path


def rejected(lake: Lake) -> dict[str, str]:
    frames = [lake.read_whole(manifest) for manifest in lake.manifests(REJECTED_SEEDS.name)]
    return dict(pl.concat(frames).select("reason", "excerpt").iter_rows())


def test_a_revoked_question_is_not_imported_again(lake: Lake, folder: Path) -> None:
    experiment = make_experiment(folder)
    manifest, *_ = seeds.import_seeds(lake, experiment, experiment.seeds)
    ant = lake.read_ungated(manifest).filter(pl.col("question").str.contains("ant"))["id"][0]
    settled = revoked(lake, "seed", ant)
    assert seeds.pool(lake, experiment, 0).chosen["question"].to_list() == ["How many legs has a cat?"]
    purge(lake, settled.revocation)
    again = ["how many  legs has an ANT?", "How many  legs has an ant?", "How many legs has a dog?"]
    other = write_lines(folder / "more.jsonl", [{"question": text} for text in again])
    source = experiment.seeds.model_copy(update={"file": str(other)})
    _, accepted, turned_away = seeds.import_seeds(lake, experiment, source)
    assert (accepted, turned_away) == (1, 2)
    assert rejected(lake) == {"revoked by ann: the author asked": "", "duplicate of line 1": ""}
    assert not grep(lake, "an ant")


@pytest.mark.parametrize(("kind", "value"), [("source-file", "seeds.jsonl"), ("licence", "MIT")])
def test_a_revoked_file_or_licence_is_not_imported_again(
    lake: Lake, folder: Path, kind: str, value: str
) -> None:
    experiment = make_experiment(folder)
    seeds.import_seeds(lake, experiment, experiment.seeds)
    revoked(lake, kind, value)
    write_lines(folder / "seeds.jsonl", [{"question": "How many wings has a bee?"}, {"q": "a bee?"}])
    _, accepted, turned_away = seeds.import_seeds(lake, experiment, experiment.seeds)
    assert (accepted, turned_away) == (0, 2)
    assert "bee" not in str(rejected(lake))
    with pytest.raises(SeedFileError, match=r"every line of its seed file was rejected.*revocations"):
        seeds.pool(lake, experiment, 0)


def test_a_prompt_without_demonstrations_is_refused(lake: Lake, folder: Path) -> None:
    worked = [{"question": f"{n} + 1?", "reasoning": "So.", "answer": str(n + 1)} for n in range(2)]
    write_lines(folder / "worked.jsonl", worked)
    experiment = make_experiment(folder, demonstrations={"file": "worked.jsonl", "count": 2})
    shown, _ = demonstrations(lake, experiment, "few_shot_cot")
    revoked(lake, "record", shown[0].id)
    left, _ = demonstrations(lake, experiment, "few_shot_cot")
    assert [example.id for example in left] == [shown[1].id]
    revoked(lake, "source-file", "worked.jsonl")
    with pytest.raises(SeedFileError, match="has no demonstrations left for its few-shot prompts"):
        demonstrations(lake, experiment, "few_shot_cot")


# ---- purge ----------------------------------------------------------------------------------------------


def grep(lake: Lake, text: str) -> list[str]:
    """Files of the lake that hold the text, raw or within their Parquet columns."""
    found = []
    for path in lake.root.rglob("*"):
        if path.is_file():
            said = path.read_bytes()
            if path.suffix == ".parquet":
                said += str(pl.read_parquet(path, hive_partitioning=False).to_dicts()).encode()
            if text.encode() in said:
                found.append(path.name)
    return found


def test_a_purge_leaves_no_word_on_the_disk(lake: Lake) -> None:
    known = known_ancestry(lake, TEXT)
    leftover = activity_of(RAW_GENERATIONS, seed=5)
    paths = lake.read_whole(lake.manifest(RAW_GENERATIONS.name, partition_of("demo", 0)))
    with lake.writer(RAW_GENERATIONS, leftover) as writer:
        writer.write_shard(0, paths)  # a killed run of the same stage
    with lake.writer(RAW_GENERATIONS, replace(leftover, partition=partition_of("demo", 7))) as writer:
        writer.write_shard(0, paths)
    settled = revoked(lake, "record", known.question)
    live = readable(lake)
    assert len(grep(lake, TEXT)) == 4
    purged = purge(lake, settled.revocation)
    assert grep(lake, TEXT) == []
    assert purged.leftovers == 1, "the other went with its partition"
    assert purged.rows["lmsi/raw_generations"] == 4
    assert readable(lake) == live == on_disk(lake)
    assert verify(lake).findings == []
    manifest = lake.manifest(RAW_GENERATIONS.name, partition_of("demo", 0))
    assert (manifest.rows, manifest.purged, len(lake.withdrawn(manifest))) == (0, 4, 4)
    with pytest.raises(RevocationError, match="was purged"):
        restore(lake, settled.revocation.id, "ann", "too late")


def test_a_purge_that_was_killed_goes_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_ancestry(lake, TEXT)
    settled = revoked(lake, "seed", known.seed)
    from selfimprove_dagster.lake.partition import PartitionWriter

    commit, calls = PartitionWriter.commit, iter(range(100))

    def killed(self: PartitionWriter) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return commit(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartitionWriter, "commit", killed)
        purge(lake, settled.revocation)
    assert verify(lake).findings == []
    assert grep(lake, TEXT)
    again = revoked(lake, "seed", known.seed)
    assert again.known
    purge(lake, again.revocation)
    assert grep(lake, TEXT) == []
    assert verify(lake).findings == []
    assert "purged" in lake.ledger.revocations()[0].events


def test_a_purged_row_that_is_made_again_does_not_come_back(lake: Lake) -> None:
    known = known_ancestry(lake, TEXT)
    activity = lake.manifest(FILTERED_DATASET.name, partition_of("demo", 0)).activity
    frame = lake.read_whole(lake.manifest(FILTERED_DATASET.name, partition_of("demo", 0)))
    purge(lake, revoked(lake, "record", known.example).revocation)
    lake.write(FILTERED_DATASET, activity, frame)
    assert lake.read_whole(lake.manifest(FILTERED_DATASET.name, activity.partition)).is_empty()
    assert verify(lake).findings == []


def test_a_purge_says_where_the_same_words_stand_by_chance(lake: Lake) -> None:
    known = known_ancestry(lake, TEXT)
    purged = purge(lake, revoked(lake, "record", known.paths[1]).revocation)
    assert {(left.table, left.column) for left in purged.remainders} >= {("lmsi/raw_generations", "text")}


def test_a_partition_that_is_being_written_is_not_purged(lake: Lake) -> None:
    known = known_ancestry(lake)
    settled = revoked(lake, "seed", known.seed)
    manifest = lake.manifest(RAW_GENERATIONS.name, partition_of("demo", 0))
    with (
        lake.writer(RAW_GENERATIONS, manifest.activity),
        pytest.raises(PartitionBusy, match="is being written by another process"),
    ):
        purge(lake, settled.revocation)


# ---- champions ------------------------------------------------------------------------------------------


@pytest.fixture
def home(finished_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A finished home of one's own."""
    shutil.copytree(finished_home.root, tmp_path / "home")
    copy = Home(root=tmp_path / "home", experiments=finished_home.experiments)
    monkeypatch.setenv("SELFIMPROVE_HOME", str(copy.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(copy.experiments))
    monkeypatch.setenv("DAGSTER_HOME", str(copy.dagster))
    yield copy


def promote_all(home: Home) -> None:
    """As if every checkpoint had been promoted: four steps of training promote nothing."""
    for manifest in home.lake.manifests("lmsi/promotion"):
        row = home.lake.read_whole(manifest).row(0, named=True)
        schema = PROMOTION
        draft = Draft(
            {**{name: row[name] for name in schema.content}, "promoted": True},
            [Parent(parent["id"], parent["role"]) for parent in row["parents"]],
            {name: row[name] for name in schema.measures},
        )
        home.lake.write(schema, manifest.activity, build_records(schema, [draft], manifest.activity))


def dataset_rows(home: Home, iteration: int) -> pl.DataFrame:
    return home.lake.read_ungated(home.lake.manifest(FILTERED_DATASET.name, partition_of("small", iteration)))


@pytest.mark.rotates
def test_the_champion_falls_back_and_the_next_iteration_starts_there(home: Home) -> None:
    from selfimprove_dagster.runs import run_iteration

    promote_all(home)
    lake, experiment = home.lake, home.experiment("small")
    assert champion_before(lake, experiment, 2).iteration == 1
    example = dataset_rows(home, 1)["id"][0]
    settled = revoked(lake, "record", example)
    assert champion_before(lake, experiment, 2).iteration == 0
    assert [bool(row.tainted) for row in results(lake, experiment)] == [False, True]
    assert results(lake, experiment)[1].counts["kept"] == len(dataset_rows(home, 1))
    exported = home.root / "export"
    export_dataset(lake, experiment, exported, 1, "parquet")
    assert example not in set(pl.read_parquet(exported / "train.parquet")["id"])

    assert run_iteration(home, experiment, 2) == []
    generations = lake.manifest(RAW_GENERATIONS.name, partition_of("small", 2))
    clean = champion_before(lake, experiment, 2)
    assert (generations.activity.model_id, clean.iteration) == (clean.model_id, 0)

    # The first iteration falls too: what its checkpoint started, and wrote, is tainted with it.
    revoked(lake, "record", dataset_rows(home, 0)["id"][0])
    assert champion_before(lake, experiment, 3).iteration is None
    reasons = list(tainted_models(lake, "small").values())
    assert any("examples that were revoked" in reason for reason in reasons)
    assert any("which is tainted" in reason for reason in reasons)
    restore(lake, settled.revocation.id, "ann", "fine")
    assert champion_before(lake, experiment, 3).iteration is None


@pytest.mark.rotates
def test_a_checkpoint_that_is_retrained_without_them_is_clean(home: Home) -> None:
    from selfimprove_dagster.runs import run_iteration

    promote_all(home)
    lake, experiment = home.lake, home.experiment("small")
    old = lake.read(FINE_TUNED_CHECKPOINT.name, partition_of("small", 1))["model_id"][0]
    gone = dataset_rows(home, 1)["id"].to_list()[0]
    settled = revoked(lake, "record", gone)
    assert set(tainted_models(lake, "small")) == {old}
    assert run_iteration(home, experiment, 1) == []
    retrained = lake.manifest(FINE_TUNED_CHECKPOINT.name, partition_of("small", 1))
    assert "withdrawn" in retrained.activity.parameters
    assert retrained.activity.about["revocations"] == [settled.revocation.id]
    new = lake.read_ungated(retrained)["model_id"][0]
    assert new not in tainted_models(lake, "small")
    assert old in tainted_models(lake, "small"), "it stays on record"
    assert verify(lake, "small").findings == []
