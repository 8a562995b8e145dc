"""What a model wrote must not act on the terminal or page that shows it."""

from __future__ import annotations

import math
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.text import markdown_table, percent, plain, readable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ½ of it “quoted” 数学 🙂", "plain text, ½ of it “quoted” 数学 🙂"),
        ("\x1b[31mred\x1b[0m and \x1b[2K\x1b[1Agone", "red and gone"),
        ("\x1b]8;;http://evil.example\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;title\x1b\\rest", "rest"),
        ("\x9b31mred", "red"),
        ("one\r\ntwo\nthree\u2028four", "one⏎two⏎three⏎four"),
        ("a\tb\x00c\x7f", "a bc"),
        ("user\u202etxt.exe\u200b", "usertxt.exe"),
        ("broken \udcff surrogate", "broken  surrogate"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_plain_cuts_at_the_limit() -> None:
    assert plain("x" * 10, 10) == "x" * 10
    assert plain("x" * 11, 10) == "x" * 9 + "…"


@given(st.text())
def test_plain_leaves_one_line_without_control_characters(text: str) -> None:
    shown = plain(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert plain(shown) == shown


def test_markdown_table() -> None:
    table = markdown_table([{"id": "a", "n": 3, "x": 0.123456}, {"id": "b|c", "note": None, "ok": True}])
    assert table == (
        "| `id` | `n` | `x` | `note` | `ok` |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| `a` | 3 | 0.1235 | none | none |\n"
        "| `b¦c` | none | none | none | True |"
    )
    assert markdown_table([]) == ""


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("<b>*bold*</b>", "`<b>*bold*</b>`"),
        ("`tick`", "`` `tick` ``"),
        ("a `` b", "```a `` b```"),
        ("", "`''`"),
        ("  ", "`'  '`"),
        ("x\ny", "`x⏎y`"),
        ("back\\", "`back\\`"),
    ],
)
def test_text_stands_in_a_code_span(text: str, cell: str) -> None:
    assert markdown_table([{"t": text}]).splitlines()[2] == f"| {cell} |"


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers(1, 50))
def test_no_text_breaks_out_of_its_cell(texts: list[str], limit: int) -> None:
    rows = markdown_table([{"t": text} for text in texts], limit).splitlines()[2:]
    assert len(rows) == len(texts)
    for row in rows:
        assert row.count("|") == 2
        fence = re.match(r"\| (`+)", row)
        assert fence is not None
        assert re.findall("`+", row).count(fence[1]) == 2


def test_a_percentage_of_nothing_is_a_dash() -> None:
    assert (percent(0.125), percent(0.125, 0), percent(None), percent(math.nan)) == ("12.5%", "12%", "–", "–")


def test_a_table_shows_no_nan() -> None:
    assert markdown_table([{"a": math.nan, "b": math.inf, "c": 0.25}]).splitlines()[-1] == "| – | – | 0.25 |"


def test_a_stored_conversation_is_shown_message_by_message() -> None:
    prompt = stored(
        [Message("user", "Why?\n\nTell me."), Message("assistant", "So."), Message("user", "And?")]
    )
    assert readable(prompt) == "user: Why?\n\nTell me.\n\nassistant: So.\n\nuser: And?"
    assert plain(prompt, 12) == "user: Why?⏎…"


def test_text_that_only_looks_like_a_conversation_is_shown_as_it_is() -> None:
    for text in ('[{"role":"user","content":"Why?"}]', '{"conversation":[{"role":"judge","content":"x"}]}'):
        assert plain(text) == readable(text) == text
