"""Words for critiques, revisions and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.words import quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def critique(row: Row) -> str:
    """A critique with its round and principle."""
    return f"{round_of(row)}: critique {quoted(row['text'])}"


def revision(row: Row) -> str:
    """A revision with its round and principle."""
    return f"{round_of(row)}: {quoted(row['text'])}"


def example(row: Row) -> str:
    """An example of the dataset."""
    return f"in the dataset as {row['format']}: {quoted(row['completion'])}"


def round_of(row: Row) -> str:
    """The round and the principle of a critique or a revision."""
    return f"round {row['round']} by principle {row['principle']}"
