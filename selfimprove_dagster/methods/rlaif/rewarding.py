"""The judge as what rewards a policy: direct RLAIF (Lee et al., 2309.00267, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from selfimprove_dagster.families.dialogues.constitution import choose_principle, load_constitution
from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import check_chooses
from selfimprove_dagster.language_model.prompting import Thinking
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.tokenising import decoder


@contextmanager
def reward_by_judge(
    path: str,
    options: Mapping[str, Any],
    written_by: str,
    constitution: str,
    seed: int,
    prompts: Mapping[str, Any],
    thinking: Mapping[str, Any],
) -> Iterator[Reward]:
    """Opens the reward that the judge at `path` gives: its rating, by a principle drawn for each prompt.

    `options` are those of its engine, `constitution` is a file. Responses are read with the tokenizer of the policy,
    which started from `written_by`, without the thoughts between its marks `thinking`. `prompts` are the arguments of
    `load_prompts`; their form is that which the judge reads.
    """
    principles = load_constitution(constitution)
    names = [principle.name for principle in principles.principles]
    texts = decoder(written_by, Thinking(**thinking))
    with closing(open_language_model(path, **options)) as judge:
        check_chooses(judge)
        shipped = [Path(file) for file in prompts["shipped"]]
        asking = load_prompts(shipped, judge.prompting, prompts["file"], prompts["stop"])

        def reward(prompts: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
            asked = [prompt.question for prompt in prompts]
            drawn = (choose_principle(names, seed, "rating", question) for question in asked)
            ratings = [principles[name].rating for name in drawn]
            return rate(judge, asking, asked, ratings, texts(completions))

        yield reward
