"""A model picks among its own answers, over the language-model interface (Jiang et al., 2404.04298).

Each choice is a multiple-choice question in several orders; the answer is read off the probabilities of the
options, or out of what the model writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.families.dialogues.constitution import Constitution
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.judging.preferences import draw_principles
from selfimprove_dagster.families.judging.prompts import options
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.options import Unscored, scored_options
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.self_knowledge.self_knowledge import (
    Order,
    draw_orders,
    pick_likeliest,
    pick_named,
    read_choice,
)
from selfimprove_dagster.methods.self_knowledge.settings import DiscriminationSection
from selfimprove_dagster.prompts import Prompts

Advance = Callable[[int, int], None]


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
    """The candidates as they are shown once; `principle` is that of a dialogue's question.

    `asked_as` is the name of the `prompt`.
    """

    order: Order
    principle: str | None
    prompt: str
    asked_as: str


def presentations(
    choice: Choice,
    prompts: Prompts,
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
            _Presentation(
                order,
                None,
                prompts.ask("answer_choice", question=choice.question, answers=texts),
                "answer_choice",
            )
            for order, texts in shown
        ]
    names = [principle.name for principle in constitution.principles]
    drawn = draw_principles(names, section.principles, seed_of(*named, "principles"))
    return [
        _Presentation(
            order,
            name,
            prompts.ask(
                "comparison",
                **{**spoken(choice.question), "question": constitution[name].comparison, "responses": texts},
            ),
            "comparison",
        )
        for name in drawn
        for order, texts in shown
    ]


def pick_all(
    model: LanguageModel,
    prompts: Prompts,
    choices: Sequence[Choice],
    constitution: Constitution,
    section: DiscriminationSection,
    seeds_from: Sequence[str | int],
    advance: Advance = lambda choices, tokens: None,
) -> list[Draft]:
    """Return one draft per choice and way of picking.

    `prompts` are in the form that the model reads. `advance` is called with the choices that are done and the tokens
    that were generated.
    """
    shown = [presentations(choice, prompts, constitution, section, seeds_from) for choice in choices]
    drafts = []
    for by in section.by:
        picks = (
            _by_probability(model, prompts, shown)
            if by == "probability"
            else _by_text(model, prompts, shown, section, advance)
        )
        drafts += [
            _draft(choice, by, ways, **found)
            for choice, ways, found in zip(choices, shown, picks, strict=True)
        ]
    advance(len(choices), 0)
    return drafts


def _by_probability(
    model: LanguageModel, prompts: Prompts, shown: Sequence[Sequence[_Presentation]]
) -> Iterator[dict[str, Any]]:
    ways = [way for each in shown for way in each]
    # A choice has fewer options where a candidate was revoked, and one call has the same for all contexts.
    written = [options(prompts, way.asked_as, len(way.order)) for way in ways]
    of_options: dict[tuple[str, ...], Iterator[list[float] | Unscored]] = {}
    for same in dict.fromkeys(written):
        asked = [way.prompt for way, own in zip(ways, written, strict=True) if own == same]
        of_options[same] = iter(scored_options(model, model.encode_prompts(asked), same))
    likely = iter([next(of_options[own]) for own in written])
    for each in shown:
        answers = [next(likely) for _ in each]
        found = [[] if isinstance(one, Unscored) else one for one in answers]
        scored = [(way.order, one) for way, one in zip(each, found, strict=True) if one]
        picked = pick_likeliest(*zip(*scored, strict=True)) if scored else None
        firsts = [max(range(len(one)), key=one.__getitem__) if one else None for one in found]
        problem = next((one.problem for one in answers if isinstance(one, Unscored)), None)
        yield {"picked": picked, "places": firsts, "probabilities": found, "problem": problem}


def _by_text(
    model: LanguageModel,
    prompts: Prompts,
    shown: Sequence[Sequence[_Presentation]],
    section: DiscriminationSection,
    advance: Advance,
) -> Iterator[dict[str, Any]]:
    ways = [way for each in shown for way in each]
    written: dict[int, Generation] = {}
    sampling = [
        SamplingParameters(
            temperature=0.0,
            max_tokens=section.max_tokens,
            stop=prompts.stops(way.asked_as),
            structure=prompts.structure(way.asked_as),
        )
        for way in ways
    ]
    for greedy in dict.fromkeys(sampling):
        at = [index for index, own in enumerate(sampling) if own == greedy]
        asked = model.encode_prompts([ways[index].prompt for index in at])
        drawn = model.generate(asked, [[0]] * len(asked), greedy, lambda rows, tokens: advance(0, tokens))
        written |= {index: text for index, (text,) in zip(at, drawn, strict=True)}
    said = iter([written[index] for index in range(len(ways))])
    for each in shown:
        answers = [next(said) for _ in each]
        problem = next((one.problem for one in answers if one.problem), None)
        texts = [one.text for one in answers]
        places = [read_choice(text, len(way.order)) for text, way in zip(texts, each, strict=True)]
        picked = pick_named([way.order for way in each], places)
        yield {"picked": picked, "places": places, "texts": texts, "problem": problem}


def _draft(
    choice: Choice,
    by: str,
    ways: Sequence[_Presentation],
    *,
    picked: int | None,
    places: Sequence[int | None],
    texts: Sequence[str] = (),
    probabilities: Sequence[Sequence[float]] = (),
    problem: str | None = None,
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
            "problem": problem,
        },
    )
