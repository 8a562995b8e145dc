"""What the stages of generation against discrimination say, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfimprove_dagster.families.tasks.explain import drawn_sentence, quoted
from selfimprove_dagster.methods.self_knowledge.tables import METHOD
from selfimprove_dagster.methods.self_knowledge.tables import TABLES as SELF_KNOWLEDGE_TABLES
from selfimprove_dagster.table import Row

__all__ = ["METHOD", "TABLES", "said_of", "sentence"]


TABLES = {schema.name for schema in SELF_KNOWLEDGE_TABLES}


def said_of(row: Row) -> str:
    """What a row says, in short."""
    stage = row["table_name"].split("/")[1]
    if stage in ("generation_score", "discrimination_score"):
        return sentence(row)
    said = (row.get(name) for name in ("statement", "text", "question"))
    return next((text.strip() for text in said if text), "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    return _SENTENCES[row["table_name"].split("/")[1]](row)


def _asked(row: Row) -> str:
    place = f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"
    return f"asked for the task {row['task']}, from {place}: {quoted(row['question'])}"


def _scored(row: Row) -> str:
    unread = f", in {row['unread']} no answer could be read" if row["unread"] else ""
    return f"{sum(row['right'])} of {len(row['right'])} candidates are right{unread}"


def _picked(row: Row) -> str:
    shown = f"shown {len(row['orders'])} times"
    if row["picked_id"] is None:
        return f"by {row['by']} no choice could be read, {shown}"
    place = row["candidate_ids"].index(row["picked_id"]) + 1
    verdict = "right" if row["right"] else "wrong"
    return f"by {row['by']} picked candidate {place} of {len(row['candidate_ids'])}, {shown}: {verdict}"


_SENTENCES: Mapping[str, Callable[[Row], str]] = {
    "questions": _asked,
    "candidates": lambda row: f"candidate {row['sample_index'] + 1}, {drawn_sentence(row)}",
    "generation_score": _scored,
    "discrimination_score": _picked,
    "discrimination_gap": lambda row: f"measured of the model {row['model_id']}: {row['statement']}",
}


EXPLAIN = None
WHAT_IF = None
