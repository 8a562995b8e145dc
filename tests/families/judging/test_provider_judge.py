"""A provider's model as judge, and as the model behind a tool, asked by the shipped prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kit import provider as kit
from kit.provider import Provider

from selfimprove_dagster.experiment.opening import opening_options
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.judging.comparing import Pair, compare_pairs, expected_ratings
from selfimprove_dagster.families.judging.prompts import PROMPTS
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.tools.base import ToolError
from selfimprove_dagster.tools.model_tools import QA


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    with kit.running() as running:
        yield running


@pytest.fixture
def judge(provider: Provider) -> LanguageModel:
    section = ModelSection.model_validate(
        {"path": "judge-1", "engine": "chat", "server": {"url": provider.url, "attempts": 1}}
    )
    return open_language_model(section.path, **opening_options(section))


def prefers_kind(body: Mapping[str, Any]) -> str:
    """Name the response that is kind, wherever it is shown."""
    found = re.search(r"^([AB])\. It is kind\.$", body["messages"][-1]["content"], re.MULTILINE)
    return f"Option {found[1]}." if found else "Neither."


@pytest.mark.parametrize("reasoning", [False, True])
def test_a_judge_by_text_compares_in_both_orders(
    provider: Provider, judge: LanguageModel, reasoning: bool
) -> None:
    provider.says = prefers_kind
    pairs = [
        Pair("p:1", "How do I say no?", ("r:1", "r:2"), ("It is kind.", "It is rude.")),
        Pair("p:2", "How do I say yes?", ("r:3", "r:4"), ("It is rude.", "It is rough.")),
    ]
    drafts = compare_pairs(
        judge,
        load_prompts([PROMPTS], judge.prompting),
        pairs,
        load_constitution(HOUSEHOLD),
        JudgeSection(repeated_share=0.0, reasoning=reasoning),
        (0,),
    )
    found = [
        (one.content["prompt_id"], one.content["order"], one.measures["probability_a"]) for one in drafts
    ]
    assert found == [("p:1", 0, 1.0), ("p:1", 1, 0.0), ("p:2", 0, None), ("p:2", 1, None)]
    problems = [one.measures["problem"] for one in drafts]
    assert problems[:2] == [None, None]
    assert all(problem.endswith("named none of the options") for problem in problems[2:])


def test_a_judge_by_text_rates(provider: Provider, judge: LanguageModel) -> None:
    provider.says = lambda body: "10" if "kind" in body["messages"][-1]["content"] else "I rate it 1."
    said = ["It is kind.", "It is rude."]
    prompts = load_prompts([PROMPTS], judge.prompting)
    assert expected_ratings(judge, prompts, ["Hello?"] * 2, ["How good?"] * 2, said) == [10.0, 1.0]


def test_a_provider_answers_the_questions_of_a_tool(provider: Provider, judge: LanguageModel) -> None:
    provider.says = lambda body: "Leipzig\nIt is in Saxony."
    provider.poisons = {"bomb": kit.status(400)}
    found = QA(judge).run_all(["Where was she born?", "What is a bomb?"])
    assert found[0] == "Leipzig"
    assert isinstance(found[1], ToolError) and "refused with status 400" in found[1].reason
