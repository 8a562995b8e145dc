"""Filters that remember what they kept: decisions do not depend on how candidates are cut into parts."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.filters.novelty import rouge_l_f1
from selfimprove_dagster.filters.pools import Compared, first_of_equal, novel_by_rouge
from selfimprove_dagster.filters.rules import DECISION_COLUMNS, Filter
from selfimprove_dagster.filters.tokenisers import TOKENISERS, words


def candidates(*texts: str, question: str = "Why?") -> pl.DataFrame:
    ids = [f"c:{number}" for number in range(len(texts))]
    return pl.DataFrame(
        {"candidate_id": ids, "question_id": ids, "question": [question] * len(texts), "text": texts},
        schema_overrides={"text": pl.String, "question": pl.String, "candidate_id": pl.String},
    )


def kept(decide: Filter, rows: pl.DataFrame) -> list[bool]:
    decisions = decide(rows)
    assert dict(decisions.schema) == DECISION_COLUMNS
    assert decisions["candidate_id"].to_list() == rows["candidate_id"].to_list()
    return decisions["kept"].to_list()


said = st.lists(
    st.sampled_from(["a b c", "A, b c!", "a b", "b c d e", "x", "我们 喜欢", "我们喜欢", "?", "??", ""]),
    max_size=12,
)


@pytest.mark.parametrize("make", [first_of_equal, lambda: novel_by_rouge(0.6, "answer")])
@given(texts=said, size=st.integers(1, 5))
def test_parts_of_any_size_are_decided_alike(make: type[Filter], texts: list[str], size: int) -> None:
    rows = candidates(*texts)
    whole, piecewise = make()(rows), make()
    parts = [piecewise(part) for part in rows.iter_slices(size)] or [piecewise(rows)]
    assert pl.concat(parts).equals(whole)


@given(said)
def test_novelty_is_that_of_a_plain_loop(texts: list[str]) -> None:
    members: list[str] = []
    expected = []
    for text in texts:
        near = max((rouge_l_f1(text, one, words) for one in members), default=0.0)
        expected.append(near <= 0.6)
        members += [text] if near <= 0.6 else []
    assert kept(novel_by_rouge(0.6, "answer"), candidates(*texts)) == expected


@pytest.mark.parametrize(
    ("what", "expected"),
    [("both", [True, True, False]), ("question", [True, False, False]), ("answer", [True, True, False])],
)
def test_what_is_compared_of_an_example(what: Compared, expected: list[bool]) -> None:
    assert kept(first_of_equal(what), candidates("yes", "no", "Yes.")) == expected


def test_signs_alone_are_equal_only_to_themselves() -> None:
    assert kept(first_of_equal("answer"), candidates("🙂", "🙃", "🙂", "")) == [True, True, False, True]


def test_a_decision_names_the_nearest_that_was_kept() -> None:
    rows = candidates("请写一首关于秋天的诗", "请写一首关于春天的诗", "翻译这句话")
    first, second, third = novel_by_rouge(0.7, "answer")(rows).rows(named=True)
    assert (first["kept"], first["nearest_id"], first["score"]) == (True, None, None)
    assert (second["kept"], second["nearest_id"], second["score"]) == (False, "c:0", 0.9)
    assert second["reason"] == "ROUGE-L 0.9 to c:0, against at most 0.7"
    assert third["kept"]


def test_rouge_score_cannot_tell_texts_of_another_script_apart() -> None:
    rows = candidates("请写一首关于秋天的诗", "请写一首关于秋天的诗")
    assert kept(novel_by_rouge(0.7, "answer", TOKENISERS["rouge"]), rows) == [True, True]
    assert kept(novel_by_rouge(0.7, "answer"), rows) == [True, False]
