"""What the stages of Toolformer say of a call, in words."""

from __future__ import annotations

from collections.abc import Callable

from selfimprove_dagster.lineage.task_words import drawn_sentence, quoted
from selfimprove_dagster.methods.toolformer.calls import Call, write_call
from selfimprove_dagster.methods.toolformer.loss import WINDOW, Losses
from selfimprove_dagster.records import Row

METHOD = "toolformer"
_LOSSES = (
    ("loss_no_call", "without a call"),
    ("loss_call", "with the call alone"),
    ("loss_call_with_result", "with its result"),
)


def written(call: Row) -> str:
    """A call as it stands in a text: of a row of tool_results, or of an example's calls.

    Empty for what could not be read.
    """
    if call["arguments"] is None:
        return ""
    return write_call(Call(call["tool"], call["arguments"], call["result"]))


def said_of(row: Row) -> str:
    """What a row says, in short: its call, or its text; empty for scores and decisions."""
    stage = row["table_name"].split("/")[1]
    if stage == "tool_results":
        return written(row) or str(row["problem"])
    if stage == "search_index":
        return str(row["corpus"])
    said = (row.get(name) for name in ("completion", "text"))
    return next((text for text in said if text), "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(said_of(row))


def place_sentence(row: Row, position: int) -> str:
    """How probable a call was at a place, and its rank among those that were tried."""
    likely = dict(zip(row["positions"], row["probabilities"], strict=True))
    own = likely[position]
    rank = 1 + sum(likely[tried] > own for tried in row["chosen"])
    return (
        f"p(<API>) = {own:.2g} for {row['tool']} before character {position}, {_ordinal(rank)} of "
        f"{len(row['chosen'])} tried, of {len(likely)} places in the text"
    )


def losses(row: Row) -> Losses:
    """What a row of scores holds."""
    return Losses(*(row[name] for name, _ in _LOSSES))


def savings(call: Row, score: Row | None, threshold: float | None) -> str:
    """What a call saves: by how much it lowers the loss of what follows it, against the threshold."""
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


def _text(row: Row) -> str:
    written_on = f", written on {row['date']}" if row["date"] else ""
    of = f", of {row['source']}" if row["source"] else ""
    place = f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"
    return f"accepted from {place}{of}{written_on}: {quoted(row['text'])}"


def _answered(row: Row) -> str:
    by = f"{row['tool']} (version {row['tool_version']})"
    if row["arguments"] is None:
        return f"no call of {by}: {row['problem']}"
    asked = written({**row, "result": None})
    return f"{by} to {asked}: {row['problem'] or row['result']}"


def _scored(row: Row) -> str:
    by = f"{row['activity']['about'].get('champion', 'the model')} {row['activity']['model_id']}"
    return f"weighted loss of the next {WINDOW} tokens in nats, by {by}: {_in_words(row)}"


_SENTENCES: dict[str, Callable[[Row], str]] = {
    "texts": _text,
    "seed_pool": _text,
    "search_index": lambda row: f"{row['tool']} searches {row['passages']:,} passages of {row['corpus']}",
    "call_positions": lambda row: (
        f"{row['tool']}: calls tried at {len(row['chosen'])} of {len(row['positions'])} places"
    ),
    "raw_generations": lambda row: f"before character {row['position']}, {drawn_sentence(row)}",
    "tool_results": _answered,
    "perplexity_scores": _scored,
    "filtered_dataset": lambda row: f"in the dataset: {quoted(row['completion'])}",
}
