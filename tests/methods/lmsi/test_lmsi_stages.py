"""The rows that the stages of LMSI make of a shard."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from kit.small_lake import activity_of, make_experiment

from selfimprove_dagster.families.voting.counting import recount
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.lmsi.stages import count_votes
from selfimprove_dagster.methods.lmsi.tables import VOTED_ANSWERS
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.shards import Rows, Shard


def votes_of(folder: Path, paths: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    """The records of the votes on paths: question, id, sample index and text of each."""
    frame = pl.DataFrame(
        paths,
        schema={"question_id": pl.String, "id": pl.String, "sample_index": pl.Int32, "text": pl.String},
        orient="row",
    ).with_columns(question=pl.format("What is {}?", "question_id"))
    activity = activity_of(VOTED_ANSWERS)
    experiment = cast("LmsiExperiment", make_experiment(folder))
    shard: Shard[LmsiExperiment, Row] = Shard(Rows(frame), experiment, 0, activity, cast("Any", None))
    return build_records(VOTED_ANSWERS, count_votes(shard), activity)


def test_a_vote_names_its_question_and_its_paths_in_sample_order(tmp_path: Path) -> None:
    rows = votes_of(
        tmp_path,
        [
            ("q:2", "p:c", 0, "No idea."),
            ("q:1", "p:b", 1, "The answer is 8."),
            ("q:1", "p:d", 2, "So the answer is 7."),
            ("q:1", "p:a", 0, "The answer is 7."),
        ],
    ).rows(named=True)
    assert [row["question_id"] for row in rows] == ["q:2", "q:1"]
    unread, voted = rows
    assert (unread["question"], unread["voted_answer"], unread["votes"]) == ("What is q:2?", None, [])
    assert unread["paths"] == [{"id": "p:c", "answer": None}]
    assert voted["voted_answer"] == "7"
    assert voted["paths"] == [
        {"id": "p:a", "answer": "7"},
        {"id": "p:b", "answer": "8"},
        {"id": "p:d", "answer": "7"},
    ]
    assert voted["parents"] == [
        {"id": "q:1", "role": "question"},
        {"id": "p:a", "role": "voted_from"},
        {"id": "p:b", "role": "voted_from"},
        {"id": "p:d", "role": "voted_from"},
    ]


def test_no_paths_give_no_votes(tmp_path: Path) -> None:
    assert votes_of(tmp_path, []).is_empty()


def test_a_vote_records_what_read_each_answer(tmp_path: Path) -> None:
    texts = [r"So \boxed{\sqrt{12}}", "No idea.", "The answer is $2 \\sqrt 3$."]
    paths = [("q:1", f"p:{at}", at, text) for at, text in enumerate(texts)]
    (row,) = votes_of(tmp_path, paths).rows(named=True)
    assert row["read_by"] == ["box: expression", None, "statement: expression"]
    assert row["voted_answer"] == r"2\sqrt{3}"
    assert (row["vote_share"], row["readable_share"], row["weights"]) == (2 / 3, 2 / 3, None)


def test_weighted_votes_are_recorded_and_can_be_counted_again(tmp_path: Path) -> None:
    said = [("7", [-2.0, -2.0]), ("7", [-3.0]), ("8", [-0.1, -0.1, -0.1]), ("", [-0.5])]
    frame = pl.DataFrame(
        [
            {
                "question_id": "q:1",
                "question": "?",
                "id": f"p:{at}",
                "sample_index": at,
                "text": f"The answer is {answer}.",
                "logprobs": logprobs,
            }
            for at, (answer, logprobs) in enumerate(said)
        ]
    )
    experiment = cast("LmsiExperiment", make_experiment(tmp_path, voting={"weights": "probability"}))
    activity = activity_of(VOTED_ANSWERS)
    shard: Shard[LmsiExperiment, Row] = Shard(Rows(frame), experiment, 0, activity, cast("Any", None))
    (row,) = build_records(VOTED_ANSWERS, count_votes(shard), activity).rows(named=True)
    weights = [exp(-2.0), exp(-3.0), exp(-0.1), exp(-0.5)]
    assert row["weights"] == pytest.approx(weights)
    assert (row["voted_answer"], row["tie"], row["n_valid"]) == ("8", False, 3)
    assert row["vote_share"] == pytest.approx(weights[2] / sum(weights))
    assert recount(row) is None
    assert "not" in str(recount({**row, "vote_share": 1 / 4}))
    assert recount({**row, "voted_answer": "7"}) is not None


def test_votes_of_an_earlier_version_are_recounted_as_they_were(tmp_path: Path) -> None:
    paths = [("q:1", "p:0", 0, "The answer is 7."), ("q:1", "p:1", 1, "No idea.")]
    (row,) = votes_of(tmp_path, paths).rows(named=True)
    assert row["vote_share"] == 0.5 and recount(row) is None
    earlier = {**row, "vote_share": 1.0, "readable_share": None}
    assert recount(earlier) is None
    assert recount({**row, "vote_share": 1.0}) is not None
