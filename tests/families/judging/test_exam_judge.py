"""A model that judges held-out answers: what it finds, when it is not trusted, and what is decided by it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.models import WritingModel
from kit.small_lake import write_lines

from selfimprove_dagster import registry
from selfimprove_dagster.cli.status import print_failed_answers
from selfimprove_dagster.evaluation.exam import accuracy_of_rows, failed_verdicts
from selfimprove_dagster.evaluation.judge import ExamJudgeSection
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.families.dialogues.files import read_held_out_prompts
from selfimprove_dagster.families.dialogues.settings import (
    DialogueEvaluationSection,
    JudgedDialogueEvaluationSection,
)
from selfimprove_dagster.families.judging.exam import ExamJudge
from selfimprove_dagster.families.judging.prompts import PROMPTS
from selfimprove_dagster.families.tasks.exam import read_held_out_tasks
from selfimprove_dagster.families.tasks.settings import TaskEvaluationSection
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts

QUESTIONS = ("What colour is snow?", "What colour is coal?", "What colour is grass?")
RIGHT = ("Snow is white.", "Coal is black.", "Grass is green.")
Row = dict[str, Any]


def knows(prompt: str) -> dict[str, float]:
    """A judge that knows a response that speaks of what the question asks, and prefers the longer of two such."""
    asked = re.findall(r"What colour is (\w+)\?", prompt)[-1]

    def worth(response: str) -> float:
        return (asked in response.lower()) * (1 + len(response))

    if "From 1 to 10:" in prompt:
        (response,) = re.findall(r"Assistant: (.*)\n", prompt)
        return {" 9": 1.0} if worth(response) else {" 2": 1.0}
    first, second = re.findall(r"^\([AB]\) (.*)$", prompt, re.MULTILINE)
    likely = 0.5 + 0.4 * ((worth(first) > worth(second)) - (worth(first) < worth(second)))
    return {" (A)": likely, " (B)": 1 - likely}


def says_a(prompt: str) -> dict[str, float]:
    """A judge that always prefers what it is shown first."""
    return {" (A)": 0.9, " (B)": 0.1}


def rows(texts: Sequence[str | None], role: str) -> list[Row]:
    common = {"source_file": "heldout.jsonl", "difficulty": None, "expected": None, "mode": "greedy"}
    return [
        {
            **common,
            "question": question,
            "source_line": line,
            "predicted": text,
            "text": text,
            "correct": None,
            "role": role,
            "model_id": f"b2:{role}",
        }
        for line, (question, text) in enumerate(zip(QUESTIONS, texts, strict=True), start=1)
    ]


def verdicts(
    section: dict[str, Any],
    answers: dict[str, Sequence[str | None]],
    writes: Callable[[str], dict[str, float]] = knows,
    kind: type[WritingModel] = WritingModel,
) -> pl.DataFrame:
    def open_model(path: str, section: ModelSection | None = None) -> AbstractContextManager[Any]:
        return nullcontext(None)

    prompts = load_prompts([PROMPTS], TEXT)
    judge = ExamJudge(ExamJudgeSection(**section), ModelSection(path="none"), prompts, 3, open_model)
    model: Any = kind(writes)
    found = judge.verdicts(model, {role: rows(texts, role) for role, texts in answers.items()})
    for row in found:
        row.pop("answers")
    return pl.DataFrame(found, infer_schema_length=None)


def correct(found: pl.DataFrame, role: str, mode: str = "judged") -> list[bool]:
    return found.filter(role=role, mode=mode)["correct"].to_list()


def test_a_comparison_says_which_of_two_models_answers_better() -> None:
    better = ("Snow is white as milk.", RIGHT[1], "I do not know.")
    found = verdicts({}, {"champion": RIGHT, "challenger": better})
    assert correct(found, "challenger") == [True, False, False]
    assert correct(found, "champion") == [False, False, True]
    first = found.filter(role="challenger", mode="judged")
    assert first["as_first"].to_list() == pytest.approx([0.9, None, 0.1])
    assert first["as_second"].to_list() == pytest.approx([0.9, None, 0.1])


def test_the_base_model_is_compared_with_the_challenger_apart_from_the_champion() -> None:
    silent = ("", "", "")
    found = verdicts({}, {"champion": RIGHT, "challenger": ("x",) * 3, "base": silent})
    assert correct(found, "challenger") == [False] * 3
    assert correct(found, "champion") == [True] * 3
    assert correct(found, "challenger", "judged_against_base") == [True] * 3
    assert correct(found, "base", "judged_against_base") == [False] * 3


class Forgetful(WritingModel):
    """Cannot score a prompt that says "Coal"."""

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        found = super().score(contexts, continuations)
        return [
            [nan] * len(row) if "Coal" in self.decode(context) else row
            for context, row in zip(contexts, found, strict=True)
        ]


@pytest.mark.parametrize("by", ["comparison", "rating"])
def test_a_verdict_that_cannot_be_made_is_wrong_and_has_a_problem(
    by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    better = ("Snow is white as milk.", RIGHT[1] + " Very.", "I do not know.")
    found = verdicts({"by": by}, {"champion": RIGHT, "challenger": better}, kind=Forgetful)
    whole = verdicts({"by": by}, {"champion": RIGHT, "challenger": better})
    assert len(found) == len(whole), "what could not be judged stays among those that count"
    for role in ("champion", "challenger"):
        (failed,) = found.filter(pl.col("problem").is_not_null(), role=role, mode="judged").to_dicts()
        assert (failed["source_line"], failed["correct"], failed["predicted"]) == (2, False, None)
        assert failed["problem"] == "failed: the engine gave no probabilities"
        others = correct(found.filter(pl.col("source_line") != 2), role)
        assert others == correct(whole.filter(pl.col("source_line") != 2), role)
    control = found.filter(mode="judge_control")
    assert control["correct"].to_list() == [one is None for one in control["problem"]]
    assert control["problem"].null_count() == 1 and len(failed_verdicts(found)) == 4
    print_failed_answers(found.to_dicts())
    assert "4 verdicts could not be made, which counts as wrong" in capsys.readouterr().out


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_answer_that_says_nothing_loses_without_being_shown(nothing: str | None) -> None:
    def never(prompt: str) -> dict[str, float]:
        raise AssertionError(prompt)

    silent = (nothing,) * 3
    found = verdicts({"control_questions": 0}, {"champion": silent, "challenger": RIGHT}, never)
    assert correct(found, "challenger") == [True] * 3
    found = verdicts({"by": "rating"}, {"champion": silent}, never)
    assert correct(found, "champion") == [False] * 3
    assert found["rating"].to_list() == [None] * 3


def test_a_judge_that_follows_the_position_prefers_nothing() -> None:
    found = verdicts({}, {"champion": RIGHT, "challenger": ("Snow.", "Coal.", "Grass.")}, says_a)
    assert not any(correct(found, "champion") + correct(found, "challenger"))
    assert correct(found, "champion", "judge_control") == [False] * 3


def test_a_rating_counts_as_correct_from_the_threshold_on() -> None:
    answers = {"champion": RIGHT, "challenger": (RIGHT[1], RIGHT[1], RIGHT[0])}
    found = verdicts({"by": "rating"}, answers)
    assert correct(found, "champion") == [True] * 3
    assert correct(found, "challenger") == [False, True, False]
    assert found.filter(role="challenger", mode="judged")["rating"].to_list() == pytest.approx([2, 9, 2])
    assert not any(correct(verdicts({"by": "rating", "least_rating": 9.5}, answers), "champion"))


@pytest.mark.parametrize("by", ["comparison", "rating"])
def test_the_control_asks_for_the_answer_to_the_question_itself(by: str) -> None:
    found = verdicts({"by": by}, {"champion": RIGHT, "challenger": RIGHT})
    assert correct(found, "champion", "judge_control") == [True] * 3
    assert found.filter(mode="judge_control")["role"].unique().to_list() == ["champion"]
    few = verdicts({"by": by, "control_questions": 2}, {"champion": RIGHT, "challenger": RIGHT})
    assert correct(few, "champion", "judge_control") == [True] * 2
    alike = verdicts({"by": by}, {"champion": ("Yes.",) * 3, "challenger": RIGHT})
    assert correct(alike, "champion", "judge_control") == []


def test_one_model_alone_is_rated_but_not_compared() -> None:
    rated = verdicts({"by": "rating"}, {"model": RIGHT})
    assert [mode for mode, *_ in accuracy_of_rows(rated.to_dicts())] == ["judged", "judge_control"]
    compared = verdicts({}, {"model": RIGHT})
    assert compared["mode"].unique().to_list() == ["judge_control"]


# ---- files ---------------------------------------------------------------------------------------------


def test_the_252_user_oriented_instructions_are_held_out_tasks(shared_data: Path) -> None:
    file = shared_data / "self_instruct" / "user_oriented_instructions.jsonl"
    tasks, rejected = read_held_out_tasks(TaskEvaluationSection(file=str(file), max_tokens=256))
    assert (len(tasks), rejected) == (252, [])
    first = json.loads(file.read_text().splitlines()[0])
    assert tasks[0].instruction == first["instruction"]
    assert tasks[0].input == first["instances"][0]["input"]
    assert tasks[0].answer == first["instances"][0]["output"]


@pytest.mark.parametrize(
    ("row", "with_judge", "without"),
    [
        ({"instruction": "Name a river."}, "", "output"),
        ({"instruction": "Name a river.", "instances": [{"input": "", "output": ""}]}, "", "output"),
        ({"instruction": "Name a river.", "instances": [{"input": "in Asia", "output": "Ob"}]}, "", ""),
        ({"instruction": "Name a river.", "instances": []}, "instances", "instances"),
        ({"instruction": "Add.", "instances": [{"output": "1"}, {"output": "2"}]}, "instances", "instances"),
        ({"instruction": "Add.", "instances": ["1"]}, "instances", "instances"),
    ],
)
def test_a_task_needs_an_output_only_without_a_judge(
    row: Row, with_judge: str, without: str, tmp_path: Path
) -> None:
    file = str(write_lines(tmp_path / "tasks.jsonl", [row]))
    for judge, expected in ((ExamJudgeSection(), with_judge), (None, without)):
        tasks, rejected = read_held_out_tasks(TaskEvaluationSection(file=file, max_tokens=8, judge=judge))
        assert len(tasks) == (not expected)
        assert not expected or f"`{expected}`" in rejected[0].reason


def test_a_prompt_needs_phrases_only_without_a_judge(tmp_path: Path) -> None:
    file = str(write_lines(tmp_path / "prompts.jsonl", [{"prompt": "Tell me of rivers."}]))
    judged = JudgedDialogueEvaluationSection(file=file, max_tokens=8, judge=ExamJudgeSection())
    assert len(read_held_out_prompts(judged)[0]) == 1
    for section in (
        JudgedDialogueEvaluationSection(file=file, max_tokens=8),
        DialogueEvaluationSection(file=file, max_tokens=8),
    ):
        assert "`wanted`" in read_held_out_prompts(section)[1][0].reason


@pytest.mark.parametrize(
    "method", ["constitutional", "rlaif", "rlhf", "self_instruct", "unnatural_instructions"]
)
def test_methods_with_a_judge_have_its_checks_prompts_and_columns(method: str) -> None:
    declared = registry.method(method)
    table = declared.tables[f"{method}/evaluation"]
    assert {"judge_control", "judge_orders"} <= {check.name for check in table.checks}
    assert {"rating", "as_first", "as_second"} <= {*table.measures} & {*table.later}
    assert PROMPTS in declared.prompts
