"""The questions that a judge is asked (Bai et al., 2212.08073, section 4.1; Lee et al., 2309.00267).

A comparison is a multiple-choice question whose options are the two responses, in a given order. The answer
is read off the probabilities of the option tokens, so a comparison costs one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt

OPTIONS = (" (A)", " (B)")
"""What the answer to a comparison goes on with: the first response, the second."""


RATINGS = tuple(f" {rating}" for rating in range(1, 11))
"""What a rating goes on with: 1 to 10."""


REASONING_STOPS = ("\n",)


_ANSWER = "The answer is:"


_REASONING = "Let's think step by step:"


_RIGHT = "Which of these answers is right?"


def comparison_prompt(prompt: str, question: str, first: str, second: str, reasoning: str = "") -> str:
    """What the judge's option follows; `reasoning` is what it thought before, if it was asked to."""
    thought = f"{_REASONING} {reasoning.strip()}\n" if reasoning.strip() else ""
    return f"{_compared(prompt, question, first, second)}\n{thought}{_ANSWER}"


def reasoning_prompt(prompt: str, question: str, first: str, second: str) -> str:
    """What the judge's chain of thought follows, the first of the two steps (2309.00267, section 2.1)."""
    return f"{_compared(prompt, question, first, second)}\n{_REASONING}"


def rating_prompt(prompt: str, question: str, response: str) -> str:
    """What the judge's rating of one response follows (2309.00267, section 2.2)."""
    return f"{dialogue_prompt(prompt)} {response.strip()}\n\n{question.strip()}\nFrom 1 to 10:"


def options(count: int) -> tuple[str, ...]:
    """What the answer to a choice among so many goes on with: ` (A)`, ` (B)`, …, ` (Z)` at most."""
    return tuple(f" ({letter})" for letter in ascii_uppercase[:count])


def choice_prompt(prompt: str, question: str, responses: Sequence[str]) -> str:
    """What the judge's option follows, of any number of responses; of two, `comparison_prompt`."""
    return f"{_compared(prompt, question, *responses)}\n{_ANSWER}"


def answer_choice_prompt(problem: str, answers: Sequence[str]) -> str:
    """The same of answers to a problem that has a right one."""
    return f"Q: {problem.strip()}\n\n{_listed(_RIGHT, answers)}\n{_ANSWER}"


def _compared(prompt: str, question: str, *responses: str) -> str:
    said = dialogue_prompt(prompt).rpartition("\n\n")[0]
    return f"{said}\n\n{_listed(question, responses)}"


def _listed(question: str, texts: Sequence[str]) -> str:
    lines = zip(options(len(texts)), texts, strict=True)
    return "\n".join([question.strip(), *(f"{option.strip()} {text.strip()}" for option, text in lines)])
