"""Dialogues, critiques, revisions and refinements as a language model reads them (Bai et al., 2212.08073,
section 3; Madaan et al., 2303.17651, section 2; Shinn et al., 2303.11366, section 3).

A prompt is what a human said, or a whole dialogue that ends with the human's turn. Every text ends where the
model goes on; what it goes on with begins with a space and ends before the next heading (`TURN_STOPS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts about a dialogue, for which `spoken` gives the fields `dialogue` and `turns`."""


HUMAN, ASSISTANT = "Human:", "Assistant:"


TURN_STOPS = ("\n\n",)
"""Where a response, a critique, a revision or feedback ends."""


def spoken(prompt: str) -> dict[str, Any]:
    """Return the fields of the prompts in `PROMPTS` that hold a dialogue, or what a human said."""
    said = prompt.strip()
    return {"dialogue": said if said.startswith(HUMAN) else f"{HUMAN} {said}", "turns": turns(said)}


def dialogue_prompt(prompt: str) -> str:
    """What the response to a prompt follows."""
    turns = prompt.strip()
    opened = turns if turns.startswith(HUMAN) else f"{HUMAN} {turns}"
    return f"{opened}\n\n{ASSISTANT}"


def critique_prompt(prompt: str, response: str, critique_request: str) -> str:
    """What a critique of the response follows."""
    return (
        f"{dialogue_prompt(prompt)} {response.strip()}\n\n"
        f"Critique Request: {critique_request.strip()}\n\nCritique:"
    )


def revision_prompt(
    prompt: str, response: str, critique_request: str, critique: str, revision_request: str
) -> str:
    """What a revision of the response, after its critique, follows."""
    return (
        f"{critique_prompt(prompt, response, critique_request)} {critique.strip()}\n\n"
        f"Revision Request: {revision_request.strip()}\n\nRevision:"
    )


def improvement_prompt(prompt: str, response: str) -> str:
    """What a better response than the given one follows, without a word of how it is to be better
    (PIT, 2310.00898, section 3).
    """
    return f"{dialogue_prompt(prompt)} {response.strip()}\n\nBetter response:"


def feedback_prompt(prompt: str, response: str, evaluation: str = "") -> str:
    """What feedback on the response follows, or with what an evaluator says of it, a reflection on it."""
    said = f"Evaluation: {evaluation.strip()}\n\n" if evaluation.strip() else ""
    return f"{dialogue_prompt(prompt)} {response.strip()}\n\n{said}Feedback:"


def refinement_prompt(prompt: str, tried: Sequence[tuple[str, str]]) -> str:
    """What a better response follows: each response so far with the feedback on it, the last one last."""
    (first, said), *later = tried
    text = f"{feedback_prompt(prompt, first)} {said.strip()}"
    for response, feedback in later:
        text += f"\n\nBetter response: {response.strip()}\n\nFeedback: {feedback.strip()}"
    return f"{text}\n\nBetter response:"


def turns(dialogue: str) -> list[tuple[str, str]]:
    """Who says what in a dialogue, in order: `user` or `assistant`, and the words.

    The heading at the end that only opens the next turn is no turn.
    """
    found: list[tuple[str, str]] = []
    for part in dialogue.strip().split("\n\n"):
        heading = next((one for one in _ROLES if part.startswith(one)), None)
        if heading is not None:
            found.append((_ROLES[heading], part.removeprefix(heading).strip()))
        elif found:
            role, said = found[-1]
            found[-1] = role, f"{said}\n\n{part}"
        else:
            found.append((_ROLES[HUMAN], part))
    return found if not found or found[-1][1] else found[:-1]


_ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
