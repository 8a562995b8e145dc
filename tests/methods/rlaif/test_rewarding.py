"""Direct RLAIF: what the judge rewards, opened from plain data."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.embedded import DIALOGUE_MODEL
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.rlaif.rewarding import reward_by_judge
from selfimprove_dagster.methods.rlaif.stages import judged
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.training.tokenising import tokenise_examples, tokenise_prompts
from selfimprove_dagster.work.spec import Spec

pytestmark = pytest.mark.train


@pytest.mark.parametrize("own_judge", [False, True])
def test_the_judge_is_opened_once_on_the_device_that_overrides(
    own_judge: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []

    def watched(path: str, **options: Any) -> LanguageModel:
        opened.append({"path": path, **options})
        return open_language_model(path, **options)

    for room in ("resources.language_model", "methods.rlaif.rewarding"):
        monkeypatch.setattr(f"selfimprove_dagster.{room}.open_language_model", watched)
    model = {"path": str(DIALOGUE_MODEL), "device": "cuda:7"}
    settings: dict[str, Any] = {
        "name": "direct",
        "method": "rlaif",
        "model": model,
        "seeds": {"file": "embedded", "licence": "Apache-2.0"},
        "evaluation": {"file": "embedded"},
        "training": {"reward": "judge"},
        **({"judge": {"model": model}} if own_judge else {}),
    }
    lines: list[str] = []
    context: Any = SimpleNamespace(
        experiment=parse_experiment(settings, folder=tmp_path),
        language_model=LanguageModelResource(device="cpu"),
        lake=Lake(tmp_path / "lake"),
        log=lines.append,
        warn=lines.append,
    )
    rewarded = judged(context, Champion(str(DIALOGUE_MODEL)))
    with rewarded.opens.call():
        pass
    assert [(one["path"], one["device"]) for one in opened] == [(str(DIALOGUE_MODEL), "cpu")]
    with closing(open_language_model(DIALOGUE_MODEL, device="cpu")) as judge:
        assert judge.model_id == rewarded.model_id


def test_a_response_is_rewarded_by_its_rating_under_a_principle_of_its_prompt() -> None:
    base, questions = str(DIALOGUE_MODEL), ["Where is the tea?", "Who bakes?", "Where is the tea?"]
    responses = [" In the hall.", " Mara bakes.", " I would rather not say."]
    asked = [f"Human: {question}\n\nAssistant:" for question in questions]
    prompts = [*tokenise_prompts(base, zip(asked, questions, strict=True), TEXT)]
    written = [*tokenise_examples(base, zip(asked, responses, strict=True), TEXT)]
    opens = Spec.of(
        reward_by_judge,
        path=base,
        options={"device": "cpu"},
        written_by=base,
        constitution=str(HOUSEHOLD),
        seed=3,
        prompts={
            "shipped": [str(path) for path in registry.method("rlaif").prompts],
            "file": None,
            "stop": {},
        },
        thinking={},
    )
    with Spec(**json.loads(json.dumps(opens.to_json()))).call() as reward:
        rewards = reward(prompts, [one.completion_token_ids for one in written])
    constitution = load_constitution(str(HOUSEHOLD))
    asking = load_prompts(registry.method("rlaif").prompts, TEXT)
    with closing(open_language_model(base, device="cpu")) as judge:
        by_principle = [
            rate(judge, asking, questions, [principle.rating] * 3, responses)
            for principle in constitution.principles
        ]
    possible = [{round(rating, 4) for rating in ratings} for ratings in zip(*by_principle, strict=True)]
    assert all(round(reward, 4) in ratings for reward, ratings in zip(rewards, possible, strict=True))
    of_tea = [{round(given[place], 4) for given in by_principle} for place in (0, 2)]
    assert len({*rewards}) == 3 and of_tea[0] != of_tea[1]
