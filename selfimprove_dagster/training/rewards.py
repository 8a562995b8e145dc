"""What rewards the completions of a policy that is trained, whatever gives the reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenisedPrompt:
    """A prompt to complete. `question` is what it asks, for rewards that read text.

    `problem` is why it cannot be asked, such as that the chat template refuses it; it is left out of the training.
    """

    token_ids: list[int]
    question: str = ""
    problem: str = ""


Reward = Callable[[Sequence[TokenisedPrompt], Sequence[list[int]]], list[float]]
"""The rewards of completions (token ids), each after its prompt; NaN where a completion could not be rewarded."""

OpensReward = Callable[[], AbstractContextManager[Reward]]
"""Opens a reward, with the model that gives it. A training job names such a function, with its arguments."""
