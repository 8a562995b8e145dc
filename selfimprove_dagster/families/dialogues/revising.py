"""Critiques and revisions in turns, over the language-model interface (2212.08073, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.families.dialogues.constitution import Constitution, choose_principle
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.work.shards import Request


@dataclass(frozen=True)
class Response:
    """A response to a prompt, by the ids of their records."""

    id: str
    prompt_id: str
    prompt: str
    text: str


Draw = Callable[[Sequence[Request]], list[Draft]]
"""Draws one completion a request."""


Record = Callable[[Sequence[Draft]], pl.DataFrame]
"""Gives drafts their ids."""


def revise(
    responses: Sequence[Response],
    constitution: Constitution,
    rounds: int,
    seeds_from: Sequence[str | int],
    prompts: Prompts,
    draw_critiques: Draw,
    draw_revisions: Draw,
    record_critiques: Record,
    record_revisions: Record,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`rounds` critiques and as many revisions of each response, each of what the round before wrote.

    In every round a principle is drawn at random for each response. Nothing follows an empty text: an empty response
    is not criticised, and by an empty critique nothing is revised. Returns the recorded critiques and revisions, round
    by round, each in the order of the responses.
    """
    names = [principle.name for principle in constitution.principles]
    current = [one for one in responses if one.text.strip()]
    critiques, revisions = [], []
    for number in range(1, rounds + 1):
        principles = [
            constitution[choose_principle(names, *seeds_from, "principle", number, one.prompt)]
            for one in current
        ]
        told = [
            {
                "prompt_id": one.prompt_id,
                "revises_id": one.id,
                "round": number,
                "principle": principle.name,
            }
            for one, principle in zip(current, principles, strict=True)
        ]
        about = [Parent(one.prompt_id, "prompt") for one in current]
        written = record_critiques(
            draw_critiques(
                [
                    Request(
                        key=f"critique {number} {one.prompt}",
                        prompt=prompts.ask(
                            "critique",
                            **spoken(one.prompt),
                            response=one.text,
                            critique_request=principle.critique,
                        ),
                        content=content,
                        parents=[prompt, Parent(one.id, "critique_of")],
                    )
                    for one, principle, content, prompt in zip(current, principles, told, about, strict=True)
                ]
            )
        )
        critiques.append(written)
        revised = record_revisions(
            draw_revisions(
                [
                    Request(
                        key=f"revision {number} {one.prompt}",
                        prompt=prompts.ask(
                            "revision",
                            **spoken(one.prompt),
                            response=one.text,
                            critique_request=principle.critique,
                            critique=critique,
                            revision_request=principle.revision,
                        ),
                        content={**content, "critique_id": critique_id},
                        parents=[prompt, Parent(one.id, "revision_of"), Parent(critique_id, "critique")],
                    )
                    for one, principle, content, prompt, critique_id, critique in zip(
                        current, principles, told, about, written["id"], written["text"], strict=True
                    )
                    if critique.strip()
                ]
            )
        )
        revisions.append(revised)
        criticised = [one for one, critique in zip(current, written["text"], strict=True) if critique.strip()]
        current = [
            Response(id, one.prompt_id, one.prompt, text)
            for one, id, text in zip(criticised, revised["id"], revised["text"], strict=True)
            if text.strip()
        ]
    return pl.concat(critiques), pl.concat(revisions)
