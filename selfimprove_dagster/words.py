"""Describe rows of common kinds of tables.

This module depends on hardly anything, so that every table can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.addresses import folder_at
from selfimprove_dagster.environment import home_folder
from selfimprove_dagster.pruned import pruned

Row = Mapping[str, Any]

EXCERPT = 160
"""Number of characters of a text that a sentence quotes."""

SHOWN = "demonstration"
"""The role of a parent that a prompt showed as a demonstration."""


def quoted(text: str) -> str:
    """Return the start of a text in quotation marks."""
    text = text.strip()
    return f"“{text if len(text) <= EXCERPT else text[: EXCERPT - 1] + '…'}”"


def count(number: int, noun: str) -> str:
    """Return, e.g., `1 path` or `2 paths`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def source_of(row: Row) -> str:
    """Return file, line and licence of an imported row."""
    return f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"


def accepted(row: Row, text: str) -> str:
    """Describe a seed: its source and its content."""
    return f"accepted from {source_of(row)}: {quoted(text)}"


def key_of(row: Row) -> str:
    """Return the partition key of a row of an iteration."""
    return f"{row['experiment']}-{row['iteration']:03d}"


def drawn(row: Row, note: str = "") -> str:
    """Describe a completion: its model, its decoding, and its text; `note` is put before the text."""
    activity: Mapping[str, Any] = row["activity"]
    parameters = activity["parameters"]
    sections = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
    temperature = next((one["temperature"] for one in sections if "temperature" in one), None)
    how = f"sampled at temperature {temperature}, seed {row['seed']}," if temperature else "decoded greedily"
    shown = sum(edge["role"] == SHOWN for edge in row["parents"])
    after = f" after {count(shown, 'demonstration')}" if shown else ""
    if row["finish_reason"] in ("too_long", "refused", "failed"):
        return f"not generated: {row.get('problem') or row['finish_reason']}"
    by = f"{activity['about'].get('champion', 'the model')} {activity['model_id']}"
    return f"{how} from {by}{after}{note}; finish reason {row['finish_reason']}: {quoted(row['text'])}"


def decided(row: Row) -> str:
    """Describe a decision of a filter."""
    return f"{row['rule']}: {row['reason']}"


def measured_answer(row: Row) -> str:
    """Describe an answer to a held-out question, and whether it is right, or what a judge said of it."""
    found = {True: "right", False: "wrong", None: "answered"}[row["correct"]]
    if row["mode"].startswith("judge"):
        found = f"{row['predicted'] or 'nothing was said'}, by a judge"
    return f"{found} ({row['role']}, {row['mode']}): {quoted(row['text'] or '')}"


def promoted(row: Row) -> str:
    """Return the reason of a promotion decision."""
    return str(row["reason"])


def trained(row: Row, what: str = "model") -> str:
    """Describe a trained model: its id, examples, steps, accuracy on held-out pairs, perplexities, and folder."""
    general = "".join(
        f" and {len(one['lines']):,} general ones of {one['source_file']} ({one['licence']})"
        for one in row.get("mixed") or ()
    )
    text = f"{what} {row['model_id']}, trained on {row['examples']:,} examples{general} in {row['steps']:,} steps"
    if row.get("held_out"):
        kept = (
            ""
            if row.get("kept_step") is None
            else f", by which the weights of step {row['kept_step']:,} are kept"
        )
        text += f"; its loss was measured on {len(row['held_out']):,} others{kept}"
    if row.get("perplexities"):
        measured = ", ".join(f"{one['perplexity']:.4g} ({one['role']})" for one in row["perplexities"])
        text += f"; perplexity of the plain text: {measured}"
    if row.get("held_out_accuracy") is not None:
        text += f"; {row['held_out_accuracy']:.1%} accuracy on {row['held_out_pairs']:,} held-out pairs"
    if not row.get("path"):
        return text
    gone = pruned(folder_at(home_folder(), row["path"]))
    return f"{text}, at {row['path']}" + (f"; its {gone}" if gone else "")


def rating(row: Row) -> str:
    """Describe the rating of an answer, or why there is none."""
    if row["rating"] is None:
        return f"not rated: {row['problem']}"
    return f"rated {row['rating']:.2f} from 1 to 10"


def example_perplexity(row: Row) -> str:
    """Describe the perplexity of an example."""
    return perplexity(row, " of the example")


def perplexity(row: Row, of: str = "") -> str:
    """Describe the perplexity of a text, with the number of its tokens."""
    if row["perplexity"] is None:
        return f"not scored: {row.get('problem') or 'the model gave no log-probabilities'}"
    return f"perplexity {row['perplexity']:.4g} over {row['tokens']} tokens{of}"
