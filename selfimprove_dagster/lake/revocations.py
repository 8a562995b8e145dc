"""What was revoked, and which rows fell with it.

    <lake>/.lock                            commits and revocations take turns under it
    <lake>/revocations/
        <hex>.json                          one revocation: what, who, why, when; never changed
        <hex>.applied.json                  what fell, by table, and which models were tainted
        <hex>.lifted.json                   it was restored: who, why, when
        <hex>.purging.json, .purged.json    its text is being, or has been, removed from the disk
        withdrawn/<activity>.parquet        `id, revocation`: the fallen rows of one activity

Everything here only grows. A row is withdrawn as long as one revocation that it fell with is not lifted, so
to lift one is to write one file. What an activity lost stays known after its partition was made anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from selfimprove_dagster.lake.disk import file_system_errors, write_atomically
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.text import normalise_question

KINDS = ("seed", "record", "source-file", "licence")


_EVENTS = ("applied", "lifted", "purging", "purged")


_PAIRS = {"id": pl.String, "revocation": pl.String}


def question_hash(question: str) -> str:
    """The hash of a normalised question: knows the same question again and gives nothing of it away."""
    return content_hash({"question": normalise_question(question)})


@dataclass(frozen=True)
class Revocation:
    """One revocation. `experiment` is None when it holds for all; `events` is what happened to it since."""

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
        """`rev:<hex>` of everything but the events."""
        return "rev:" + content_hash(self.to_json()).removeprefix("b2:")

    @property
    def live(self) -> bool:
        return "lifted" not in self.events

    def to_json(self) -> dict[str, Any]:
        """Plain data, as the ledger stores it."""
        data = {name: value for name, value in vars(self).items() if name != "events"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    def holds_for(self, experiment: str) -> bool:
        return self.live and self.experiment in (None, experiment)

    def names(self, source_file: str, licence: str, question: str | None) -> bool:
        """Whether it names a question by its file, its licence or its words (None: not known)."""
        if self.kind == "source-file":
            return source_file == self.value
        if self.kind == "licence":
            return licence == self.value
        if question is None or not self.question_hashes:
            return False
        return question_hash(question) in self.question_hashes


def seed_text(row: Mapping[str, Any]) -> str | None:
    """The words of a seed, question, task or prompt, by which it is known again; None of a rejected line.

    A comparison is known by its prompt, whatever responses it compares.
    """
    return row.get("question") or row.get("instruction") or row.get("prompt")


class Ledger:
    """The revocations of the lake under `root`. Whoever adds to it holds `lock`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "revocations"

    def lock(self) -> FileLock:
        """Held while a partition is committed and while a revocation is applied; one thread may nest it."""
        with file_system_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".lock", is_singleton=True)

    def revocations(self, experiment: str | None = None) -> list[Revocation]:
        """All of them, lifted or not, oldest first; or those live ones that hold for an experiment."""
        found = [self._load(path) for path in self.folder.glob("*.json") if not path.stem.endswith(_EVENTS)]
        found.sort(key=lambda revocation: (revocation.at, revocation.id))
        return [one for one in found if experiment is None or one.holds_for(experiment)]

    def named(self, experiment: str, rows: pl.DataFrame) -> pl.DataFrame:
        """`id, revocation` of those rows of a table of seeds that the live revocations name."""
        pairs = [
            (row["id"], revocation.id)
            for revocation in self.revocations(experiment)
            for row in rows.iter_rows(named=True)
            if row.get("excerpt") != ""  # a line that was turned away for a revocation, without its text
            and revocation.names(row["source_file"], row["licence"], seed_text(row))
        ]
        return pl.DataFrame(pairs, schema=_PAIRS, orient="row")

    def record(self, revocation: Revocation) -> None:
        """Add a revocation."""
        self._write(_hex(revocation.id), revocation.to_json())

    def note(self, revocation: str, event: str, data: Mapping[str, Any]) -> None:
        """Add what happened to one."""
        self._write(f"{_hex(revocation)}.{event}", data)

    def has(self, event: str) -> set[str]:
        """Ids of the revocations to which that happened."""
        return {"rev:" + path.name.split(".")[0] for path in self.folder.glob(f"*.{event}.json")}

    # ---- withdrawn rows ------------------------------------------------------------------------------

    def withdrawn_file(self, activity_id: str) -> Path:
        """Where the fallen rows of an activity are listed, if any fell."""
        return self.folder / "withdrawn" / f"{_hex(activity_id)}.parquet"

    def withdrawn(self, activity_id: str) -> pl.DataFrame:
        """`id, revocation` of an activity's withdrawn rows, sorted; live revocations alone count.

        A row that fell with several of them stands there several times.
        """
        return self._live([self.withdrawn_file(activity_id)])

    def all_withdrawn(self) -> pl.DataFrame:
        """The same over all activities, those that were made anew included."""
        return self._live(sorted((self.folder / "withdrawn").glob("*.parquet")))

    def withdraw(self, activity_id: str, pairs: pl.DataFrame) -> None:
        """Let rows of an activity fall: `pairs` has columns `id, revocation`."""
        path = self.withdrawn_file(activity_id)
        known = _read(path)
        merged = pl.concat([known, pairs.select(*_PAIRS)]).unique().sort("id", "revocation")
        if len(merged) == len(known):
            return
        with file_system_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        merged.write_parquet(stream, compression="zstd")
        write_atomically(path, stream.getvalue())

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
        with file_system_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False).encode(errors="replace"))


def now() -> str:
    """The time as the ledger states it: UTC, so fine that what is lifted can be revoked anew at once."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def fall(edges: pl.DataFrame, withdrawn: pl.DataFrame) -> pl.DataFrame:
    """All that falls with the withdrawn rows (`id, revocation`) along the edges (`child, parent`), they too.

    A row falls when a row that it names as its parent has fallen. Checkpoints do not: they name their
    dataset as a whole, and are tainted instead.
    """
    fallen = fresh = withdrawn.select(*_PAIRS).unique()
    while not fresh.is_empty():
        reached = edges.join(fresh, left_on="parent", right_on="id").select("revocation", id="child")
        fresh = reached.select(*_PAIRS).unique().join(fallen, on=list(_PAIRS), how="anti")
        fallen = pl.concat([fallen, fresh])
    return fallen


def edges_of(rows: pl.DataFrame) -> pl.DataFrame:
    """`child, parent` for rows with columns `id, parents`."""
    edges = rows.select("id", "parents").explode("parents", empty_as_null=False)
    return edges.select(child="id", parent=pl.col("parents").struct.field("id"))


def _hex(identifier: str) -> str:
    return identifier.split(":")[-1]


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        return pl.DataFrame(schema=_PAIRS)
    return pl.read_parquet(path, hive_partitioning=False, glob=False)
