"""Words for calls of tools, their results and what they save."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.methods.toolformer.loss import WINDOW, Losses
from selfimprove_dagster.tools.calls import Call, write_call
from selfimprove_dagster.words import drawn, quoted, source_of

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row

_LOSSES = (
    ("loss_no_call", "without a call"),
    ("loss_call", "with the call alone"),
    ("loss_call_with_result", "with its result"),
)


def said(row: Row) -> str:
    """A call as it is in a text, or the problem of what could not be read as one."""
    return written(row) or str(row["problem"])


def written(call: Row) -> str:
    """The text of a call, from a row of tool_results or from an example's calls; empty for what could not be read."""
    if call["arguments"] is None:
        return ""
    return write_call(Call(call["tool"], call["arguments"], call["result"]))


def place_sentence(row: Row, position: int) -> str:
    """The probability of a call at a place, and its rank among those that were tried."""
    likely = dict(zip(row["positions"], row["probabilities"], strict=True))
    own = likely[position]
    rank = 1 + sum(likely[tried] > own for tried in row["chosen"])
    return (
        f"p(<API>) = {own:.2g} for {row['tool']} before character {position}, {_ordinal(rank)} of "
        f"{len(row['chosen'])} tried, of {len(likely)} places in the text"
    )


def losses(row: Row) -> Losses:
    """The losses of a row of scores."""
    return Losses(*(row[name] for name, _ in _LOSSES))


def savings(call: Row, score: Row | None, threshold: float | None) -> str:
    """By how much a call lowers the loss of what follows it, against the threshold."""
    said = f"{written(call)} before character {call['position']}"
    if score is None:
        return said
    found = losses(score)
    most = found.most_reduction
    by = f"lowers the weighted loss of the next {WINDOW} tokens by"
    by = f"{by} {most:.2f} nats" if found.reduction is not None else f"{by} at most {most:.2f} nats"
    against = "" if threshold is None else f" against at least {threshold:g}"
    return f"{said}: {by} ({_in_words(score)}){against}"


def _in_words(row: Row) -> str:
    return ", ".join(f"{row[name]:.2f} {words}" for name, words in _LOSSES if row[name] is not None)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def text(row: Row) -> str:
    """A text with its file and line, its source and its date."""
    written_on = f", written on {row['date']}" if row["date"] else ""
    of = f", of {row['source']}" if row["source"] else ""
    return f"accepted from {source_of(row)}{of}{written_on}: {quoted(row['text'])}"


def answered(row: Row) -> str:
    """A call, and the result of its tool or the problem."""
    by = f"{row['tool']} (version {row['tool_version']})"
    if row["arguments"] is None:
        return f"no call of {by}: {row['problem']}"
    asked = written({**row, "result": None})
    return f"{by} to {asked}: {row['problem'] or row['result']}"


def scored(row: Row) -> str:
    """The losses of what follows a call, without it and with it."""
    by = f"{row['activity']['about'].get('champion', 'the model')} {row['activity']['model_id']}"
    return f"weighted loss of the next {WINDOW} tokens in nats, by {by}: {_in_words(row)}"


def search_index(row: Row) -> str:
    """A search index and its corpus."""
    return f"{row['tool']} searches {row['passages']:,} passages of {row['corpus']}"


def places(row: Row) -> str:
    """The number of places of a text at which calls were tried."""
    return f"{row['tool']}: calls tried at {len(row['chosen'])} of {len(row['positions'])} places"


def drawn_call(row: Row) -> str:
    """A call as the model wrote it, its place, and how it was drawn."""
    return f"before character {row['position']}, {drawn(row)}"


def example(row: Row) -> str:
    """A text with its calls written in."""
    return f"in the dataset: {quoted(row['completion'])}"
