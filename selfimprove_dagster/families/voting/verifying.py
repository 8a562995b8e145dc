"""Verifiers: what scores an answer to a question from 0 to 1, by which its vote then counts.

Cobbe et al. (2110.14168, section 4.2) rank sampled solutions by a trained verifier and let the best vote; Li et al.
(2206.02336, section 3.2) add up the verifier's scores of all solutions with the same answer, as is done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import exp, isnan
from typing import Any

from selfimprove_dagster import own_code
from selfimprove_dagster.errors import ExperimentError, first_line
from selfimprove_dagster.families.voting.settings import (
    Score,
    VerifierSection,
    WeightsSection,
    score_function,
)


@dataclass(frozen=True)
class Verifier:
    """An open verifier. `recorded` determines its scores, and `about` notes where it was found."""

    score: Score
    recorded: dict[str, str]
    about: str

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Return the score of each answer. Raises ExperimentError for anything but a number from 0 to 1 or None."""
        try:
            found = list(self.score(questions, answers))
        except Exception as error:  # any error of a user's function
            raise ExperimentError(
                f"the verifier {self.about} failed: {type(error).__name__}: {first_line(error)}"
            ) from error
        if len(found) != len(answers):
            raise ExperimentError(
                f"the verifier {self.about} returned {len(found)} scores for {len(answers)} answers"
            )
        return [self._checked(one) for one in found]

    def _checked(self, score: Any) -> float | None:
        try:
            value = None if score is None else float(score)
        except (TypeError, ValueError):
            value = -1.0
        if value is None or isnan(value):
            return None
        if not 0 <= value <= 1:
            raise ExperimentError(
                f"the verifier {self.about} returned {score!r}: a score must be a number from 0 to 1, or None for an "
                "answer that cannot be scored"
            )
        return value


@contextmanager
def open_verifier(section: VerifierSection | None) -> Iterator[Verifier | None]:
    """Open the verifier of a vote; None if nothing scores."""
    if section is None:
        yield None
    elif section.function is not None:
        score, source = score_function(section.function)
        recorded = {"function": own_code.without_folder(section.function), "source": source}
        yield Verifier(score, recorded, section.function)
    else:
        with _reward_model(str(section.model), section.device) as verifier:
            yield verifier


def weighing(section: WeightsSection, verifier: Verifier | None) -> dict[str, Any]:
    """Return the parameters of an activity that record what a vote counts; nothing for equal votes."""
    if not section.weights:
        return {}
    return {"weights": section.weights, **({"verifier": verifier.recorded} if verifier else {})}


def weighed_by(verifier: Verifier | None) -> dict[str, Any]:
    """Return what an activity notes without hashing it: where the verifier was found."""
    return {"verifier": verifier.about} if verifier else {}


@contextmanager
def _reward_model(path: str, device: str) -> Iterator[Verifier]:
    """Open a reward model, which reads question and answer as its own chat template, or as a dialogue in text."""
    from selfimprove_dagster.families.dialogues.prompts import PROMPTS
    from selfimprove_dagster.families.preferences.rewarding import ModelReward
    from selfimprove_dagster.language_model.folder import model_folder
    from selfimprove_dagster.language_model.prompting import prompting_of
    from selfimprove_dagster.language_model.tokens import TokenText
    from selfimprove_dagster.language_model.weights import model_id
    from selfimprove_dagster.prompts import load_prompts

    folder = model_folder(path)
    reader: Any = TokenText(folder)
    reader.prompting = prompting_of(folder)
    name = model_id(folder)
    prompts = load_prompts([PROMPTS], reader.prompting)
    with closing(ModelReward(str(folder), name, device, prompts)) as reward:

        def score(questions: Sequence[str], answers: Sequence[str]) -> list[float | None]:
            return [_sigmoid(one) for one in reward(reader, questions, answers)]

        yield Verifier(score, {"model": name}, path)


def _sigmoid(reward: float) -> float:
    """Return the probability that a reward stands for; NaN stays NaN."""
    return 1 / (1 + exp(-reward)) if reward >= 0 or isnan(reward) else exp(reward) / (1 + exp(reward))
