"""Prompts for questions with one answer, with worked examples or without (2210.11610, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

DIRECT_FORMATS = ("few_shot_direct", "zero_shot_direct")


class WorkedExample(Protocol):
    """What a demonstration must offer."""

    @property
    def question(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def answer(self) -> str: ...


def build_prompt(question: str, prompt_format: str, demonstrations: Sequence[WorkedExample] = ()) -> str:
    """The text that a completion follows, in one of the four formats."""
    if prompt_format == "zero_shot_cot":
        return f"Q: {question}\nA: Let's think step by step."
    if prompt_format == "zero_shot_direct":
        return f"Q: {question}\nA: The answer is"
    if prompt_format == "few_shot_cot":
        shown = (f"Q: {d.question}\nA: {d.reasoning} The answer is {d.answer}.\n\n" for d in demonstrations)
    elif prompt_format == "few_shot_direct":
        shown = (f"Q: {d.question}\nA: The answer is {d.answer}.\n\n" for d in demonstrations)
    else:
        raise ValueError(f"no such prompt format: {prompt_format!r}")
    return "".join(shown) + f"Q: {question}\nA:"
