"""Dialogues as lists of messages, as tools for fine-tuning read them."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.conversation import Message, messages_of
from selfimprove_dagster.families.dialogues.prompts import turns


def dialogues(rows: pl.DataFrame) -> pl.Series:
    """Each prompt as a list of messages, one for each turn. Prompts are texts or stored conversations."""
    return pl.Series(
        "prompt",
        [[one._asdict() for one in _messages(prompt)] for prompt in rows["prompt"]],
        pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    )


def by_assistant(column: str) -> pl.Expr:
    """The text of a column as a list of one message by the assistant."""
    return pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col(column).str.strip_chars()))


def _messages(prompt: str) -> list[Message]:
    try:
        return messages_of(prompt)
    except ValueError:
        return turns(prompt)
