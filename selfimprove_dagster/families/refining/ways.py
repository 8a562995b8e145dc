"""Refinement while answering, without training: Self-Refine (Madaan et al., 2303.17651, section 2), Reflexion
(Shinn et al., 2303.11366, section 3), and PIT's rounds without a word of feedback (2310.00898, section 3.4).

What is said, when a task is done, and what is remembered. The prompts are among those of `dialogues`. Where
the authors' code says more than the papers, it is followed: Self-Refine's stops at a phrase inside the feedback
("it is correct"), Reflexion's shows the last three reflections.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import takewhile

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


FAULTS = (
    *("The response is not", "The response is wrong", "The response is incorrect", "The response does not"),
    *("The response could", "The response should", "The response needs", "The response leaves"),
    *("The response gives away", "The response calls", "The response says to"),
)
"""How feedback begins that finds fault."""


_SENTENCE, _CLAUSE = ".", ","


SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")


_ENDS = {_SENTENCE: "".join(SENTENCE_ENDS) + "\n", _CLAUSE: ",;:，；："}


_BOUNDS = frozenset((_CLAUSE, _SENTENCE, "and", "but", "so", "because", "therefore"))
"""Where the clause that holds the phrase begins."""


_DENIALS = frozenset(
    ("not", "never", "cannot", "nor", "neither", "hardly", "whether", "if", "unless", "until")
)
"""Words before the phrase, in its clause, with which it is not said."""


_CONTRASTS = frozenset(("but", "yet", "however", "except", "although", "though"))
"""Words which take the phrase back at the beginning of the next sentence too."""


_RESERVATIONS = _CONTRASTS | {"unless", "if", "only", "apart", "otherwise"}
"""Words after the phrase, in its sentence, which take it back."""


def says_fine(feedback: str, fine: str = FINE_FEEDBACK) -> bool:
    """Whether the feedback holds the phrase `fine`, and neither denies it nor takes it back.

    It is taken back in that sentence, or by how the next one begins ("However"). Case, spaces, markdown and
    punctuation are ignored, but for the ends of sentences.
    """
    marked = _marked(feedback)
    said = [index for index, word in enumerate(marked) if word != _CLAUSE]
    wanted = [word for word in _marked(fine) if word != _CLAUSE]
    starts = range(len(said) - len(wanted) + 1) if wanted else ()
    return any(
        [marked[index] for index in said[start : start + len(wanted)]] == wanted
        and not any(map(_denies, _until(_BOUNDS, marked[: said[start]][::-1])))
        and not _is_taken_back(marked[said[start + len(wanted) - 1] + 1 :])
        for start in starts
    )


def _is_taken_back(after: Sequence[str]) -> bool:
    """Whether the words after the phrase take it back."""
    own = [*_until({_SENTENCE}, after)]
    return bool(_RESERVATIONS & {*own} or _CONTRASTS & {*after[len(own) + 1 : len(own) + 2]})


def _marked(text: str) -> list[str]:
    """The words in lower case, with one mark where a clause or a sentence ends, and none at either end."""
    for mark, ends in _ENDS.items():
        text = re.sub(f"[{re.escape(ends)}]", f" {mark} ", text)
    words = re.findall(r"[.,]|\w[\w'-]*", text.lower().replace("’", "'"))
    marked: list[str] = []
    for word in words:
        if word not in _ENDS:
            marked.append(word)
        elif marked and marked[-1] in _ENDS:
            marked[-1] = min(marked[-1], word, key=[*_ENDS].index)
        elif marked:
            marked.append(word)
    return marked[:-1] if marked and marked[-1] in _ENDS else marked


def _until(marks: Container[str], words: Sequence[str]) -> Iterator[str]:
    return takewhile(lambda word: word not in marks, words)


def _denies(word: str) -> bool:
    return word in _DENIALS or word.endswith("n't")


def is_unchanged(before: str, after: str) -> bool:
    """Whether two answers are the same text, white space aside."""
    return before.split() == after.split()


def remembered(reflections: Sequence[str], most: int = MEMORY) -> list[str]:
    """The last reflections, the oldest first."""
    return list(reflections[-most:]) if most else []


def prompt_of(way: str, kind: str) -> str:
    """Return the name of the prompt that a drawn step of a way follows, after the first answer."""
    if kind != ANSWER:
        return REFLECTION if kind == REFLECTION else FEEDBACK
    return {SELF_REFINE: "refinement", REFLEXION: "retry", PIT: "improvement"}[way]


def fault(kind: str, text: str, finish_reason: str) -> str | None:
    """What is wrong with a text of that kind; None for a good one.

    Nothing can follow from an empty text, as where a model's thoughts do not end; an answer must be whole, while
    feedback that breaks off still says something.
    """
    said = bool(text.strip())
    if finish_reason == "length" and (kind == ANSWER or not said):
        return f"the {kind} was cut off at the token limit"
    return None if said else f"the {kind} is empty"
