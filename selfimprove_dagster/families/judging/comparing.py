"""A model as judge, over the language-model interface: comparisons in each order, and ratings.

Bai et al. (2212.08073, section 4.1) and Lee et al. (2309.00267, sections 2.1 and 2.2). An answer is read off
the probabilities of the options: no text is generated or parsed, but for a chain of thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from selfimprove_dagster.families.dialogues.constitution import Constitution
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.judging.preferences import draw_principles, expected_rating, rescaled
from selfimprove_dagster.families.judging.prompts import options, ratings
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.language_model.base import LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.options import Unscored, scored_options
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.prompts import Prompts

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, by the ids of their records."""

    prompt_id: str
    prompt: str
    response_ids: tuple[str, str]
    texts: tuple[str, str]


@dataclass(frozen=True)
class _Question:
    pair: Pair
    principle: str
    order: int
    repeat: bool
    seed: int

    @property
    def shown(self) -> tuple[str, str]:
        first, second = self.pair.texts
        return (first, second) if self.order == 0 else (second, first)


def questions_of(
    pair: Pair, constitution: Constitution, section: JudgeSection, seeds_from: Sequence[str | int]
) -> list[_Question]:
    """What the judge is asked of a pair: each principle in each order; of some pairs, again."""
    names = [principle.name for principle in constitution.principles]
    again = seed_of(*seeds_from, "repeated", pair.prompt) / 2**63 < section.repeated_share
    questions = []
    for repeat in (False, True) if again else (False,):
        drawn = seed_of(*seeds_from, "principles", int(repeat), pair.prompt)
        for principle in draw_principles(names, section.principles, drawn):
            # Both orders are asked of a repeat too: an order alone would measure the position as well.
            for order in (0, 1) if section.both_orders else (0,):
                seed = seed_of(drawn, principle, order)
                questions.append(_Question(pair, principle, order, repeat, seed))
    return questions


def compare_pairs(
    model: LanguageModel,
    prompts: Prompts,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: JudgeSection,
    seeds_from: Sequence[str | int],
    advance: Advance = lambda rows, tokens: None,
) -> list[Draft]:
    """Return one draft per comparison: the probability of (A) against (B), for each pair, principle and order.

    It is None where the comparison could not be made, such as one that is too long for the judge: `problem` says why.
    The probability is as the judge gives it, also after reasoning: labels clamp it (`aggregate`). Questions of
    one pair and order share what they can of their prompt: they differ from the question on. `prompts` are in the
    form that the model reads. `advance` is called with the pairs that are done and the tokens that were generated.
    """
    questions = [one for pair in pairs for one in questions_of(pair, constitution, section, seeds_from)]
    asked: list[dict[str, Any]] = [
        {
            **spoken(one.pair.prompt),
            "question": constitution[one.principle].comparison,
            "responses": one.shown,
        }
        for one in questions
    ]
    thoughts = [""] * len(questions)
    problems: list[str | None] = [None] * len(questions)
    reasoning_prompts = [""] * len(questions)
    if section.reasoning:
        reasoning_prompts = [prompts.ask("reasoning", **each) for each in asked]
        parameters = SamplingParameters(
            temperature=section.temperature,
            max_tokens=section.reasoning_tokens,
            stop=prompts.stops("reasoning"),
            structure=prompts.structure("reasoning"),
        )
        drawn = model.generate(
            model.encode_prompts(reasoning_prompts),
            [[one.seed] for one in questions],
            parameters,
            lambda rows, tokens: advance(0, tokens),
        )
        thoughts = [thought.text for (thought,) in drawn]
        problems = [thought.problem for (thought,) in drawn]
    named = ["comparison_after_reasoning" if thought.strip() else "comparison" for thought in thoughts]
    shown = [
        prompts.ask(name, **each, reasoning=thought)
        for name, each, thought in zip(named, asked, thoughts, strict=True)
    ]
    chosen = _chosen(model, prompts, named, shown)
    found = [
        Unscored(problem) if problem else likely for problem, likely in zip(problems, chosen, strict=True)
    ]
    advance(len(pairs), 0)
    return [
        Draft(
            content={
                "prompt_id": one.pair.prompt_id,
                "response_ids": list(one.pair.response_ids),
                "principle": one.principle,
                "order": one.order,
                "repeat": one.repeat,
                "question": prompt,
                "reasoning_prompt": before or None,
                "reasoning": thought or None,
                "seed": one.seed,
            },
            parents=[Parent(response, "compared") for response in one.pair.response_ids],
            measures=_measured(likely),
        )
        for one, prompt, before, thought, likely in zip(
            questions, shown, reasoning_prompts, thoughts, found, strict=True
        )
    ]


def _measured(likely: Sequence[float] | Unscored) -> dict[str, Any]:
    """Return the measures of a comparison."""
    if isinstance(likely, Unscored):
        return {"probability_a": None, "problem": likely.problem}
    return {"probability_a": likely[0], "problem": None}


def _chosen(
    model: LanguageModel, prompts: Prompts, named: Sequence[str], asked: Sequence[str]
) -> list[list[float] | Unscored]:
    """Return the probabilities of both options after each prompt; its name says how its options are written."""
    contexts = model.encode_prompts(asked)
    written = [options(prompts, name, 2) for name in named]
    found: dict[int, list[float] | Unscored] = {}
    for both in dict.fromkeys(written):
        at = [index for index, one in enumerate(written) if one == both]
        likely = scored_options(model, [contexts[index] for index in at], both)
        found |= dict(zip(at, likely, strict=True))
    return [found[index] for index in range(len(asked))]


def rate(
    model: LanguageModel,
    prompts: Prompts,
    asked: Sequence[str],
    questions: Sequence[str],
    responses: Sequence[str],
) -> list[float]:
    """Return the expected rating of each response to what was `asked`, from −1 to 1: the reward of direct RLAIF.

    It is NaN where the rating cannot be scored, such as where the prompt is too long for the judge.
    """
    expected = expected_ratings(model, prompts, asked, questions, responses)
    return [nan if isinstance(one, Unscored) else rescaled(one) for one in expected]


def expected_ratings(
    model: LanguageModel,
    prompts: Prompts,
    asked: Sequence[str],
    questions: Sequence[str],
    responses: Sequence[str],
) -> list[float | Unscored]:
    """Return the expected rating of each response to what was `asked`, from 1 to 10."""
    shown = [
        prompts.ask("rating", **spoken(said), question=question, response=response)
        for said, question, response in zip(asked, questions, responses, strict=True)
    ]
    likely = scored_options(model, model.encode_prompts(shown), ratings(prompts))
    return [one if isinstance(one, Unscored) else expected_rating(one) for one in likely]
