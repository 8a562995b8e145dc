"""Dialogues as lists of messages, as tools for fine-tuning read them."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.dialogues.prompts import said_in, turns


def dialogues(rows: pl.DataFrame) -> pl.Series:
    """Each prompt as a list of messages, one for each turn; those of chat models are such lists already."""
    if rows.schema["prompt"] == _MESSAGES:
        return rows["prompt"]
    asked = [
        [{"role": one.role, "content": said_in(one)} for one in turns(prompt)] for prompt in rows["prompt"]
    ]
    return pl.Series("prompt", asked, _MESSAGES)


def by_assistant(rows: pl.DataFrame, column: str) -> pl.Series:
    """Each text of a column as a list of one message by the assistant."""
    if rows.schema[column] == _MESSAGES:
        return rows[column]
    said = [[{"role": "assistant", "content": text.strip()}] for text in rows[column]]
    return pl.Series(column, said, _MESSAGES)


def said_by_assistant(rows: pl.DataFrame, column: str) -> pl.Series:
    """Each text of a column, without the message that holds it where the model is asked in chat."""
    messages = by_assistant(rows, column)
    return messages.list.first().struct.field("content").alias(column)


_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
