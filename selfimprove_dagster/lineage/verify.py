"""Verify that the lake still holds what was committed.

Everything that can be derived is recomputed: checksums of files, ids and hashes of rows, ids of activities,
counts, parents, checkpoints. A row that was forged together with its ids, its file's checksum and the
manifest is consistent with itself and can only be detected with an anchor outside the lake. `digest` is that
anchor: store it elsewhere and pass it as `expect`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import (
    Manifest,
    load_manifest,
    loose_files,
    partition_folders,
    read_parquet,
)
from selfimprove_dagster.lake.records import canonical_json, recompute_ids
from selfimprove_dagster.lineage.known import KnownIds, known_ids
from selfimprove_dagster.table import Table

Progress = Callable[[int], None]


_SHOWN = 20
"""Maximum number of findings of one kind that are listed per file."""


@dataclass(frozen=True)
class Finding:
    """A problem and its place. `kind` is changed, lost, added or unreadable; `file` and `row` may be ""."""

    kind: str
    table: str
    partition: str
    file: str
    row: str
    problem: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.table, self.partition, self.file) if part)
        return f"{self.kind}: {place}{' ' + self.row if self.row else ''}: {self.problem}"


@dataclass
class Report:
    """The findings. `notes` are not errors: shards that were never committed, stages that are stale, models
    without weights, which were pruned or left out of a copy.
    """

    digest: str = ""
    partitions: int = 0
    files: int = 0
    rows: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def verify(
    lake: Lake, experiment: str | None = None, expect: str | None = None, progress: Progress | None = None
) -> Report:
    """Check an experiment, or the whole lake; `progress` is called with numbers of checked rows.

    With `expect`, the digest of an earlier report, a lake with different files is a finding.
    """
    started = time.monotonic()
    report = Report()
    withdrawn = (
        lake.ledger.all_withdrawn()["id"] if _check_ledger(lake, report) else pl.Series([], dtype=pl.String)
    )
    with known_ids() as known:
        known.withdraw(withdrawn)
        activities = set(_add_ids(lake, known))
        manifests = [
            manifest
            for path in lake.store.glob(lake.root, f"*/*/experiment={experiment or '*'}/*/manifest.json")
            if (manifest := _manifest(lake, path, report)) is not None
        ]
        for manifest in manifests:
            before = len(report.findings)
            whole = _check_partition(lake, manifest, report, progress or (lambda rows: None))
            _check_parents(manifest, whole, known, activities, report)
            if len(report.findings) > before and _made_anew(manifest):
                del report.findings[before:]
                problem = "it was materialised again during the check; run verify again"
                report.notes.append(Finding("stale", manifest.table, _partition(manifest), "", "", problem))
        _check_uniqueness(known, manifests, report)
    _note_loose_files(lake, experiment, report)
    report.digest = digest(manifests)
    if expect is not None and expect != report.digest:
        problem = f"the digest is {report.digest}, not {expect}: partitions were committed, or forged, since"
        report.findings.append(Finding("changed", "", "", "", "", problem))
    report.partitions = len(manifests)
    report.seconds = time.monotonic() - started
    return report


def digest(manifests: Iterable[Manifest]) -> str:
    """Return `b2:` and a hash of the sorted checksums of all files that the manifests name."""
    files = sorted(
        (manifest.table, _partition(manifest), file.name, file.checksum)
        for manifest in manifests
        for file in manifest.files
    )
    return "b2:" + blake2b(canonical_json(files), digest_size=16).hexdigest()


def _add_ids(lake: Lake, known: KnownIds) -> Iterator[str]:
    """Add the ids of every row that can be read, which parents may refer to; yield the ids of all activities."""
    for path in lake.store.glob(lake.root, "*/*/experiment=*/*/manifest.json"):
        try:
            manifest = load_manifest(path, lake.store)
        except (ValueError, KeyError, TypeError):
            continue
        yield manifest.activity.id
        for file in manifest.paths:
            try:
                rows = read_parquet(file, ["id", "activity_id"])
            except (OSError, pl.exceptions.PolarsError):
                continue
            known.add(rows, f"{manifest.table}/{_partition(manifest)}/{file.name}")


def _manifest(lake: Lake, path: Path, report: Report) -> Manifest | None:
    """Return the manifest, if it can be read. Its place and its id must match its content."""
    table = "/".join(path.relative_to(lake.root).parts[:2])
    partition = "/".join(path.relative_to(lake.root).parts[2:4])

    def found(kind: str, problem: str) -> None:
        report.findings.append(Finding(kind, table, partition, path.name, "", problem))

    try:
        data: dict[str, Any] = json.loads(path.read_text())
        manifest = load_manifest(path, lake.store)
    except (OSError, ValueError, KeyError, TypeError) as error:
        found("unreadable", f"the manifest cannot be read ({type(error).__name__}: {error})")
        return None
    activity = manifest.activity
    places = {(manifest.table, _partition(manifest)), (activity.table, _partition(manifest, activity=True))}
    if places != {(table, partition)}:
        found("changed", "the manifest belongs to another table or partition than its folder")
    if data["activity"]["id"] != activity.id:
        found("changed", f"the activity's id does not match its content, which gives {activity.id}")
    if data["rows"] != manifest.rows:
        found("changed", f"the manifest counts {data['rows']:,} rows, its files {manifest.rows:,}")
    return manifest


def _check_partition(lake: Lake, manifest: Manifest, report: Report, progress: Progress) -> list[Path]:
    """Check the rows of a partition, each by itself; return the files that can be read."""
    table, whole = registry.table_of(manifest), []
    for file in manifest.files:
        path = manifest.directory / file.name
        lake.store.bring([path], anew=True)
        report.files += 1

        def found(kind: str, problem: str, *, name: str = file.name) -> None:
            report.findings.append(Finding(kind, manifest.table, _partition(manifest), name, "", problem))

        if not path.is_file():
            found("lost", f"the file is missing, and {file.rows:,} rows with it")
            continue
        if file_checksum(path) != file.checksum:
            found("changed", "the file was changed after the commit: its checksum differs")
        try:
            rows = read_parquet(path)
            rows = rows.select(pl.col(c).cast(d) for c, d in table.stored(rows.columns).items())
        except (OSError, pl.exceptions.PolarsError) as error:
            found("unreadable", f"the file cannot be read: {str(error).splitlines()[0]}")
            continue
        whole.append(path)
        if len(rows) > file.rows:
            found("added", f"the file has {len(rows):,} rows, but {file.rows:,} were committed")
        if len(rows) < file.rows:
            found("lost", f"the file has {len(rows):,} rows, but {file.rows:,} were committed")
        for piece in rows.iter_slices(2_000):
            for kind, problem, faulty in _faults(lake, manifest, table, piece, report):
                _list(report, manifest, file.name, kind, problem, [*map(str, faulty)], len(faulty))
            report.rows += len(piece)
            progress(len(piece))
    return whole


def _faults(
    lake: Lake, manifest: Manifest, table: Table, rows: pl.DataFrame, report: Report
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield kind, problem and ids of the rows whose id, hash or activity does not match their content."""
    whole = rows.drop_nulls(["id", "parents", "activity_id", "sample_index"])
    if len(whole) < len(rows):
        yield "changed", "rows lack an id, parents, an activity or a sample index", [""]
    computed = recompute_ids(table, whole)
    wrong = whole.filter(whole["content_hash"].ne_missing(computed["content_hash"]))
    yield "changed", "its content hash does not match its content", wrong["id"].to_list()
    wrong = whole.filter(whole["id"] != computed["id"])
    yield "changed", "its id does not match its content", wrong["id"].to_list()
    wrong = whole.filter(pl.col("activity_id") != manifest.activity.id)
    yield "added", "its activity is not that of its partition", wrong["id"].to_list()
    if table.holds_model:
        yield from _changed_checkpoints(lake, manifest, whole, report)


def _check_parents(
    manifest: Manifest, files: Sequence[Path], known: KnownIds, activities: Set[str], report: Report
) -> None:
    """Check that every parent of the rows of `files` exists, and was read by the activity of the partition."""

    if not files:
        return
    inputs = manifest.activity.inputs  # empty where the activity does not record them
    read = [*inputs, manifest.activity.id, *_made_together(manifest)] if inputs else []
    try:
        with known.loose(files, read) as loose:
            absent = loose.absent(_SHOWN)
            strange, datasets = (loose.strange(_SHOWN), loose.datasets(read, _SHOWN)) if inputs else ([], [])
    except duckdb.Error as error:  # a file that was there when its rows were checked
        problem = f"the parents of its rows cannot be read: {str(error).splitlines()[0]}"
        report.findings.append(Finding("unreadable", manifest.table, _partition(manifest), "", "", problem))
        return
    if absent and set(inputs) - activities:
        problem = (
            f"{sum(one.count for one in absent):,} rows were made from an input that was materialised again; "
            "materialise them again, too"
        )
        report.notes.append(Finding("stale", manifest.table, _partition(manifest), "", "", problem))
        absent = []
    for kind, problem, rows in (
        ("lost", "one of its parents is missing ({parent})", absent),
        ("changed", "one of its parents was not read by its activity", strange),
        ("changed", "a dataset that it names was not read by its activity", datasets),
    ):
        for one in rows:
            _list(report, manifest, one.file, kind, problem.format(parent=one.parent), one.ids, one.count)


def _list(
    report: Report,
    manifest: Manifest,
    file: str,
    kind: str,
    problem: str,
    rows: Sequence[str],
    count: int,
) -> None:
    """Add a finding for each of the first rows of a file with the same fault, and one for the rest of them."""

    def found(row: str, problem: str) -> None:
        report.findings.append(Finding(kind, manifest.table, _partition(manifest), file, row, problem))

    for row in rows[:_SHOWN]:
        found(row, problem)
    if count > _SHOWN:
        found("", f"{problem} (and {count - _SHOWN:,} more of its kind)")


def _made_together(manifest: Manifest) -> Iterator[str]:
    """Return the activity of the companion table whose rows may be parents of its rows."""
    table = registry.table_of(manifest)
    if table.made_with:
        root = manifest.directory.parents[3]
        beside = root / table.made_with / Path(*manifest.directory.parts[-2:]) / "manifest.json"
        manifest.store.bring([beside])
        if beside.is_file():
            yield load_manifest(beside, manifest.store).activity.id


def _changed_checkpoints(
    lake: Lake, manifest: Manifest, rows: pl.DataFrame, report: Report
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the models whose weights differ from the recorded ones; note those without weights, such as pruned ones."""
    from selfimprove_dagster.language_model.weights import WEIGHT_PATTERN, model_id
    from selfimprove_dagster.pruned import pruned

    for row in rows.iter_rows(named=True):
        folder = lake.model_at(row["path"] or "")
        if not folder or not Path(folder).is_dir():
            continue
        if (gone := pruned(folder)) is not None:
            problem = f"the weights in {folder} cannot be checked: its {gone}"
            report.notes.append(
                Finding("pruned", manifest.table, _partition(manifest), "", row["id"], problem)
            )
            continue
        if not any(Path(folder).glob(WEIGHT_PATTERN)):
            problem = f"the weights in {folder} cannot be checked: they are not there"
            report.notes.append(
                Finding("missing", manifest.table, _partition(manifest), "", row["id"], problem)
            )
            continue
        problem = f"the weights in {folder} differ from those that were trained"
        try:
            changed = model_id(folder) != row["model_id"]
        except (OSError, ModelError) as error:
            changed, problem = True, f"{problem}: {error}"
        if changed:
            yield "changed", problem, [row["id"]]


def _check_uniqueness(known: KnownIds, manifests: Iterable[Manifest], report: Report) -> None:
    looked_at = {f"{manifest.table}/{_partition(manifest)}" for manifest in manifests}
    for row, places in known.repeated():
        method, stage, *partition, file = places[-1].split("/")
        if f"{method}/{stage}/{'/'.join(partition)}" in looked_at:
            shown = ", ".join(f"{count} × {spot}" for spot, count in Counter(places).items())
            problem = f"its id occurs more than once: {shown}"
            report.findings.append(
                Finding("added", f"{method}/{stage}", "/".join(partition), file, row, problem)
            )


def _note_loose_files(lake: Lake, experiment: str | None, report: Report) -> None:
    """Note shards that no manifest names: left by a killed run, or being written by a running one."""
    for directory in partition_folders(lake.root, experiment or "*", lake.store):
        try:
            lake.store.bring([path := directory / "manifest.json"])
            manifest = load_manifest(path, lake.store)
        except FileNotFoundError:
            manifest = None
        except (OSError, ValueError, KeyError, TypeError):
            continue
        table, partition = "/".join(directory.parts[-4:-2]), "/".join(directory.parts[-2:])
        for path in loose_files(directory, manifest, lake.store):
            problem = "no manifest names this file: an unfinished run left it, or is writing it"
            report.notes.append(Finding("uncommitted", table, partition, path.name, "", problem))


def _check_ledger(lake: Lake, report: Report) -> bool:
    """Check that the id of each revocation matches its content. Return whether revoked rows can be read."""
    readable = True
    for path in lake.store.glob(lake.ledger.folder, "withdrawn/*.parquet"):
        try:
            read_parquet(path, ["id", "revocation"])
        except pl.exceptions.PolarsError:
            problem = "the list of withdrawn rows cannot be read; run the revocation again"
            report.findings.append(Finding("unreadable", "revocations", "withdrawn", path.name, "", problem))
            readable = False
    try:
        revocations = lake.ledger.revocations()
    except (ValueError, KeyError, TypeError) as error:
        problem = f"a revocation cannot be read ({type(error).__name__}: {error})"
        report.findings.append(Finding("unreadable", "revocations", "", "", "", problem))
        return readable
    files = {
        "rev:" + path.stem for path in lake.store.glob(lake.ledger.folder, "*.json") if "." not in path.stem
    }
    for name in sorted(files ^ {one.id for one in revocations}):
        problem = "the revocation's id does not match its content"
        report.findings.append(Finding("changed", "revocations", "", "", name, problem))
    return readable


def _made_anew(manifest: Manifest) -> bool:
    try:
        manifest.store.bring([path := manifest.directory / "manifest.json"])
        return load_manifest(path, manifest.store) != manifest
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _partition(manifest: Manifest, *, activity: bool = False) -> str:
    partition = manifest.activity.partition if activity else manifest.partition
    return "/".join(f"{key}={value}" for key, value in partition.items())
