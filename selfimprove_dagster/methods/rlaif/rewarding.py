"""The judge as what rewards a policy: direct RLAIF (Lee et al., 2309.00267, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from selfimprove_dagster.families.dialogues.constitution import choose_principle, load_constitution
from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import check_scores
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.tokenising import decoder


@contextmanager
def reward_by_judge(
    path: str, options: Mapping[str, Any], written_by: str, constitution: str, seed: int
) -> Iterator[Reward]:
    """Opens the reward that the judge at `path` gives: its rating, by a principle drawn for each prompt.

    `options` are those of its engine, `constitution` is a file. Responses are read with the tokenizer of the policy,
    which started from `written_by`.
    """
    principles = load_constitution(constitution)
    names = [principle.name for principle in principles.principles]
    texts = decoder(written_by)
    with closing(open_language_model(path, **options)) as judge:
        check_scores(judge)

        def reward(prompts: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
            asked = [prompt.question for prompt in prompts]
            drawn = (choose_principle(names, seed, "rating", question) for question in asked)
            return rate(judge, asked, [principles[name].rating for name in drawn], texts(completions))

        yield reward
