"""Refinement while answering, without training: Self-Refine (Madaan et al., 2303.17651, section 2), Reflexion
(Shinn et al., 2303.11366, section 3), and PIT's rounds without a word of feedback (2310.00898, section 3.4).

What is said, when a task is done, and what is remembered. The prompts are among those of `dialogues`. Where
the authors' code says more than the papers, it is followed: Self-Refine's stops at a sentence of the feedback
("it is correct"), Reflexion's shows the last three reflections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

SELF_REFINE, REFLEXION, PIT = "self_refine", "reflexion", "pit"


WAYS = (SELF_REFINE, REFLEXION, PIT)


ANSWER, FEEDBACK, EVALUATION, REFLECTION = "answer", "feedback", "evaluation", "reflection"


OUTCOME = "outcome"


KINDS = (ANSWER, FEEDBACK, EVALUATION, REFLECTION, OUTCOME)
"""Of the steps of a task; its outcome is the last."""


FINE, CONTENT, UNCHANGED, ROUNDS, FAILED = "fine", "content", "unchanged", "rounds", "failed"


STOPS: Mapping[str, str] = {
    FINE: "the feedback says that it is fine",
    CONTENT: "the evaluator is content",
    UNCHANGED: "the new answer is the old one",
    ROUNDS: "the rounds are used up",
    FAILED: "a step failed",
}
"""Why a task is done, and in words."""


MEMORY = 3
"""Reflections that are remembered (2303.11366, section 3: Ω is 1 to 3)."""


FINE_FEEDBACK = "The response is fine."
"""What feedback says where there is nothing to change."""


def says_fine(feedback: str, fine: str = FINE_FEEDBACK) -> bool:
    """Whether a sentence of the feedback is `fine`, case, spaces and the punctuation around it aside."""
    wanted = _words(fine)
    return any(_words(sentence) == wanted for sentence in re.split(r"[.!?\n]", feedback))


def _words(sentence: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", sentence).lower().split()


def is_unchanged(before: str, after: str) -> bool:
    """Whether two answers are the same text, white space aside."""
    return before.split() == after.split()


def remembered(reflections: Sequence[str], most: int = MEMORY) -> list[str]:
    """The last reflections, the oldest first."""
    return list(reflections[-most:]) if most else []


def fault(kind: str, text: str, finish_reason: str) -> str | None:
    """What is wrong with a text of that kind; None for a good one.

    Nothing can follow from an empty text; an answer must be whole, while feedback that breaks off still says
    something.
    """
    if not text.strip():
        return f"the {kind} is empty"
    if kind == ANSWER and finish_reason == "length":
        return f"the {kind} was cut off at the token limit"
    return None
