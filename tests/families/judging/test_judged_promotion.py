"""A checkpoint is promoted by what a judge says of held-out responses to prompts without any mark of a good one."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from kit import homes
from kit.homes import entered
from kit.judging_home import EXPERIMENTS, rows, run
from kit.small_lake import write_lines
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.embedded import DIALOGUE_EVALUATION
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.quality.suites import run_suite

pytestmark = [pytest.mark.slow, pytest.mark.train]

PROMPTS = 16


def make(folder: Path) -> Home:
    """A home whose experiment `compared` has been run, and `rated` has not."""
    lines = [json.loads(line) for line in DIALOGUE_EVALUATION.read_text().splitlines()[:PROMPTS]]
    file = write_lines(folder / "prompts.jsonl", [{"prompt": line["prompt"]} for line in lines])
    judge = {"model": {"path": "embedded"}, "on_failure": "warn", "control_questions": 8}
    held_out = {"file": str(file), "max_tokens": 32}
    cai = EXPERIMENTS["cai"]
    made = homes.make_home(
        folder,
        {**cai, "name": "compared", "evaluation": {**held_out, "judge": judge}},
        {**cai, "name": "rated", "evaluation": {**held_out, "judge": {**judge, "by": "rating"}}},
    )
    run(made, "compared")
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make(tmp_path_factory.mktemp("judged"))


def test_the_verdicts_are_rows_of_the_evaluation(home: Home) -> None:
    found = rows(home, "constitutional/evaluation", "compared")
    greedy = found.filter(mode="greedy")
    assert greedy["correct"].null_count() == len(greedy) == 2 * PROMPTS
    judged = found.filter(mode="judged")
    assert judged.group_by("role").len().sort("role").rows() == [
        ("challenger", PROMPTS),
        ("champion", PROMPTS),
    ]
    both = judged.filter(role="champion").join(
        judged.filter(role="challenger"), on=["source_file", "source_line"], suffix="_then"
    )
    assert not (both["correct"] & both["correct_then"]).any()
    shown = both.filter(pl.col("text") != pl.col("text_then")).drop_nulls("as_first")
    assert (shown["as_first"] + shown["as_second_then"]).to_list() == pytest.approx([1.0] * len(shown))
    assert 0 < len(found.filter(mode="judge_control")) <= 8
    edges = judged.explode("parents").unnest("parents", separator=".")
    assert edges.filter(pl.col("parents.role") == "judged_by")["parents.id"].n_unique() == 1
    answers = dict(greedy.select("id", "role").iter_rows())
    for row in judged.iter_rows(named=True):
        shown = {edge["role"]: answers.get(edge["id"]) for edge in row["parents"]}
        assert {shown["judged"], shown["compared_with"]} == {"champion", "challenger"}
        assert shown["judged"] == row["role"]


def test_promotion_is_decided_by_them(home: Home) -> None:
    judged = rows(home, "constitutional/evaluation", "compared").filter(mode="judged")
    (decision,) = rows(home, "constitutional/promotion", "compared").iter_rows(named=True)
    assert decision["questions"] == PROMPTS
    for role in ("champion", "challenger"):
        assert decision[f"{role}_accuracy"] == pytest.approx(judged.filter(role=role)["correct"].mean())
    assert decision["gained"] == judged.filter(role="challenger")["correct"].sum()


def test_checks_verification_and_commands_know_them(home: Home) -> None:
    checked = run_suite("constitutional/evaluation", home.lake, home.experiment("compared"), 0)
    found = {check.name: check for check in checked}
    assert "from the answer to another question" in found["judge_control"].reason
    assert not found["judge_control"].blocking
    assert found["judge_orders"].evaluated > 0 or "no pair" in found["judge_orders"].reason
    assert found["all_questions_answered"].passed
    assert verify(home.lake).findings == []
    (row,) = (
        rows(home, "constitutional/evaluation", "compared")
        .filter(mode="judged")
        .head(1)
        .iter_rows(named=True)
    )
    with entered(home):
        said = CliRunner().invoke(app, ["lineage", "trace", row["id"]])
        assert said.exit_code == 0 and row["id"] in said.output
        (own,) = (edge["id"] for edge in row["parents"] if edge["role"] == "judged")
        for answer in (row["id"], own):
            said = CliRunner().invoke(app, ["lineage", "explain", answer])
            assert said.exit_code == 0 and "never for training" in said.output
            assert "was trained on" not in said.output
        said = CliRunner().invoke(app, ["status", "compared"])
        assert said.exit_code == 0 and "judged" in said.output


def test_a_single_model_is_rated_from_the_command_line(home: Home) -> None:
    with entered(home):
        said = CliRunner().invoke(app, ["evaluate", "rated"])
    assert said.exit_code == 0, said.output
    assert "judged" in said.output and "judge_control" in said.output


def test_the_same_judge_gives_the_same_rows_when_it_is_asked_again(home: Home, tmp_path: Path) -> None:
    """What a killed run finds when it resumes."""
    before, again = (rows(one, "constitutional/evaluation", "compared") for one in (home, make(tmp_path)))
    assert again["id"].equals(before["id"])
