"""What providers are paid for answers, and the answers that were paid for, which are not paid for again.

An answer is kept in the file `responses.sqlite` of the home before the next request is sent. A request that was
answered before is answered from this file, as when a stage resumes after a crash, or an exam asks for the same first
answers in several modes. The money that it cost is counted in the shard whose rows it is first stored with: until then
the answer is not settled. The file holds what models wrote, under the hash of the request, for 30 days; a purge removes
all of it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfimprove_dagster.environment import home_folder

PER = 1_000_000
"""Number of tokens that a price is for."""

KEPT_SECONDS = 30 * 24 * 3600.0
"""Time after which an answer that no stage used is removed."""


def cost(
    tokens_in: float, tokens_out: float, prices: Mapping[str, float] | None, in_batch: bool = False
) -> float:
    """Return what tokens cost in dollars.

    `prices` are `input` and `output`, in dollars per million tokens, and `batch`, the share of them that is paid
    `in_batch`, by default all.
    """
    if not prices:
        return 0.0
    share = prices.get("batch", 1.0) if in_batch else 1.0
    return share * (tokens_in * prices["input"] + tokens_out * prices["output"]) / PER


@dataclass
class Paid:
    """The money that this process spent on answers, and the answers that are not yet settled."""

    money: float = 0.0
    _pending: dict[Path, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _settles: bool = True

    def add(self, money: float) -> None:
        """Count money, in dollars."""
        with self._lock:
            self.money += money

    def use(self, journal: Path, key: str, money: float) -> None:
        """Count the money for an answer that is not settled, unless it was used since `begin`."""
        with self._lock:
            used = self._pending.setdefault(journal, set())
            self.money += 0.0 if key in used else money
            used.add(key)

    def begin(self) -> None:
        """Start the work on a shard: answers that were used before, for rows that were not stored, are not settled."""
        with self._lock:
            self._pending.clear()

    def settle(self) -> None:
        """Settle the answers that were used since `begin`, as their rows are stored with what they cost."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for path, keys in pending.items() if self._settles else ():
            Journal(path).settle([*keys])

    @contextmanager
    def unsettled(self) -> Iterator[None]:
        """Settle nothing inside, as in a pilot, whose rows are not kept: a run that uses its answers counts them."""
        before, self._settles = self._settles, False
        try:
            yield
        finally:
            self._settles = before


PAID = Paid()


@dataclass(frozen=True)
class Stored:
    """An answer of the journal, and whether its money is counted."""

    answer: dict[str, Any]
    is_settled: bool


@dataclass(frozen=True)
class StoredBatch:
    """A batch of requests by their keys; `id` is the provider's, None before it is created."""

    name: str
    keys: Sequence[str]
    id: str | None = None


@dataclass(frozen=True)
class Journal:
    """Answers by the key of their request, in a file that several processes can use."""

    path: Path
    connection: sqlite3.Connection | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_home(cls) -> Journal:
        """Return the journal of this home."""
        return cls(home_folder() / "responses.sqlite")

    def find(self, key: str, newest: float = KEPT_SECONDS) -> Stored | None:
        """Return the answer under a key if it is at most `newest` seconds old."""
        if not self.path.exists():
            return None
        with self._open() as opened:
            row = opened.execute(
                "SELECT answer, settled FROM answers WHERE key = ? AND at > ?", (key, time.time() - newest)
            ).fetchone()
        return Stored(json.loads(row[0]), bool(row[1])) if row else None

    def add(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer, so that it survives the end of this process at any moment."""
        with self._open() as opened:
            opened.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, 0)", (key, time.time(), json.dumps(answer))
            )

    def remove(self, key: str) -> None:
        """Remove an answer, so that it is asked for again."""
        with self._open() as opened:
            opened.execute("DELETE FROM answers WHERE key = ?", (key,))

    def batches(self) -> list[StoredBatch]:
        """Return the batches whose answers are not stored."""
        with self._open() as opened:
            rows = opened.execute("SELECT name, keys, id FROM batches ORDER BY at").fetchall()
        return [StoredBatch(name, json.loads(keys), id) for name, keys, id in rows]

    def add_batch(self, batch: StoredBatch) -> None:
        """Store a batch, or the id that its name now has."""
        with self._open() as opened:
            opened.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)",
                (batch.name, time.time(), json.dumps([*batch.keys]), batch.id),
            )

    def drop_batch(self, name: str) -> None:
        """Remove a batch whose answers are stored."""
        with self._open() as opened:
            opened.execute("DELETE FROM batches WHERE name = ?", (name,))

    def settle(self, keys: Sequence[str]) -> None:
        """Settle answers, and remove all that are older than `KEPT_SECONDS`."""
        with self._open() as opened:
            opened.executemany("UPDATE answers SET settled = 1 WHERE key = ?", [(key,) for key in keys])
            for table in ("answers", "batches"):
                opened.execute(f"DELETE FROM {table} WHERE at <= ?", (time.time() - KEPT_SECONDS,))

    def clear(self) -> None:
        """Remove all answers."""
        if self.path.exists():
            with self._open() as opened:
                for table in ("answers", "batches"):
                    opened.execute(f"DELETE FROM {table}")

    @contextmanager
    def kept_open(self) -> Iterator[Journal]:
        """Return the journal with its file open, for many questions to it."""
        with closing(self._connected()) as connection:
            yield replace(self, connection=connection)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self.connection is not None:
            with self.connection:
                yield self.connection
            return
        with closing(self._connected()) as connection, connection:
            yield connection

    def _connected(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS answers "
            "(key TEXT PRIMARY KEY, at REAL, answer TEXT, settled INTEGER) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, at REAL, keys TEXT, id TEXT) WITHOUT ROWID"
        )
        return connection
