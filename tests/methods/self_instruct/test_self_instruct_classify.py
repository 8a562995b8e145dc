"""Whether a task is a classification task, from the probabilities of Yes and No."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kit.models import WritingModel

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.self_instruct.instance_stages import classify
from selfimprove_dagster.methods.self_instruct.prompts import PROMPTS
from selfimprove_dagster.prompts import load_prompts


def answers(model: WritingModel, *instructions: str) -> list[tuple[bool, float]]:
    items = [{"id": f"r:{text}", "instruction": text} for text in instructions]
    shard: Any = SimpleNamespace(
        items=items,
        model=model,
        prompts=load_prompts([PROMPTS], TEXT),
        report=SimpleNamespace(advance=lambda units, tokens=0: None),
    )
    drafts = classify(shard, shown=[("Sort the list.", False)], demonstrations=[])
    return [(draft.content["is_classification"], draft.measures["yes"]) for draft in drafts]


def test_the_more_probable_answer_counts() -> None:
    model = WritingModel(
        lambda prompt: (
            {" Yes": 0.6, " No": 0.2, " Perhaps": 0.2} if "spam" in prompt else {" Yes": 0.1, " No": 0.9}
        )
    )
    (spam, yes), (other, rarely) = answers(model, "Is it spam?", "Write a poem.")
    assert (spam, other) == (True, False)
    assert (yes, rarely) == pytest.approx((0.75, 0.1))


def test_a_tokenizer_that_cannot_tell_yes_from_no_is_refused() -> None:
    class Coarse(WritingModel):
        def encode_continuation(self, text: str) -> list[int]:
            return [7]

    with pytest.raises(ModelError, match="reads the options ' Yes' and ' No' as the same tokens"):
        answers(Coarse(lambda prompt: {" Yes": 1.0}), "Is it spam?")
