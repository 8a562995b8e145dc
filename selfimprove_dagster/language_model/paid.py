"""What providers are paid for answers, and the answers that were paid for and are not yet in the lake.

An answer is kept in the file `responses.sqlite` of the home before the next request is sent. When a stage resumes after
a crash, its requests are answered from this file. The answers of a shard are removed once the shard is written. They
hold what models wrote, under the hash of the request.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfimprove_dagster.environment import home_folder

PER = 1_000_000
"""Number of tokens that a price is for."""

KEPT_SECONDS = 30 * 24 * 3600.0
"""Time after which an answer that no stage used is removed."""


def cost(tokens_in: float, tokens_out: float, prices: Mapping[str, float] | None) -> float:
    """Return what tokens cost in dollars. `prices` are `input` and `output`, in dollars per million tokens."""
    if not prices:
        return 0.0
    return (tokens_in * prices["input"] + tokens_out * prices["output"]) / PER


@dataclass
class Paid:
    """The money that this process spent on answers, and the answers whose rows are not yet stored."""

    money: float = 0.0
    _pending: dict[Path, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, money: float) -> None:
        """Count money, in dollars."""
        with self._lock:
            self.money += money

    def used(self, journal: Path, key: str) -> None:
        """Note that an answer is used for rows that are not yet stored."""
        with self._lock:
            self._pending.setdefault(journal, set()).add(key)

    def begin(self) -> None:
        """Start the work on a shard: answers that earlier work used, and did not settle, stay in their files."""
        with self._lock:
            self._pending.clear()

    def settle(self) -> None:
        """Remove the answers that were used since `begin` from their files, since their rows are stored."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for path, keys in pending.items():
            Journal(path).remove([*keys])


PAID = Paid()


@dataclass(frozen=True)
class Journal:
    """Answers by the key of their request, in a file that several processes can use."""

    path: Path

    @classmethod
    def of_home(cls) -> Journal:
        """Return the journal of this home."""
        return cls(home_folder() / "responses.sqlite")

    def find(self, key: str, newest: float = KEPT_SECONDS) -> dict[str, Any] | None:
        """Return the answer under a key if it is at most `newest` seconds old."""
        if not self.path.exists():
            return None
        with self._open() as opened:
            row = opened.execute(
                "SELECT answer FROM answers WHERE key = ? AND at > ?", (key, time.time() - newest)
            ).fetchone()
        return json.loads(row[0]) if row else None

    def add(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer durably."""
        with self._open() as opened:
            opened.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, time.time(), json.dumps(answer))
            )

    def remove(self, keys: Sequence[str]) -> None:
        """Remove answers, and all that are older than `KEPT_SECONDS`."""
        if not self.path.exists():
            return
        with self._open() as opened:
            opened.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])
            opened.execute("DELETE FROM answers WHERE at <= ?", (time.time() - KEPT_SECONDS,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=60)) as opened, opened:
            opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("PRAGMA synchronous = NORMAL")
            opened.execute("PRAGMA secure_delete = ON")
            opened.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, at REAL, answer TEXT) WITHOUT ROWID"
            )
            yield opened
