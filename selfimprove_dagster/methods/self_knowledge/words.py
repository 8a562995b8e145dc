"""Words for what measures how well a model judges its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.words import drawn, quoted, source_of

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def question(row: Row) -> str:
    """A question, its task, and its file and line."""
    return f"asked for the task {row['task']}, from {source_of(row)}: {quoted(row['question'])}"


def candidate(row: Row) -> str:
    """A candidate and how it was drawn."""
    return f"candidate {row['sample_index'] + 1}, {drawn(row)}"


def scored(row: Row) -> str:
    """How many candidates of a question are right."""
    unread = f", in {row['unread']} no answer could be read" if row["unread"] else ""
    return f"{sum(row['right'])} of {len(row['right'])} candidates are right{unread}"


def picked(row: Row) -> str:
    """The candidate that was picked and whether it is right."""
    shown = f"shown {len(row['orders'])} times"
    if row["picked_id"] is None:
        return f"by {row['by']} no choice could be read, {shown}"
    place = row["candidate_ids"].index(row["picked_id"]) + 1
    verdict = "right" if row["right"] else "wrong"
    return f"by {row['by']} picked candidate {place} of {len(row['candidate_ids'])}, {shown}: {verdict}"


def gap(row: Row) -> str:
    """The measured gap of a model."""
    return f"measured of the model {row['model_id']}: {row['statement']}"
