"""Exports of prompts that are conversations."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.export import _alpaca, _chat, _with_messages

ROWS = pl.DataFrame(
    {
        "id": ["ex:1", "ex:2"],
        "prompt": [
            stored([Message("user", "Why?")]),
            stored(
                [
                    Message("system", "Be kind."),
                    Message("user", "Hi"),
                    Message("assistant", "Yo"),
                    Message("user", "?"),
                ]
            ),
        ],
        "completion": ["So.", "!"],
    }
)


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_messages_are_those_that_the_model_read_with_the_system_text() -> None:
    asked = _with_messages(ROWS, "Be brief.")
    assert asked["prompt"].to_list() == [
        [said("system", "Be brief."), said("user", "Why?")],
        [
            said("system", "Be brief.\n\nBe kind."),
            said("user", "Hi"),
            said("assistant", "Yo"),
            said("user", "?"),
        ],
    ]
    assert asked["completion"].to_list() == [[said("assistant", "So.")], [said("assistant", "!")]]
    chat = _chat(asked)["messages"].to_list()
    assert [one[-1] for one in chat] == [said("assistant", "So."), said("assistant", "!")]
    assert [one[:-1] for one in chat] == asked["prompt"].to_list()


def test_an_instruction_is_what_the_user_says_or_the_whole_conversation() -> None:
    found = _alpaca(_with_messages(ROWS, ""))
    assert found.rows() == [
        ("Why?", "", "So.", "ex:1"),
        ("system: Be kind.\n\nuser: Hi\n\nassistant: Yo\n\nuser: ?", "", "!", "ex:2"),
    ]
