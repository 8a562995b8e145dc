"""Keep the ledger of revocations and of the rows that they withdraw.

    <lake>/.lock                            serialises commits and revocations
    <lake>/revocations/
        <hex>.json                          one revocation: what, who, why, when; never changed
        <hex>.applied.json                  the withdrawn rows by table, and the tainted models
        <hex>.lifted.json                   it was lifted: who, why, when
        <hex>.purging.json, .purged.json    its text is being, or has been, removed from the disk
        withdrawn/<activity>.parquet        `id, revocation`: the withdrawn rows of one activity

The ledger is append-only. A row is withdrawn as long as one of its revocations is not lifted, so lifting one
means writing one file. The withdrawn rows of an activity stay recorded after its partition is materialised
again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.lake.store import DISK, Store
from selfimprove_dagster.text import normalise_question

KINDS = ("seed", "record", "source-file", "licence")


_EVENTS = ("applied", "lifted", "purging", "purged")


_PAIRS = {"id": pl.String, "revocation": pl.String}


def question_hash(question: str) -> str:
    """Return the hash of a normalised question, which identifies the question without revealing it."""
    return content_hash({"question": normalise_question(question)})


@dataclass(frozen=True)
class Revocation:
    """A revocation. `experiment` is None if it applies to all; `events` records what happened to it since."""

    kind: str
    value: str
    experiment: str | None
    roots: tuple[str, ...]
    question_hashes: tuple[str, ...]
    by: str
    why: str
    at: str
    events: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """Return `rev:<hex>`, a hash of everything except the events."""
        return "rev:" + content_hash(self.to_json()).removeprefix("b2:")

    @property
    def live(self) -> bool:
        return "lifted" not in self.events

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as stored in the ledger."""
        data = {name: value for name, value in vars(self).items() if name != "events"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    def holds_for(self, experiment: str) -> bool:
        return self.live and self.experiment in (None, experiment)

    def names(self, source_file: str, licence: str, question: str | None) -> bool:
        """Return whether it covers a question by its file, its licence or its text (None: unknown)."""
        if self.kind == "source-file":
            return source_file == self.value
        if self.kind == "licence":
            return licence == self.value
        if question is None or not self.question_hashes:
            return False
        return question_hash(question) in self.question_hashes


def seed_text(row: Mapping[str, Any]) -> str | None:
    """Return the text that identifies a seed, question, task or prompt; None for a rejected line.

    A comparison is identified by its prompt, regardless of its responses.
    """
    return row.get("question") or row.get("instruction") or row.get("prompt")


class Ledger:
    """The revocations of the lake in `root`. Writers must hold `lock`."""

    def __init__(self, root: Path, store: Store = DISK) -> None:
        self.root = root
        self.store = store
        self.folder = root / "revocations"

    def lock(self) -> AbstractContextManager[Any]:
        """Return the lock for committing partitions and applying revocations; it is reentrant per thread."""
        with file_system_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        return self.store.lock(self.root / ".lock", wait=True)

    def revocations(self, experiment: str | None = None) -> list[Revocation]:
        """Return all revocations, lifted or not, oldest first; or the live ones for an experiment."""
        files = self.store.glob(self.folder, "*.json")
        found = [self._load(path) for path in files if not path.stem.endswith(_EVENTS)]
        found.sort(key=lambda revocation: (revocation.at, revocation.id))
        return [one for one in found if experiment is None or one.holds_for(experiment)]

    def named(self, experiment: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return `id, revocation` of the rows of a seed table that live revocations cover."""
        pairs = [
            (row["id"], revocation.id)
            for revocation in self.revocations(experiment)
            for row in rows.iter_rows(named=True)
            if row.get("excerpt") != ""  # a line that was rejected because of a revocation has no text
            and revocation.names(row["source_file"], row["licence"], seed_text(row))
        ]
        return pl.DataFrame(pairs, schema=_PAIRS, orient="row")

    def record(self, revocation: Revocation) -> None:
        """Add a revocation."""
        self._write(_hex(revocation.id), revocation.to_json())

    def note(self, revocation: str, event: str, data: Mapping[str, Any]) -> None:
        """Add an event of a revocation."""
        self._write(f"{_hex(revocation)}.{event}", data)

    def has(self, event: str) -> set[str]:
        """Return the ids of the revocations with that event."""
        return {"rev:" + path.name.split(".")[0] for path in self.store.glob(self.folder, f"*.{event}.json")}

    # ---- withdrawn rows ------------------------------------------------------------------------------

    def withdrawn_file(self, activity_id: str) -> Path:
        """Return the path of the list of withdrawn rows of an activity, which may be missing."""
        path = self.folder / "withdrawn" / f"{_hex(activity_id)}.parquet"
        self.store.bring([path])
        return path

    def withdrawn(self, activity_id: str) -> pl.DataFrame:
        """Return `id, revocation` of an activity's withdrawn rows, sorted, for live revocations only.

        A row with several revocations is listed several times.
        """
        return self._live([self.withdrawn_file(activity_id)])

    def all_withdrawn(self) -> pl.DataFrame:
        """Return the withdrawn rows of all activities, including replaced ones."""
        return self._live(self.store.glob(self.folder, "withdrawn/*.parquet"))

    def withdraw(self, activity_id: str, pairs: pl.DataFrame) -> None:
        """Withdraw rows of an activity; `pairs` has the columns `id, revocation`."""
        path = self.withdrawn_file(activity_id)
        known = _read(path)
        merged = pl.concat([known, pairs.select(*_PAIRS)]).unique().sort("id", "revocation")
        if len(merged) == len(known):
            return
        stream = io.BytesIO()
        merged.write_parquet(stream, compression="zstd")
        self.store.write(path, stream.getvalue())

    def _live(self, files: list[Path]) -> pl.DataFrame:
        pairs = pl.concat([pl.DataFrame(schema=_PAIRS), *map(_read, files)])
        if pairs.is_empty():
            return pairs
        return pairs.filter(~pl.col("revocation").is_in(list(self.has("lifted"))))

    def _load(self, path: Path) -> Revocation:
        data = json.loads(path.read_text())
        data |= {name: tuple(data[name]) for name in ("roots", "question_hashes")}
        files = {event: path.with_name(f"{path.stem}.{event}.json") for event in _EVENTS}
        events = {event: json.loads(file.read_text()) for event, file in files.items() if file.is_file()}
        return Revocation(**data, events=events)

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        path = self.folder / f"{name}.json"
        self.store.write(path, json.dumps(data, indent=1, ensure_ascii=False).encode(errors="replace"))


def now() -> str:
    """Return the time for the ledger: UTC, precise enough to revoke again directly after lifting."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def fall(edges: pl.DataFrame, withdrawn: pl.DataFrame) -> pl.DataFrame:
    """Return the withdrawn rows (`id, revocation`) and all their descendants along the edges (`child,
    parent`).

    A row is withdrawn if one of its parents is. Checkpoints are not: they name their whole dataset, and are
    tainted instead.
    """
    fallen = fresh = withdrawn.select(*_PAIRS).unique()
    while not fresh.is_empty():
        reached = edges.join(fresh, left_on="parent", right_on="id").select("revocation", id="child")
        fresh = reached.select(*_PAIRS).unique().join(fallen, on=list(_PAIRS), how="anti")
        fallen = pl.concat([fallen, fresh])
    return fallen


def edges_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `child, parent` for rows with columns `id, parents`."""
    edges = rows.select("id", "parents").explode("parents", empty_as_null=False)
    return edges.select(child="id", parent=pl.col("parents").struct.field("id"))


def _hex(identifier: str) -> str:
    return identifier.split(":")[-1]


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        return pl.DataFrame(schema=_PAIRS)
    return pl.read_parquet(path, hive_partitioning=False, glob=False)
