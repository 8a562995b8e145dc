"""A model that judges held-out answers: by ratings, or by comparing two models' answers in both orders.

The questions are those of Bai et al. (2212.08073, section 4.1) and Lee et al. (2309.00267, section 2), and the answers
are read off the probabilities of the options. A control shows whether the judge can tell anything at all: it gets an
answer and the answer to another question, and must find out which belongs to the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.exam import OpenModel
from selfimprove_dagster.evaluation.judge import CONTROL, VERDICTS, ExamJudgeSection, mode_against
from selfimprove_dagster.experiment.base import JUDGED, Experiment
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.families.dialogues.constitution import Constitution, Principle
from selfimprove_dagster.families.judging.comparing import Pair, compare_pairs, expected_ratings
from selfimprove_dagster.families.judging.preferences import PAIR, aggregate
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.language_model.base import LanguageModel, Progress, check_chooses
from selfimprove_dagster.language_model.options import Unscored
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.table import Row

QUESTION = "held-out"
"""The name of the one question that the judge is asked."""


@dataclass(frozen=True)
class ExamJudge:
    """Judges the greedy answers of an exam; implements `evaluation.judge.AnswerJudge`."""

    section: ExamJudgeSection
    model: ModelSection
    prompts: Prompts
    seed: int
    open_model: OpenModel

    @cached_property
    def model_id(self) -> str:
        """Return the id of the model that judges."""
        return identity_of(self.model)

    @property
    def parameters(self) -> dict[str, Any]:
        """Return everything that affects the verdicts."""
        asked = self.section.model_dump(
            exclude={"model", "least_control", "least_order_agreement", "on_failure"}
        )
        return {**asked, "model": self.model_id, **self.prompts.parameters, "seed": self.seed}

    def open(self) -> AbstractContextManager[LanguageModel]:
        """Open the model that judges."""
        return self.open_model(self.model.path, self.model)

    def verdicts(
        self, model: LanguageModel, answers: Mapping[str, Sequence[Row]], progress: Progress | None = None
    ) -> list[Row]:
        """Return the rows that judge the greedy answers of each role.

        An answer that says nothing is not shown to the judge: it is wrong, or the other one is preferred. A verdict
        that could not be made, such as on an answer that is too long for the judge, is wrong with a `problem`. Raises
        ModelError if the judge's engine cannot give the probabilities of its options.
        """
        check_chooses(model)
        first = next(iter(answers.values()), [])
        judged = (
            self._rated(model, answers) if self.section.by == "rating" else self._compared(model, answers)
        )
        found = [*judged, *self._controlled(model, first)]
        if progress is not None:
            progress(len(first), 0)
        return found

    # ---- ratings ---------------------------------------------------------------------------------------

    def _rated(self, model: LanguageModel, answers: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
        rows = [row for of_role in answers.values() for row in of_role]
        ratings = self._ratings(model, [(row["question"], _said(row)) for row in rows])
        for row, rating in zip(rows, ratings, strict=True):
            if isinstance(rating, Unscored):
                yield _unjudged(row, JUDGED, rating)
                continue
            yield {
                **_verdict(row, JUDGED, rating is not None and rating >= self.section.least_rating),
                "predicted": None if rating is None else f"rating {rating:.2f}",
                "rating": rating,
            }

    def _ratings(
        self, model: LanguageModel, asked: Sequence[tuple[str, str]]
    ) -> list[float | Unscored | None]:
        """Return the expected rating, from 1 to 10, of each response to a question; None for one without text."""
        shown = [pair for pair in dict.fromkeys(asked) if pair[1]]
        found = expected_ratings(
            model,
            self.prompts,
            [question for question, _ in shown],
            [self.section.rating] * len(shown),
            [response for _, response in shown],
        )
        ratings = dict(zip(shown, found, strict=True))
        return [ratings.get(pair) for pair in asked]

    # ---- comparisons -----------------------------------------------------------------------------------

    def _compared(self, model: LanguageModel, answers: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
        """Yield the verdicts on the challenger and each other role."""
        for role in answers:
            if role == "challenger" or "challenger" not in answers:
                continue
            pairs = list(zip(answers[role], answers["challenger"], strict=True))
            asked = [(before["question"], _said(before), _said(after)) for before, after in pairs]
            for (before, after), found in zip(pairs, self._preferences(model, asked), strict=True):
                mode, margin = mode_against(role), self.section.least_margin
                if isinstance(found, Unscored):
                    for row, other in ((before, after), (after, before)):
                        yield _unjudged(row, mode, found, other)
                    continue
                probability, as_first, as_second = found
                yield {
                    **_verdict(before, mode, 2 * probability - 1 > margin, after),
                    "predicted": _preferred(probability),
                    "as_first": as_first,
                    "as_second": as_second,
                }
                yield {
                    **_verdict(after, mode, 1 - 2 * probability > margin, before),
                    "predicted": _preferred(1 - probability),
                    "as_first": None if as_second is None else 1 - as_second,
                    "as_second": None if as_first is None else 1 - as_first,
                }

    def _preferences(
        self, model: LanguageModel, asked: Sequence[tuple[str, str, str]]
    ) -> list[tuple[float, float | None, float | None] | Unscored]:
        """Return the probability that the first of two responses is the better one: over both orders, when it is
        shown first, and when it is shown second; or why the judge could not compare them.

        Equal responses are a tie, and one that says something is better than one that does not: neither is shown to
        the judge, and the last two are None.
        """
        pairs = [
            Pair(str(at), question, ("first", "second"), (first, second))
            for at, (question, first, second) in enumerate(asked)
            if first and second and first != second
        ]
        found: dict[str, tuple[float, float | None, float | None] | Unscored] = {}
        if pairs:
            drafts = compare_pairs(
                model,
                self.prompts,
                pairs,
                _asking(self.section),
                _judging(self.section),
                (self.seed, "evaluation"),
            )
            comparisons = pl.DataFrame(
                [{"id": "", **one.content, **one.measures} for one in drafts],
                schema_overrides={"probability_a": pl.Float64, "problem": pl.String},
                infer_schema_length=None,
            )
            said = aggregate(comparisons, 0.0).select(
                PAIR[0], "probability", "as_first", "as_second", "problem"
            )
            found = {
                at: (both, first, second) if problem is None else Unscored(problem)
                for at, both, first, second, problem in said.iter_rows()
            }
        return [
            found.get(str(at), ((bool(first) - bool(second) + 1) / 2, None, None))
            for at, (_, first, second) in enumerate(asked)
        ]

    # ---- the control -----------------------------------------------------------------------------------

    def _controlled(self, model: LanguageModel, rows: Sequence[Row]) -> Iterator[Row]:
        """Yield for each question of the control whether the judge knew its answer from another question's."""
        said = [row for row in rows if _said(row)]
        asked = [
            (row, other)
            for row, other in zip(said, [*said[1:], *said[:1]], strict=True)
            if _said(row) != _said(other) and row["question"] != other["question"]
        ][: self.section.control_questions]
        if self.section.by == "rating":
            shown = [(row["question"], _said(one)) for row, other in asked for one in (row, other)]
            ratings = iter(self._ratings(model, shown))
            for row, other in asked:
                own, foreign = next(ratings), next(ratings)
                unscored = next((one for one in (own, foreign) if isinstance(one, Unscored)), None)
                if unscored is not None:
                    yield _unjudged(row, CONTROL, unscored, other)
                    continue
                assert isinstance(own, float) and isinstance(foreign, float), "both answers have text"
                yield {
                    **_verdict(row, CONTROL, own > foreign, other),
                    "predicted": f"rating {own:.2f}, another question's answer {foreign:.2f}",
                    "rating": own,
                }
            return
        texts = [(row["question"], _said(row), _said(other)) for row, other in asked]
        for (row, other), found in zip(asked, self._preferences(model, texts), strict=True):
            if isinstance(found, Unscored):
                yield _unjudged(row, CONTROL, found, other)
                continue
            probability, as_first, as_second = found
            yield {
                **_verdict(row, CONTROL, 2 * probability - 1 > self.section.least_margin, other),
                "predicted": _preferred(probability),
                "as_first": as_first,
                "as_second": as_second,
            }


def judge_of(
    experiment: Experiment, section: ExamJudgeSection | None, open_model: OpenModel
) -> ExamJudge | None:
    """Return the judge of an experiment's held-out answers; None if its evaluation names none."""
    if section is None:
        return None
    model = section.model or experiment.model
    return ExamJudge(section, model, registry.prompts(experiment, model), experiment.seed, open_model)


def _said(row: Row) -> str:
    return (row["text"] or "").strip()


def _verdict(row: Row, mode: str, correct: bool, other: Row | None = None) -> Row:
    """Return the row of a verdict on an answer; `answers` are those that the judge was shown."""
    answers = [row, *([other] if other else [])]
    return {**row, **dict.fromkeys(VERDICTS), "mode": mode, "correct": correct, "answers": answers}


def _unjudged(row: Row, mode: str, why: Unscored, other: Row | None = None) -> Row:
    """Return the row of a verdict that could not be made, which counts as wrong."""
    return {**_verdict(row, mode, False, other), "predicted": None, "problem": why.problem}


def _preferred(probability: float) -> str:
    return f"preferred with probability {probability:.3f}"


def _asking(section: ExamJudgeSection) -> Constitution:
    """Return the one question of the judge in the form of a constitution."""
    question = Principle(
        name=QUESTION,
        critique=section.comparison,
        revision=section.comparison,
        comparison=section.comparison,
        rating=section.rating,
    )
    return Constitution(name=QUESTION, principles=(question,))


def _judging(section: ExamJudgeSection) -> JudgeSection:
    """Return the settings of comparisons: one question in both orders."""
    return JudgeSection(
        reasoning=section.reasoning, reasoning_tokens=section.reasoning_tokens, repeated_share=0.0
    )
