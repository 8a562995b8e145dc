"""Write training examples in the layouts that tools for fine-tuning read.

    chat        messages: what the user says, then what the assistant answers (TRL's `SFTTrainer`)
    preference  prompt, chosen, rejected: lists of messages (TRL's `DPOTrainer` and `RewardTrainer`)
    sharegpt    conversations: objects with `from` and `value` (LLaMA-Factory, Axolotl, FastChat)
    alpaca      instruction, input, output (Stanford Alpaca, LLaMA-Factory)

In all of them the user says the bare instruction, without the template of the prompt, and `id` is the record of the
example. A method declares in its `Card` which part of a row is the instruction and which is the answer; without a
declaration it is the columns instruction and input, or the messages of the prompt, or the whole prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.conversation import (
    BEGINNING,
    Message,
    ToolCalls,
    Turn,
    merged,
    messages_of,
    row_of,
    shown,
    stored,
    tools_of,
)
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.export_cards import Card
from selfimprove_dagster.table import Row

_PAIR = ("chosen", "rejected")
_TASK = ("instruction", "input", "output")

Layout = Callable[[Row, Sequence[Turn], Mapping[str, str]], Row]
"""Returns a line, given a row, its conversation before the answer, and the answers by column."""


def lines(layout: str, rows: pl.DataFrame, card: Card, system: str = "") -> Iterator[Row]:
    """Yield the lines of `layout` for rows of exported columns, with the system text, if any, first.

    Raises ExperimentError if the rows do not fit the layout.
    """
    answers = _answers(layout, {*rows.columns})
    first = [Message("system", system)] if system else []
    for row in rows.iter_rows(named=True):
        asked = merged([*first, *(card.asks or _asked)(row)])
        said = {
            name: card.says(row) if card.says and len(answers) == 1 else row[name].strip() for name in answers
        }
        yield {**LAYOUTS[layout](row, asked, said), "id": row["id"]}


def instruction(row: Row) -> str:
    """Return the instruction of a task, with its input after a blank line if it has one."""
    return f"{row['instruction']}\n\n{row['input']}" if row["input"].strip() else row["instruction"]


def with_messages(rows: pl.DataFrame, system: str) -> pl.DataFrame:
    """Return rows whose prompts are conversations with lists of messages, as TRL reads them.

    `system` is the text that comes first in every conversation. Arguments of tool calls are JSON, as OpenAI has them.
    """
    first = [Message("system", system)] if system else []
    asked = [[_cell(one) for one in merged([*first, *messages_of(prompt)])] for prompt in rows["prompt"]]
    calls = any(len(one) > len(_SAID) for messages in asked for one in messages)
    messages = pl.List(pl.Struct(_SAID | _CALLS if calls else _SAID))
    said = [
        pl.concat_list(pl.struct(role=pl.lit("assistant"), content=name)).alias(name)
        for name in ("completion", *_PAIR)
        if name in rows.columns
    ]
    return rows.with_columns(pl.Series("prompt", asked, messages), *said)


_SAID: dict[str, pl.DataType] = {"role": pl.String(), "content": pl.String()}
_CALLS: dict[str, pl.DataType] = {
    "tool_calls": pl.List(
        pl.Struct({"type": pl.String, "function": pl.Struct({"name": pl.String, "arguments": pl.String})})
    ),
    "name": pl.String(),
}


def _cell(turn: Turn) -> Row:
    """Return a message as a cell of a table, in which all messages have the same types."""
    row = row_of(turn)
    for call in row.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return row


def _answers(layout: str, columns: set[str]) -> Sequence[str]:
    """Return the columns that hold what the assistant says. Raises ExperimentError if the layout needs others."""
    pairs = columns.issuperset(_PAIR)
    if layout == "preference":
        if pairs and "prompt" in columns:
            return _PAIR
        raise ExperimentError(
            "the layout preference needs the columns prompt, chosen and rejected, and these examples have "
            f"{', '.join(sorted(columns))}: export them as chat, jsonl, parquet or huggingface"
        )
    if pairs:
        raise ExperimentError(
            f"the layout {layout} is for examples with one answer each, and these are pairs of responses: export "
            "them as preference, jsonl, parquet or huggingface"
        )
    if columns.issuperset(_TASK):
        return ("output",)
    if columns.issuperset({"prompt", "completion"}):
        return ("completion",)
    raise ExperimentError(
        f"the layout {layout} needs the columns prompt and completion, or instruction, input and output, and these "
        f"examples have {', '.join(sorted(columns))}: export them as jsonl, parquet or huggingface"
    )


def _asked(row: Row) -> Sequence[Turn]:
    """Return the conversation before the answer of a row whose method does not declare it."""
    if row.keys() >= {*_TASK}:
        return [Message("user", instruction(row))]
    return conversation(row["prompt"])


def conversation(prompt: str) -> Sequence[Turn]:
    """Return the messages of a stored conversation, or the one message that says a text."""
    return messages_of(prompt) if prompt.startswith(BEGINNING) else [Message("user", prompt)]


def _chat(row: Row, asked: Sequence[Turn], said: Mapping[str, str]) -> Row:
    (answer,) = said.values()
    line: Row = {"messages": [*map(row_of, asked), row_of(Message("assistant", answer))]}
    if tools := _tools(row):
        line["tools"] = tools
    return line


def _preference(row: Row, asked: Sequence[Turn], said: Mapping[str, str]) -> Row:
    pair = {name: [row_of(Message("assistant", answer))] for name, answer in said.items()}
    return {"prompt": [*map(row_of, asked)], **pair}


_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(row: Row, asked: Sequence[Turn], said: Mapping[str, str]) -> Row:
    (answer,) = said.values()
    line: Row = {"conversations": [*map(_sharegpt_turn, asked), {"from": "gpt", "value": answer}]}
    if tools := _tools(row):
        line["tools"] = json.dumps(tools, ensure_ascii=False)
    return line


def _sharegpt_turn(turn: Turn) -> dict[str, str]:
    if isinstance(turn, ToolCalls):
        calls = [{"name": one.name, "arguments": dict(one.arguments)} for one in turn.calls]
        return {"from": "function_call", "value": json.dumps(calls, ensure_ascii=False)}
    return {"from": _SHAREGPT[turn.role], "value": turn.content}


def _alpaca(row: Row, asked: Sequence[Turn], said: Mapping[str, str]) -> Row:
    (output,) = said.values()
    if row.keys() >= {*_TASK}:
        return {"instruction": row["instruction"], "input": row["input"], "output": output}
    text = asked[0].content if len(asked) == 1 else shown(stored(asked))
    return {"instruction": text, "input": "", "output": output}


def _tools(row: Row) -> list[dict[str, Any]]:
    """Return the JSON schemas of the tools that the assistant may call."""
    prompt = row.get("prompt", "")
    return tools_of(prompt) if prompt.startswith(BEGINNING) else []


LAYOUTS: dict[str, Layout] = {
    "chat": _chat,
    "preference": _preference,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
}
