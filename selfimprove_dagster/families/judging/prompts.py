"""The questions that a judge is asked (Bai et al., 2212.08073, section 4.1; Lee et al., 2309.00267).

A comparison is a multiple-choice question whose options are the responses, in a given order. The answer is read off the
probabilities of the options, so that it costs one forward pass.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase

from selfimprove_dagster.prompts import Prompts

PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts of judges. `families.dialogues.prompts.spoken` gives the field `dialogue`."""


def options(prompts: Prompts, name: str, count: int) -> tuple[str, ...]:
    """Return what the answers to a choice among `count` are, as they follow the prompt of that name: at most 26."""
    return tuple(prompts.completion(name, letter) for letter in ascii_uppercase[:count])


def ratings(prompts: Prompts) -> tuple[str, ...]:
    """Return the ratings 1 to 10, as they follow the prompt `rating`."""
    return tuple(prompts.completion("rating", str(rating)) for rating in range(1, 11))
