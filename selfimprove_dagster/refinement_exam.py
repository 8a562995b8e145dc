"""The exam of refinement without training: held-out prompts, answered, then refined in each way, every round
judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.dialogue_exam import GREEDY, cut, judged
from selfimprove_dagster.dialogue_files import HeldOutPrompt
from selfimprove_dagster.evaluation import Exam, Part
from selfimprove_dagster.experiment import RefinementExperiment
from selfimprove_dagster.language_model.base import (
    Generation,
    LanguageModel,
    Progress,
    SamplingParameters,
)
from selfimprove_dagster.methods.dialogues import TURN_STOPS, dialogue_prompt
from selfimprove_dagster.records import content_hash
from selfimprove_dagster.refining import improve
from selfimprove_dagster.trajectories import Task, Trajectory


def mode_of(way: str, number: int) -> str:
    """The mode of the exam in which a way's answers after so many rounds are judged."""
    return f"{way}_{number}"


@dataclass(frozen=True)
class RefinementExam(Exam):
    """First answers are drawn greedily, as by all methods of dialogues; each way starts from these."""

    experiment: RefinementExperiment
    prompts: Sequence[HeldOutPrompt]

    @property
    def parts(self) -> list[Part]:
        """The whole exam, in the order in which it is sat."""
        modes = (GREEDY, *self.experiment.refining.ways)
        return [Part(mode, asked, len(asked)) for mode in modes for asked in cut(self.prompts)]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        return {
            "questions": content_hash({"all": [vars(prompt) for prompt in self.prompts]}),
            "max_tokens": self.experiment.evaluation.max_tokens,
            "refining": self.experiment.refining.model_dump(exclude={"shard"}),
            "seed": self.experiment.seed,
        }

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        asked = [prompt for prompt in part.questions if isinstance(prompt, HeldOutPrompt)]
        advance = progress or (lambda tasks, tokens: None)
        read = model.encode_many([dialogue_prompt(prompt.question) for prompt in asked])
        first = self._first(model, read, lambda rows, tokens: advance(rows * (part.mode == GREEDY), tokens))
        cost = [(len(ids), len(path.token_ids)) for ids, path in zip(read, first, strict=True)]
        if part.mode == GREEDY:
            return [
                {**judged(prompt, path.text, GREEDY), **_spent(took), "stopped": None, "error": None}
                for prompt, path, took in zip(asked, first, cost, strict=True)
            ]
        section = self.experiment.refining
        refined = improve(
            model,
            [
                Task(prompt.question, prompt.question, path.text)
                for prompt, path in zip(asked, first, strict=True)
            ],
            part.mode,
            section.settings,
            (self.experiment.seed, "evaluation"),
            advance,
        )
        return [
            _row(prompt, one, took, number)
            for number in range(1, section.rounds + 1)
            for prompt, one, took in zip(asked, refined, cost, strict=True)
        ]

    def _first(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], progress: Progress
    ) -> list[Generation]:
        """The same whenever they are drawn, so that each way need not remember another part's."""
        parameters = SamplingParameters(
            temperature=0.0, max_tokens=self.experiment.evaluation.max_tokens, stop=TURN_STOPS
        )
        drawn = model.generate(prompts, [[0]] * len(prompts), parameters, progress)
        return [path for (path,) in drawn]


def _row(prompt: HeldOutPrompt, one: Trajectory, first: tuple[int, int], number: int) -> dict[str, Any]:
    read, drawn = one.tokens_after(number)
    done = one.last_round <= number
    return {
        **judged(prompt, one.answer_after(number) or "", mode_of(one.way, number)),
        **_spent((first[0] + read, first[1] + drawn)),
        "stopped": one.stopped if done else None,
        "error": one.error if done else None,
    }


def _spent(tokens: tuple[int, int]) -> dict[str, int]:
    return {"tokens_in": tokens[0], "tokens_out": tokens[1]}
