"""The steps of refined answers as records of the lake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfimprove_dagster.methods.refinement import (
    ANSWER,
    EVALUATION,
    FEEDBACK,
    OUTCOME,
    REFLECTION,
    remembered,
)
from selfimprove_dagster.records import Draft, Parent, content_hash, record_id
from selfimprove_dagster.refinement_tables import REFINEMENTS
from selfimprove_dagster.trajectories import Refining, Step, Trajectory

NOTHING_DRAWN = {
    **dict.fromkeys(("prompt", "prompt_token_ids", "token_ids", "finish_reason", "seed")),
    **dict.fromkeys(("is_fine", "stopped", "error")),
}


def drafts_of(
    trajectory: Trajectory, settings: Refining, prompt_id: str, first_id: str, activity_id: str
) -> Iterator[Draft]:
    """The records of a task whose first answer is the record `first_id`: its steps, then its outcome.

    They are each other's parents, so they are of the activity whose id is given.
    """
    about = {"prompt_id": prompt_id, "first_id": first_id, "way": trajectory.way}
    made: dict[str, list[str]] = {ANSWER: [first_id], FEEDBACK: [], EVALUATION: [], REFLECTION: []}
    for step in trajectory.steps:
        content = {**NOTHING_DRAWN, **about, **_content(step)}
        parents = [Parent(prompt_id, "prompt"), *_made_from(step.kind, made, settings)]
        yield Draft(content, parents, {"logprobs": list(step.logprobs) or None, "score": step.score})
        if step.error is None:
            made[step.kind].append(record_id(REFINEMENTS.tag, content_hash(content), parents, activity_id))
    read, drawn = trajectory.tokens_after(trajectory.last_round)
    outcome = {
        **NOTHING_DRAWN,
        **about,
        "kind": OUTCOME,
        "round": trajectory.last_round,
        "text": trajectory.answer,
        "tokens_in": read,
        "tokens_out": drawn,
        "stopped": trajectory.stopped,
        "error": trajectory.error,
    }
    parents = [Parent(prompt_id, "prompt"), Parent(made[ANSWER][-1], "answer")]
    yield Draft(outcome, parents, {"logprobs": None, "score": None})


def _content(step: Step) -> dict[str, Any]:
    told = ("kind", "round", "text", "tokens_in", "tokens_out", "is_fine", "error")
    content = {name: getattr(step, name) for name in told}
    if step.prompt:
        content |= {"prompt": step.prompt, "prompt_token_ids": list(step.prompt_token_ids)}
    if step.seed is not None:
        drawn = {"token_ids": list(step.token_ids), "finish_reason": step.finish_reason, "seed": step.seed}
        content |= drawn
    return content


def _made_from(kind: str, made: dict[str, list[str]], settings: Refining) -> list[Parent]:
    """The parents of a step besides the prompt, from the good steps of each kind so far."""
    answer = made[ANSWER][-1]
    if kind == REFLECTION:
        return [Parent(answer, "reflection_of"), Parent(made[EVALUATION][-1], "evaluation")]
    if kind != ANSWER:
        return [Parent(answer, f"{kind}_of")]
    # Only Self-Refine's prompts hold earlier answers, each with its feedback.
    shown = slice(None) if settings.history and made[FEEDBACK] else slice(-1, None)
    return [
        Parent(answer, "revision_of"),
        *(Parent(earlier, "earlier_answer") for earlier in made[ANSWER][shown][:-1]),
        *(Parent(one, "feedback") for one in made[FEEDBACK][shown]),
        *(Parent(one, "reflection") for one in remembered(made[REFLECTION], settings.memory)),
    ]
