"""Words for the rows of tables that several tables share; they depend on nothing, so that every table may use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

EXCERPT = 160
"""The number of characters of a text that a sentence quotes."""

SHOWN = "demonstration"
"""The role of a parent that a prompt showed."""


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks."""
    text = text.strip()
    return f"“{text if len(text) <= EXCERPT else text[: EXCERPT - 1] + '…'}”"


def count(number: int, noun: str) -> str:
    """`1 path`, `2 paths`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def source_of(row: Row) -> str:
    """File, line and licence of a row that carries them."""
    return f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"


def accepted(row: Row, text: str) -> str:
    """A seed, where it was taken from, and what it says."""
    return f"accepted from {source_of(row)}: {quoted(text)}"


def key_of(row: Row) -> str:
    """The partition key of a row of an iteration."""
    return f"{row['experiment']}-{row['iteration']:03d}"


def drawn(row: Row, note: str = "") -> str:
    """The model that drew a completion, how it was drawn, and its text; `note` is put before the text."""
    activity: Mapping[str, Any] = row["activity"]
    parameters = activity["parameters"]
    sections = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
    temperature = next((one["temperature"] for one in sections if "temperature" in one), None)
    how = f"at temperature {temperature}, seed {row['seed']}" if temperature else "greedily"
    shown = sum(edge["role"] == SHOWN for edge in row["parents"])
    after = f" after {count(shown, 'demonstration')}" if shown else ""
    by = f"{activity['about'].get('champion', 'the model')} {activity['model_id']}"
    return f"drawn {how} from {by}{after}{note}; ended by {row['finish_reason']}: {quoted(row['text'])}"


def decided(row: Row) -> str:
    """A decision of a filter."""
    return f"{row['rule']}: {row['reason']}"


def measured_answer(row: Row) -> str:
    """An answer to a held-out question, and whether it is right."""
    return f"{'right' if row['correct'] else 'wrong'} ({row['role']}, {row['mode']}): {quoted(row['text'] or '')}"


def promoted(row: Row) -> str:
    """The reason of a promotion."""
    return str(row["reason"])


def trained(row: Row, what: str = "model") -> str:
    """A model that was trained: its id, how many examples and steps, and its accuracy on held-out pairs."""
    text = f"{what} {row['model_id']}, trained on {row['examples']:,} examples in {row['steps']:,} steps"
    if row.get("held_out_accuracy") is not None:
        text += f"; {row['held_out_accuracy']:.1%} of {row['held_out_pairs']:,} held-out pairs right"
    return f"{text}, at {row['path']}" if row.get("path") else text


def perplexity(row: Row, of: str = "") -> str:
    """The perplexity of a text and the number of its tokens."""
    return f"perplexity {row['perplexity']:.4g} over {row['tokens']} tokens{of}"
