"""Words for paths, votes and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster import words
from selfimprove_dagster.words import accepted, drawn, quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row


def question(row: Row) -> str:
    """A question with its file and line."""
    return accepted(row, row["question"])


def path(row: Row) -> str:
    """A reasoning path and how it was drawn."""
    return f"sample {row['sample_index']}, {drawn(row)}"


def perplexity(row: Row) -> str:
    """The perplexity of a path."""
    return words.perplexity(row, " under its own generator")


def vote(row: Row) -> str:
    """The vote on a question: its answer, and how many paths state which answer."""
    figures = f"{row['n_valid']} of {row['n_paths']} paths state an answer"
    weighted = ", weighted" if row.get("weights") else ""
    if not row["votes"]:
        return f"no vote: {figures}"
    counts = ", ".join(f"{one['answer']} × {one['count']}" for one in row["votes"])
    tie = ", a tie" if row["tie"] else ""
    lead = "all weights are 0"
    if row["vote_share"] is not None:
        lead = f"share {row['vote_share']:.3g}, margin {row['margin']:.3g}"
    return f"the vote is {row['voted_answer']} by {row['rule']}{weighted}: {figures} ({counts}); {lead}{tie}"


def voted(row: Row) -> str:
    """The answer of a vote."""
    return "no answer" if row["voted_answer"] is None else str(row["voted_answer"])


def example(row: Row) -> str:
    """An example of the dataset, with the share of the votes for its answer."""
    share = "none" if row["vote_share"] is None else f"{row['vote_share']:.2f}"
    text = f"{quoted(row['question'])} ▸ {quoted(row['completion'])}"
    return f"in the dataset as {row['format']}, vote share {share}: {text}"
