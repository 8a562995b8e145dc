"""Tasks that are refined, and all that is said on the way: what `refining` takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selfimprove_dagster.families.refining.ways import (
    ANSWER,
    FAULTS,
    FINE_FEEDBACK,
    MEMORY,
    OUTCOME,
    SENTENCE_ENDS,
)
from selfimprove_dagster.language_model.base import SamplingParameters, Usage
from selfimprove_dagster.language_model.structure import Structure


@dataclass(frozen=True)
class Refining:
    """How answers are refined.

    `history`: Self-Refine shows all earlier answers with their feedback, not the last alone. `evaluator`, of
    Reflexion: the probability that the model's feedback is `fine`, against feedback that begins like one of
    `faults`, which is enough from `fine_from` on, or the feedback itself. `memory`: reflections shown at most.
    """

    rounds: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    history: bool = False
    memory: int = MEMORY
    fine: str = FINE_FEEDBACK
    faults: Sequence[str] = FAULTS
    evaluator: Literal["probability", "feedback"] = "probability"
    fine_from: float = 0.5

    @property
    def verdicts(self) -> list[str]:
        """What the evaluator weighs: the closed sentence that an answer is fine, then the beginnings of faults."""
        fine = self.fine.strip()
        closed = fine if fine.endswith(SENTENCE_ENDS) else f"{fine}."
        return [closed, *(fault.strip() for fault in self.faults)]

    def sampling(self, stop: tuple[str, ...], structure: Structure | None = None) -> SamplingParameters:
        """How a text is drawn that ends at one of the strings `stop`, and matches the structure if there is one."""
        return SamplingParameters(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=stop,
            structure=structure,
        )


@dataclass(frozen=True)
class Task:
    """What a human says, and the first answer, which is drawn where it is None. Seeds follow from `key`."""

    key: str
    prompt: str
    answer: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator finds of an answer; `text` is shown where it is reflected on."""

    is_fine: bool
    score: float | None = None
    text: str = ""


Evaluate = Callable[[Sequence[Task], Sequence[str]], Sequence[Evaluation]]
"""Evaluates an answer to each task."""


@dataclass(frozen=True)
class Step:
    """One text of a task: what was read, and what was written, as it was drawn.

    `round` is 0 for the first answer; all that leads to the answer of round n is of round n. `is_fine` says
    of feedback and evaluations whether there is nothing to change, `score` how sure that is. `seed` is None
    where nothing was drawn, and `error` says what is wrong with the text, or why there is none, which is the `problem`
    where the model could not be asked.
    """

    kind: str
    round: int
    prompt: str
    prompt_token_ids: Sequence[int]
    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    finish_reason: str | None = None
    seed: int | None = None
    score: float | None = None
    is_fine: bool | None = None
    error: str | None = None
    problem: str | None = None
    usage: Usage | None = None

    @property
    def tokens_in(self) -> int:
        """Tokens read; none where the model was asked nothing, or refused."""
        if self.usage:
            return self.usage.prompt
        return len(self.prompt_token_ids) if self.seed is not None or self.score is not None else 0

    @property
    def tokens_out(self) -> int:
        """Tokens drawn."""
        return self.usage.completion if self.usage else len(self.token_ids)

    def to_json(self) -> dict[str, Any]:
        """What a person wants to know of it, as plain data."""
        told = ("kind", "round", "prompt", "tokens_in", "tokens_out", "finish_reason", "score", "is_fine")
        return {name: getattr(self, name) for name in told} | {"text": self.text.strip(), "error": self.error}


@dataclass
class Trajectory:
    """All steps of a task, why it was `stopped` (one of `refinement.STOPS`), and its error, if it failed."""

    task: Task
    way: str
    steps: list[Step] = field(default_factory=list)
    stopped: str = ""
    error: str | None = None

    @property
    def answers(self) -> dict[int, str]:
        """The good answers by round."""
        given = {0: (self.task.answer or "").strip()}
        drawn = (one for one in self.steps if one.kind == ANSWER and one.error is None)
        said = given | {one.round: one.text.strip() for one in drawn}
        return {number: text for number, text in said.items() if text}

    @property
    def answer(self) -> str | None:
        """The last good answer; None where there is none."""
        return next(reversed(self.answers.values()), None)

    def answer_after(self, number: int) -> str | None:
        """The last good answer of rounds up to this one: one that stopped before keeps its answer."""
        good = self.answers
        return good[max(past)] if (past := [made for made in good if made <= number]) else None

    def tokens_after(self, number: int) -> tuple[int, int]:
        """Tokens read and drawn in rounds up to this one; a first answer that was given cost nothing."""
        made = [one for one in self.steps if one.round <= number]
        return sum(one.tokens_in for one in made), sum(one.tokens_out for one in made)

    @property
    def last_round(self) -> int:
        """The last round with a step."""
        return max((one.round for one in self.steps), default=0)

    def texts(self, kind: str) -> list[str]:
        """Of the good steps of a kind, in order."""
        return [one.text.strip() for one in self.steps if one.kind == kind and one.error is None]

    def to_json(self) -> list[dict[str, Any]]:
        """Its steps, then its outcome, as plain data."""
        read, drawn = self.tokens_after(self.last_round)
        outcome = {
            "kind": OUTCOME,
            "round": self.last_round,
            "text": self.answer,
            "tokens_in": read,
            "tokens_out": drawn,
            "stopped": self.stopped,
            "error": self.error,
        }
        steps = [*(one.to_json() for one in self.steps), outcome]
        return [{"key": self.task.key, "way": self.way, **one} for one in steps]
