"""What counts as the answer in a continuation (Schick et al., 2302.04761, sections 4.2.1 and 4.2.2).

For a number the first number that is written; for anything else the answer must come within five words.
"""

from __future__ import annotations

import re

from selfimprove_dagster.methods.answers import answers_agree, canonical_answer

FIRST_WORDS = 5
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def predicted_answer(expected: str, continuation: str) -> str | None:
    """What the continuation says where `expected` should stand; None where it says nothing."""
    if _NUMBER.fullmatch(expected):
        found = _NUMBER.search(continuation)
        return canonical_answer(found.group()) if found else None
    return " ".join(continuation.split()[:FIRST_WORDS]) or None


def is_predicted(expected: str, predicted: str | None) -> bool:
    """Whether that is the expected answer, or for words holds it."""
    if predicted is None:
        return False
    if _NUMBER.fullmatch(expected):
        return answers_agree(predicted, expected)
    return re.search(rf"(?<!\w){re.escape(expected)}(?!\w)", predicted, re.IGNORECASE) is not None
