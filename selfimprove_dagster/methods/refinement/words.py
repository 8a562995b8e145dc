"""Words for the steps of a refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.families.refining.ways import EVALUATION, OUTCOME, STOPS
from selfimprove_dagster.words import quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def refinement(row: Row) -> str:
    """A step with its way, its round and its kind."""
    return f"{row['way'].replace('_', '-')}, round {row['round']}, {row['kind']}: {step(row)}"


def step(row: Row) -> str:
    """What a step of a refinement says or finds."""
    if row["kind"] == OUTCOME:
        text = quoted(row["text"]) if row["text"] else "no answer"
        return f"stopped, {row['error'] or STOPS[row['stopped']]}: {text}"
    if row["error"]:
        return f"failed: {row['error']}"
    if row["kind"] == EVALUATION:
        sure = "" if row["score"] is None else f" by {row['score']:.2f}"
        return f"{'content' if row['is_fine'] else 'not content'}{sure}"
    return quoted(row["text"])


def said(row: Row) -> str:
    """The text of a step, or its error."""
    return (row["text"] or "").strip() or row["error"] or ""
