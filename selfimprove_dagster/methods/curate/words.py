"""Words for lines of the user's file, candidate answers, ratings and votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster import words
from selfimprove_dagster.words import accepted, quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def line(row: Row) -> str:
    """Describe a line of the file, with its place."""
    kind = "a prompt" if row["output"] is None else "a finished example"
    return f"{kind}: {accepted(row, row['instruction'])}"


def candidate(row: Row) -> str:
    """Describe a candidate, or why it cannot be used."""
    if row["problem"]:
        return f"not an answer: {row['problem']}"
    return f"{'given' if row['given'] else 'generated'}: {quoted(row['output'])}"


def answer(row: Row) -> str:
    """Return the text of a candidate."""
    return str(row["output"] or row["instruction"])


def perplexity(row: Row) -> str:
    """Describe the perplexity of an answer."""
    return words.perplexity(row, " of the answer")


def vote(row: Row) -> str:
    """Describe the vote on a question."""
    figures = f"{row['n_valid']} of {row['n_paths']} answers can be read"
    if not row["votes"]:
        return f"no vote: {figures}"
    counts = ", ".join(f"{quoted(one['answer'])} × {one['count']}" for one in row["votes"])
    weighted = ", weighted" if row.get("weights") else ""
    share = "all weights are 0" if row["vote_share"] is None else f"share {row['vote_share']:.3g}"
    return f"the vote is {quoted(row['voted_answer'])}{weighted}: {figures} ({counts}); {share}"


def voted(row: Row) -> str:
    """Return the answer of a vote."""
    return "no answer" if row["voted_answer"] is None else str(row["voted_answer"])


def example(row: Row) -> str:
    """Describe an example of the dataset."""
    return f"in the dataset: {quoted(row['instruction'])} ▸ {quoted(row['completion'])}"
