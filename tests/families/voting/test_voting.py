"""The self-consistency vote."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from selfimprove_dagster.families.voting.voting import INPUT_COLUMNS, SCHEMA, vote

Path = tuple[str, str, int, str | None, str]
INPUT = dict(zip(INPUT_COLUMNS, (pl.String, pl.String, pl.Int64, pl.String, pl.String), strict=True))


def paths_of(answers: dict[str, list[str | None]]) -> pl.DataFrame:
    """One path an answer, in sample order, all of different text."""
    rows = [
        (question, f"{question}-{index}", index, answer, f"text {index}")
        for question, given in answers.items()
        for index, answer in enumerate(given)
    ]
    return pl.DataFrame(rows, schema=INPUT, orient="row")


def one(answers: list[str | None], **options: Any) -> dict[str, Any]:
    return vote(paths_of({"q": answers}), **options).row(0, named=True)


def counter_vote(rows: list[Path]) -> list[dict[str, Any]]:
    """The same vote, a question at a time."""
    table = []
    for question in dict.fromkeys(row[0] for row in rows):
        paths = sorted((row for row in rows if row[0] == question), key=lambda row: (row[2], row[1]))
        votes = Counter(row[3] for row in paths if row[3] is not None).most_common()
        counts = [count for _, count in votes] + [0, 0]
        valid, every = sum(counts), len(paths)
        table.append(
            {
                "question_id": question,
                "voted_answer": votes[0][0] if votes else None,
                "votes": [{"answer": answer, "count": count} for answer, count in votes],
                "n_paths": len(paths),
                "n_valid": valid,
                "n_distinct_paths": len({row[4] for row in paths}),
                "n_distinct_answers": len(votes),
                "vote_share": counts[0] / every if valid else None,
                "margin": (counts[0] - counts[1]) / every if valid else None,
                "readable_share": valid / every,
                "tie": 0 < counts[0] == counts[1],
                "path_ids": [row[1] for row in paths],
                "answers": [row[3] for row in paths],
            }
        )
    return table


def test_the_most_frequent_answer_wins() -> None:
    assert one(["5", "18", None, "18", "7", "18"]) == {
        "question_id": "q",
        "voted_answer": "18",
        "votes": [
            {"answer": "18", "count": 3},
            {"answer": "5", "count": 1},
            {"answer": "7", "count": 1},
        ],
        "n_paths": 6,
        "n_valid": 5,
        "n_distinct_paths": 6,
        "n_distinct_answers": 3,
        "vote_share": 3 / 6,
        "margin": 2 / 6,
        "readable_share": 5 / 6,
        "tie": False,
        "path_ids": ["q-0", "q-1", "q-2", "q-3", "q-4", "q-5"],
        "answers": ["5", "18", None, "18", "7", "18"],
    }


def test_a_tie_goes_to_the_answer_that_came_first_and_is_recorded() -> None:
    row = one(["7", "5", "5", "7"])
    assert (row["voted_answer"], row["tie"], row["margin"], row["vote_share"]) == ("7", True, 0.0, 0.5)


def test_first_is_by_sample_index_whatever_the_order_of_rows() -> None:
    backwards = paths_of({"q": ["7", "5", "5", "7"]}).reverse()
    assert vote(backwards).row(0, named=True) == one(["7", "5", "5", "7"])


def test_an_unread_answer_is_not_a_vote_even_when_it_is_most_frequent() -> None:
    row = one([None, None, None, "5"])
    assert (row["voted_answer"], row["n_valid"], row["vote_share"], row["margin"]) == ("5", 1, 0.25, 0.25)
    assert row["readable_share"] == 0.25
    assert one([*[None] * 31, "5"])["vote_share"] == 1 / 32  # the paper divides by all m paths


@pytest.mark.parametrize("rule", ["majority", "random_path"])
def test_without_a_vote_there_is_no_answer(rule: Any) -> None:
    row = one([None, None], rule=rule)
    assert (row["voted_answer"], row["vote_share"], row["margin"], row["tie"]) == (None, None, None, False)
    assert (row["votes"], row["n_valid"], row["n_paths"], row["n_distinct_answers"]) == ([], 0, 2, 0)


@pytest.mark.parametrize("rule", ["majority", "random_path"])
def test_the_schema_is_fixed_even_when_there_is_nothing(rule: Any) -> None:
    assert vote(pl.DataFrame(schema=INPUT), rule=rule).schema == SCHEMA
    assert vote(paths_of({"q": ["5"]}), rule=rule).schema == SCHEMA
    assert vote(paths_of({"q": [None]}), rule=rule).schema == SCHEMA
    untyped = paths_of({"q": [None]}).with_columns(answer=pl.lit(None))
    assert vote(untyped, rule=rule).schema == SCHEMA


def test_paths_of_one_text_are_counted_once_as_texts() -> None:
    paths = paths_of({"q": ["5", "5", "6"]}).with_columns(text_key=pl.Series(["a", "a", "b"]))
    assert vote(paths)["n_distinct_paths"].to_list() == [2]


def test_paths_that_share_a_sample_index_are_ordered_by_id() -> None:
    rows = [("q", "b", 0, "6", "x"), ("q", "a", 0, "5", "y")]
    row = vote(pl.DataFrame(rows, schema=INPUT, orient="row")).row(0, named=True)
    assert (row["path_ids"], row["voted_answer"]) == (["a", "b"], "5")


def test_sample_indices_may_be_any_64_bit_integers() -> None:
    rows = [("q", "a", 2**62, "6", "x"), ("q", "b", -(2**62), "5", "y"), ("r", "c", 0, "1", "z")]
    assert vote(pl.DataFrame(rows, schema=INPUT, orient="row"))["voted_answer"].to_list() == ["5", "1"]


def test_random_path_is_repeatable_and_moves_with_the_seed() -> None:
    paths = paths_of({f"q{number}": ["5", "6", None, "7"] for number in range(200)})
    drawn = vote(paths, rule="random_path", seed=1)
    assert_frame_equal(drawn, vote(paths, rule="random_path", seed=1))
    shuffled = vote(paths.sample(fraction=1, shuffle=True, seed=3), rule="random_path", seed=1)
    assert_frame_equal(drawn.sort("question_id"), shuffled.sort("question_id"))
    other = vote(paths, rule="random_path", seed=2)
    assert drawn["voted_answer"].to_list() != other["voted_answer"].to_list()
    # Fixed for ever: a run of last year must draw the same paths.
    assert drawn["voted_answer"].head(8).to_list() == ["7", "6", "6", "5", "5", "6", "5", "5"]


def test_random_path_draws_paths_uniformly_so_answers_by_their_share() -> None:
    paths = paths_of({f"q{number}": ["5", None, "6", "5", "5"] for number in range(4000)})
    drawn = vote(paths, rule="random_path", seed=0)
    share = (drawn["voted_answer"] == "5").mean()
    assert isinstance(share, float)
    assert abs(share - 0.75) < 0.03  # four standard deviations
    lost = drawn.filter(pl.col("voted_answer") == "6").row(0, named=True)
    assert (lost["vote_share"], lost["margin"], lost["tie"]) == (0.2, -0.4, False)
    won = drawn.filter(pl.col("voted_answer") == "5").row(0, named=True)
    assert (won["vote_share"], won["margin"]) == (0.6, 0.4)


def test_what_cannot_be_voted_on_is_refused() -> None:
    paths = paths_of({"q": ["5"]})
    with pytest.raises(ValueError, match="unknown rule 'best': choose one of majority, random_path"):
        vote(paths, rule="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing: answer, text_key"):
        vote(paths.drop("answer", "text_key"))
    with pytest.raises(ValueError, match="1 paths have no question_id"):
        vote(paths.with_columns(question_id=pl.lit(None, dtype=pl.String)))


# --- weights ---


def weighted(answers: list[str | None], weights: list[float | None]) -> dict[str, Any]:
    return vote(paths_of({"q": answers}).with_columns(weight=pl.Series(weights))).row(0, named=True)


def test_weights_decide_and_all_paths_count_in_the_share() -> None:
    row = weighted(["5", "5", "6", None], [0.1, 0.2, 0.4, 0.3])
    assert (row["voted_answer"], row["vote_share"], row["margin"]) == ("6", 0.4, pytest.approx(0.1))
    assert row["votes"] == [{"answer": "6", "count": 1}, {"answer": "5", "count": 2}]
    assert (row["readable_share"], row["tie"]) == (0.75, False)
    tied = weighted(["5", "5", "6"], [0.1, 0.2, 0.3])
    assert (tied["voted_answer"], tied["tie"], tied["margin"]) == ("5", True, 0.0)
    assert weighted(["5", "6"], [None, 0.5])["voted_answer"] == "6"
    assert weighted(["5"], [0.0])["vote_share"] is None


@given(st.lists(st.tuples(st.sampled_from(["5", "6", None]), st.floats(0, 1)), min_size=1, max_size=20))
def test_equal_weights_vote_as_none_do(rows: list[tuple[str | None, float]]) -> None:
    answers = [answer for answer, _ in rows]
    assert weighted(answers, [0.5] * len(rows)) == one(answers)
    assert weighted(answers, [1.0] * len(rows)) == one(answers)


# --- any paths ---

path_rows = st.lists(
    st.tuples(
        st.sampled_from(["q", "r", "s"]),
        st.sampled_from([None, "5", "6", "1/3", "yes", ""]),
        st.integers(0, 30),
        st.sampled_from(["x", "y", "z"]),
    ),
    max_size=40,
).map(lambda rows: [(q, f"p{i}", index, answer, text) for i, (q, answer, index, text) in enumerate(rows)])


def table(rows: list[Path]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=INPUT, orient="row")


@given(path_rows)
def test_the_vote_is_the_one_of_a_counter(rows: list[Path]) -> None:
    assert vote(table(rows)).to_dicts() == counter_vote(rows)


@given(path_rows, st.randoms(use_true_random=False), st.sampled_from(["majority", "random_path"]))
def test_the_order_of_rows_does_not_matter(rows: list[Path], chance: random.Random, rule: Any) -> None:
    shuffled = rows.copy()
    chance.shuffle(shuffled)
    assert_frame_equal(
        vote(table(rows), rule=rule).sort("question_id"), vote(table(shuffled), rule=rule).sort("question_id")
    )


@given(path_rows, st.sampled_from(["majority", "random_path"]))
def test_paths_without_an_answer_change_no_vote(rows: list[Path], rule: Any) -> None:
    silent = [(question, f"silent-{index}", index, None, "…") for question in "qrs" for index in (0, 7, 30)]
    verdict = ["question_id", "voted_answer", "votes", "n_valid", "tie"]
    before = vote(table(rows), rule=rule).select(verdict)
    after = vote(table([*rows, *silent]), rule=rule).select(verdict)
    assert_frame_equal(before, after.filter(pl.col("question_id").is_in(before["question_id"].to_list())))
