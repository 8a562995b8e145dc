"""The settings of a vote: what each answer counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from selfimprove_dagster import own_code
from selfimprove_dagster.experiment.sections import CodeName, ModelPath, Section

GROUP = "selfimprove_dagster.verifiers"
"""The entry point group for functions of packages: `solver = "my_package.verifying:score"`."""

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Returns the score of each answer to its question, from 0 to 1; None for an answer that it cannot score."""


class VerifierSection(Section):
    """What scores answers from 0 to 1: a reward model or a function."""

    model: ModelPath | None = Field(
        None,
        description="reward model: a folder, or a name on the Hub; its reward r counts 1 / (1 + exp(-r))",
    )
    function: CodeName | None = Field(
        None,
        description="function of a list of questions and a list of answers that returns a list of scores: "
        "`my_verifier.py:score`, or its name at an entry point of the group `selfimprove_dagster.verifiers`",
    )
    device: str = Field("auto", description="device of the reward model: `auto`, `cpu` or `cuda:0`")

    @field_validator("function")
    @classmethod
    def _is_a_function(cls, name: str | None) -> str | None:
        if name is not None:
            score_function(name)
        return name

    @model_validator(mode="after")
    def _one_of_both(self) -> VerifierSection:
        if (self.model is None) == (self.function is None):
            raise ValueError("name either a reward model (`model`) or a function (`function`)")
        return self


class WeightsSection(Section):
    """What a vote counts."""

    weights: Literal["probability", "verifier"] | None = Field(
        None,
        exclude_if=lambda weights: weights is None,
        description="`probability` weights a vote by the geometric mean of the probabilities of the answer's tokens, "
        "`verifier` by the score of `verifier`; omit for equal votes",
    )
    verifier: VerifierSection | None = Field(
        None,
        exclude_if=lambda verifier: verifier is None,
        description="what scores answers, for `weights: verifier`",
    )

    @model_validator(mode="after")
    def _verifier_if_it_weighs(self) -> WeightsSection:
        if self.weights == "verifier" and self.verifier is None:
            raise ValueError("weights are a verifier's: name one in `verifier`, as model or function")
        if self.weights != "verifier" and self.verifier is not None:
            raise ValueError("the verifier weighs nothing: set `weights: verifier`, or remove it")
        return self


def score_function(name: str) -> tuple[Score, str]:
    """Return the function with a name, and the release or the hash of the file that it comes from.

    Raises ValueError for an unknown name, and for what is no function.
    """
    own = own_code.found(name, GROUP)
    if own is None:
        known = ", ".join(own_code.offered(GROUP)) or "none is installed"
        raise ValueError(
            f"{name!r} is no verifier ({known}); for your own give file and function, e.g. my_verifier.py:score"
        )
    if not callable(own[0]):
        raise ValueError(f"{name} is no function of questions and answers that returns scores")
    return own
