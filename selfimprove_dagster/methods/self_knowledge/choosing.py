"""A model picks among its own answers, over the language-model interface (Jiang et al., 2404.04298).

Each choice is a multiple-choice question in several orders; the answer is read off the probabilities of the
options, or out of what the model writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.families.dialogues.constitution import Constitution
from selfimprove_dagster.families.judging.preferences import draw_principles
from selfimprove_dagster.families.judging.prompts import answer_choice_prompt, choice_prompt, options
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.language_model.base import LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.options import closed_probabilities
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.self_knowledge.self_knowledge import (
    Order,
    draw_orders,
    pick_likeliest,
    pick_named,
    read_choice,
)
from selfimprove_dagster.methods.self_knowledge.settings import DiscriminationSection

Advance = Callable[[int, int], None]


_LINE = ("\n",)


@dataclass(frozen=True)
class Choice:
    """A question with its candidates, by the ids of their records, and which of them are right."""

    question_id: str
    score_id: str
    task: str
    kind: str
    question: str
    candidate_ids: Sequence[str]
    texts: Sequence[str]
    right: Sequence[bool]

    @property
    def by_lot(self) -> float:
        """Return how often a candidate picked at random is right."""
        return sum(self.right) / len(self.right)


@dataclass(frozen=True)
class _Presentation:
    """The candidates as they are shown once; `principle` is that of a dialogue's question."""

    order: Order
    principle: str | None
    prompt: str


def presentations(
    choice: Choice,
    constitution: Constitution,
    section: DiscriminationSection,
    seeds_from: Sequence[str | int],
) -> list[_Presentation]:
    """All orders of a choice; of dialogues all of them by each principle that was drawn for it."""
    named = (*seeds_from, choice.task, choice.question)
    orders = draw_orders(len(choice.texts), section.shuffles, seed_of(*named, "orders"))
    shown = [(order, [choice.texts[candidate] for candidate in order]) for order in orders]
    if choice.kind == "questions":
        return [
            _Presentation(order, None, answer_choice_prompt(choice.question, texts)) for order, texts in shown
        ]
    names = [principle.name for principle in constitution.principles]
    drawn = draw_principles(names, section.principles, seed_of(*named, "principles"))
    return [
        _Presentation(order, name, choice_prompt(choice.question, constitution[name].comparison, texts))
        for name in drawn
        for order, texts in shown
    ]


def pick_all(
    model: LanguageModel,
    choices: Sequence[Choice],
    constitution: Constitution,
    section: DiscriminationSection,
    seeds_from: Sequence[str | int],
    advance: Advance = lambda choices, tokens: None,
) -> list[Draft]:
    """Return one draft per choice and way of picking.

    `advance` is called with the numbers of finished choices and generated tokens.
    """
    shown = [presentations(choice, constitution, section, seeds_from) for choice in choices]
    drafts = []
    for by in section.by:
        picks = (
            _by_probability(model, shown) if by == "probability" else _by_text(model, shown, section, advance)
        )
        drafts += [
            _draft(choice, by, ways, **found)
            for choice, ways, found in zip(choices, shown, picks, strict=True)
        ]
    advance(len(choices), 0)
    return drafts


def _by_probability(
    model: LanguageModel, shown: Sequence[Sequence[_Presentation]]
) -> Iterator[dict[str, Any]]:
    most = max((len(ways[0].order) for ways in shown), default=0)
    of_count: dict[int, Iterator[list[float]]] = {}
    # A choice has fewer options where a candidate was revoked, and one call has the same for all contexts.
    for count in range(2, most + 1):
        asked = [way.prompt for ways in shown for way in ways if len(way.order) == count]
        likely = closed_probabilities(model, model.encode_many(asked), options(count)) if asked else []
        of_count[count] = iter(likely)
    for ways in shown:
        orders = [way.order for way in ways]
        likely = [next(of_count[len(order)]) for order in orders]
        firsts = [max(range(len(each)), key=each.__getitem__) for each in likely]
        yield {"picked": pick_likeliest(orders, likely), "places": firsts, "probabilities": likely}


def _by_text(
    model: LanguageModel,
    shown: Sequence[Sequence[_Presentation]],
    section: DiscriminationSection,
    advance: Advance,
) -> Iterator[dict[str, Any]]:
    prompts = model.encode_many([way.prompt for ways in shown for way in ways])
    greedy = SamplingParameters(temperature=0.0, max_tokens=section.max_tokens, stop=_LINE)
    written = iter(
        model.generate(prompts, [[0]] * len(prompts), greedy, lambda rows, tokens: advance(0, tokens))
    )
    for ways in shown:
        texts = [next(written)[0].text for _ in ways]
        places = [read_choice(text, len(way.order)) for text, way in zip(texts, ways, strict=True)]
        yield {"picked": pick_named([way.order for way in ways], places), "places": places, "texts": texts}


def _draft(
    choice: Choice,
    by: str,
    ways: Sequence[_Presentation],
    *,
    picked: int | None,
    places: Sequence[int | None],
    texts: Sequence[str] = (),
    probabilities: Sequence[Sequence[float]] = (),
) -> Draft:
    right = None if picked is None else choice.right[picked]
    return Draft(
        content={
            "question_id": choice.question_id,
            "task": choice.task,
            "by": by,
            "candidate_ids": list(choice.candidate_ids),
            "principles": [way.principle for way in ways if way.principle is not None],
            "orders": [list(way.order) for way in ways],
            "prompts": [way.prompt for way in ways],
            "texts": list(texts),
            "choices": [
                None if place is None else way.order[place] for way, place in zip(ways, places, strict=True)
            ],
            "picked_id": None if picked is None else choice.candidate_ids[picked],
            "right": right,
        },
        parents=[
            Parent(choice.question_id, "question"),
            Parent(choice.score_id, "scored_by"),
            *(Parent(id, "option") for id in choice.candidate_ids),
        ],
        measures={
            "score": choice.by_lot if right is None else float(right),
            "probabilities": [list(each) for each in probabilities],
        },
    )
