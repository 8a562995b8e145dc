"""The exam of refinement without training: held-out prompts, answered, then refined in each way, every round
judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.exam import Exam, Exams, OpenedExam, OpenModel, Part
from selfimprove_dagster.evaluation.measurement import Accuracy, PairedComparison
from selfimprove_dagster.evaluation.results import Change, Results, Stages
from selfimprove_dagster.experiment.base import GREEDY
from selfimprove_dagster.families.dialogues.exam import cut, held_out_prompts, judged, respond
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt, read_held_out_prompts
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Task, Trajectory
from selfimprove_dagster.families.refining.ways import WAYS
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.prompts import Prompts


def mode_of(way: str, number: int) -> str:
    """The mode of the exam in which a way's answers after so many rounds are judged."""
    return f"{way}_{number}"


@dataclass(frozen=True)
class RefinementExam(Exam):
    """First answers are drawn greedily, as by all methods of dialogues; each way starts from these."""

    experiment: RefinementExperiment
    prompts: Sequence[HeldOutPrompt]

    @cached_property
    def asking(self) -> Prompts:
        """The prompts of the method, in the form that the experiment's model reads."""
        return registry.prompts(self.experiment)

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
            **self.asking.parameters,
        }

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        asked = held_out_prompts(part)
        advance = progress or (lambda tasks, tokens: None)
        first = respond(
            model,
            self.asking,
            asked,
            self.experiment.evaluation.max_tokens,
            # First answers do not depend on when they are drawn, so that no part has to remember those of another.
            lambda rows, tokens: advance(rows * (part.mode == GREEDY), tokens),
        )
        cost = [(path.usage.prompt if path.usage else len(ids), path.tokens) for ids, path in first]
        if part.mode == GREEDY:
            return [
                {
                    **judged(prompt, path.text, GREEDY),
                    **_spent(took),
                    **dict.fromkeys(("stopped", "error")),
                    "problem": path.problem,
                }
                for prompt, (_, path), took in zip(asked, first, cost, strict=True)
            ]
        section = self.experiment.refining
        refined = improve(
            model,
            [
                Task(prompt.question, prompt.question, path.text)
                for prompt, (_, path) in zip(asked, first, strict=True)
            ],
            part.mode,
            section.settings,
            (self.experiment.seed, "evaluation"),
            advance,
            prompts=self.asking,
        )
        return [
            {**_row(prompt, one, took, number), "problem": path.problem}
            for number in range(1, section.rounds + 1)
            for prompt, one, took, (_, path) in zip(asked, refined, cost, first, strict=True)
        ]


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


ORIGINAL = "original"


_PLACE = ["source_file", "source_line"]


MEASURED = (
    *_PLACE,
    *("mode", "correct", "helpful", "harmless", "tokens_in", "tokens_out", "stopped"),
)
"""The columns of an evaluation that `after_rounds` and `stops` read."""


@dataclass(frozen=True)
class AfterRound:
    """Held-out answers of one way after `round` rounds; 0 are the first answers, of no way (`original`).

    `tokens` are the mean a prompt, read and drawn, of all that led there. `against_original` compares with
    the first answers to the same prompts.
    """

    way: str
    round: int
    correct: Accuracy
    helpful: Accuracy
    harmless: Accuracy
    tokens: float
    against_original: PairedComparison


def after_rounds(rows: pl.DataFrame) -> list[AfterRound]:
    """Of the rows of an evaluation: the first answers, then way by way, round by round."""
    first = rows.filter(mode=GREEDY)
    found = [_measured(ORIGINAL, 0, first, first)] if len(first) else []
    for way in WAYS:
        numbers = rows["mode"].str.extract(rf"^{way}_(\d+)$").cast(pl.Int64).drop_nulls().unique().sort()
        for number in numbers:
            found.append(_measured(way, number, rows.filter(mode=f"{way}_{number}"), first))
    return found


def curves(measured: list[AfterRound]) -> dict[str, list[AfterRound]]:
    """By way, its rounds, each starting with the first answers."""
    start = [one for one in measured if one.way == ORIGINAL]
    ways = dict.fromkeys(one.way for one in measured if one.way != ORIGINAL)
    return {way: [*start, *(one for one in measured if one.way == way)] for way in ways}


def stops(rows: pl.DataFrame) -> Mapping[str, Mapping[str, int]]:
    """By way: why its held-out tasks were done, and how many for each reason."""
    found = {}
    for way, rounds in curves(after_rounds(rows)).items():
        last = rows.filter(mode=f"{way}_{rounds[-1].round}")
        found[way] = dict(last["stopped"].drop_nulls().value_counts(sort=True).iter_rows())
    return found


def _measured(way: str, number: int, rows: pl.DataFrame, first: pl.DataFrame) -> AfterRound:
    both = first.select(*_PLACE, before="correct").join(rows, on=_PLACE, how="inner")
    correct, helpful, harmless = (
        Accuracy(int(rows[name].sum()), len(rows)) for name in ("correct", "helpful", "harmless")
    )
    return AfterRound(
        way,
        number,
        correct,
        helpful,
        harmless,
        tokens=int((rows["tokens_in"] + rows["tokens_out"]).sum()) / max(len(rows), 1),
        against_original=PairedComparison.of(both["before"].to_list(), both["correct"].to_list()),
    )


def _open(
    home: Home, experiment: RefinementExperiment, open_model: OpenModel, iteration: int | None
) -> OpenedExam:
    prompts, rejected = read_held_out_prompts(experiment.evaluation)
    return OpenedExam(RefinementExam(experiment, prompts), [], rejected)


def _columns(lake: Lake, stages: Stages) -> dict[str, str]:
    if "evaluation" not in stages:
        return {}
    rounds = after_rounds(lake.read_ungated(stages["evaluation"]))
    # The rounds of a way come in order, so its last one remains.
    return {one.way.replace("_", "-"): str(one.correct) for one in rounds}


def _change(lake: Lake, stages: Mapping[str, Sequence[Manifest]]) -> Change:
    """First answers against the answers of the way that is best after its last round."""
    original, *refined = after_rounds(lake.read_ungated(stages["evaluation"][-1]))
    if not refined:
        return Change(original.correct.value)
    last = {one.way: one for one in refined}
    best = max(last.values(), key=lambda one: one.correct.value)
    difference = best.against_original.difference, *best.against_original.interval
    return Change(original.correct.value, best.correct.value, difference, best.way.replace("_", "-"))


RESULTS = Results(
    _columns,
    about="original, and by way: held-out accuracy after the last round, with its 95% interval",
    change=_change,
)

EXAM = Exams(_open, held_out=lambda experiment: read_held_out_prompts(experiment.evaluation))
