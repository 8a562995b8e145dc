"""Held-out responses and their improvements, round by round, over the language-model interface.

What is held out is read without its truth: a prompt and its place in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import polars as pl

from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Refining, Task
from selfimprove_dagster.families.refining.ways import ANSWER
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.methods.pit.pit import IMPROVEMENT, RESPONSE, better_asked
from selfimprove_dagster.prompts import Prompts

ORIGINAL, UNTAUGHT, PIT = "original", "untaught", "pit"
"""The ways of `improvement_rounds`: what is improved, and who improves it."""


Gaps = Callable[[LanguageModel, Sequence[str], Sequence[str], Sequence[str]], list[float]]
"""The gap reward of each response (third) to each prompt (second) against each reference (fourth); NaN where it
cannot be computed."""


Record = Callable[[Sequence[Draft]], pl.DataFrame]
"""Gives drafts their ids."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out prompt and its place in the file."""

    question: str
    source_file: str
    source_line: int


@dataclass(frozen=True)
class Improver:
    """A model that improves responses in one way, greedily; `prompts` are in the form that it reads."""

    model: LanguageModel
    prompts: Prompts
    way: str
    max_tokens: int
    progress: Progress | None = None

    def respond(self, asked: Sequence[HeldOut]) -> list[Draft]:
        """Round 0: the model's own response to each prompt."""
        nothing = [None] * len(asked)
        prompts = [self.prompts.ask(RESPONSE, **spoken(one.question)) for one in asked]
        return self._drafts(asked, 0, prompts, nothing, nothing)

    def improve(
        self, asked: Sequence[HeldOut], originals: pl.DataFrame, rounds: int, gaps: Gaps, record: Record
    ) -> list[Draft]:
        """`rounds` improvements of each original, each of what the round before made; an empty text is not improved.

        `originals` are the recorded rows of `respond`, in the order of `asked`.
        """
        made: list[Draft] = []
        current = originals
        for number in range(1, rounds + 1):
            says_something = current["text"].str.contains(r"\S")
            asked = [one for one, says in zip(asked, says_something, strict=True) if says]
            current = current.filter(says_something)
            if not asked:
                break
            before = current["text"].to_list()
            questions = [one.question for one in asked]
            prompts = [better_asked(self.prompts, *each) for each in zip(questions, before, strict=True)]
            ties = gaps(self.model, questions, before, before)
            drafts = self._drafts(asked, number, prompts, current["id"].to_list(), ties)
            rewards = gaps(self.model, questions, [str(one.content["text"]) for one in drafts], before)
            drafts = [
                Draft(one.content, one.parents, {**one.measures, **_gap(reward, one.measures)})
                for one, reward in zip(drafts, rewards, strict=True)
            ]
            made += drafts
            current = record(drafts)
        return made

    def _drafts(
        self,
        asked: Sequence[HeldOut],
        number: int,
        prompts: Sequence[str],
        improved: Sequence[str | None],
        ties: Sequence[float | None],
    ) -> list[Draft]:
        name = IMPROVEMENT if number else RESPONSE
        parameters = SamplingParameters(
            temperature=0.0,
            max_tokens=self.max_tokens,
            stop=self.prompts.stops(name),
            structure=self.prompts.structure(name),
        )
        encoded = self.model.encode_prompts(prompts)
        drawn = self.model.generate(encoded, [[0]] * len(encoded), parameters, self.progress)
        writer = Parent(self.model.model_id, "written_by")
        return [
            Draft(
                content={
                    "way": self.way,
                    "round": number,
                    "model_id": self.model.model_id,
                    "question": one.question,
                    "source_file": one.source_file,
                    "source_line": one.source_line,
                    "improves_id": before,
                    "prompt": prompt,
                    "text": path.text,
                    "finish_reason": path.finish_reason,
                    "prompt_tokens": len(ids),
                    "tokens": path.tokens,
                },
                parents=[writer, *([Parent(before, "improvement_of")] if before else [])],
                measures={"gap_reward": None, "tie_reward": tie, "problem": path.problem},
            )
            for one, prompt, ids, (path,), before, tie in zip(
                asked, prompts, encoded, drawn, improved, ties, strict=True
            )
        ]


def _gap(reward: float, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of an improvement with its gap reward; none of its rewards is NaN."""
    rewards = {"gap_reward": reward, "tie_reward": measures["tie_reward"]}
    known = {name: None if one is None or isnan(one) else one for name, one in rewards.items()}
    if measures["problem"] is None and None in known.values():
        return {**known, "problem": "too_long: a text is longer than the model of the gap reward reads"}
    return known


def refine(
    model: LanguageModel,
    prompts: Prompts,
    way: str,
    asked: Sequence[HeldOut],
    originals: pl.DataFrame,
    settings: Refining,
    record: Record,
    progress: Progress = lambda tasks, tokens: None,
) -> list[Draft]:
    """The answers of Self-Refine or Reflexion after each original, as far as each way goes.

    `originals` are the recorded rows of `respond`, in the order of `asked`. `progress` is called with the
    number of finished prompts.
    """
    tasks = [
        Task(one.question, one.question, text) for one, text in zip(asked, originals["text"], strict=True)
    ]
    refined = improve(model, tasks, way, settings, (0,), progress, prompts=prompts)
    current = originals["id"].to_list()
    made: list[Draft] = []
    for number in range(1, settings.rounds + 1):
        at, drafts = [], []
        for index, (held_out, one) in enumerate(zip(asked, refined, strict=True)):
            said = [step for step in one.steps if step.round == number]
            answer = next((step for step in said if step.kind == ANSWER and step.error is None), None)
            if answer is None:
                continue
            at.append(index)
            drafts.append(
                Draft(
                    content={
                        **vars(held_out),
                        "way": way,
                        "round": number,
                        "model_id": model.model_id,
                        "improves_id": current[index],
                        "prompt": answer.prompt,
                        "text": answer.text,
                        "finish_reason": answer.finish_reason,
                        "prompt_tokens": sum(step.tokens_in for step in said),
                        "tokens": sum(step.tokens_out for step in said),
                    },
                    parents=[Parent(model.model_id, "written_by"), Parent(current[index], "improvement_of")],
                    measures={"gap_reward": None, "tie_reward": None},
                )
            )
        for index, id in zip(at, record(drafts)["id"], strict=True):
            current[index] = id
        made += drafts
    return made
