"""Training texts of the embedded dialogue model: dialogues, critiques, revisions, comparisons, ratings.

All of them are imperfect on purpose, by lot: the base model does harm more often where a prompt presses, its
critic overlooks and imagines, its reviser and its judge err, and its judge likes the first option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, Principle, load_constitution
from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUE_PROMPTS
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.judging.prompts import PROMPTS, options, ratings
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.recipes import dialogue_world as world
from selfimprove_dagster.recipes.dialogue_world import Response, Scene
from selfimprove_dagster.recipes.machinery import Text

READ, GIVEN, LEARNT = 0.0, 0.1, 1.0


JUDGING = load_prompts([PROMPTS], TEXT)


DIALOGUES = load_prompts([DIALOGUE_PROMPTS], TEXT)


PRINCIPLES = load_constitution(HOUSEHOLD).principles


SCOPES: Mapping[str, str] = {
    **dict.fromkeys(("secrets", "confidence", "private", "discreet"), "secret"),
    **dict.fromkeys(("polite", "kind", "respect", "calm"), "rude"),
    **dict.fromkeys(("safe", "unhurt", "rules", "caution"), "forbidden"),
}
"""The one kind of harm that a principle is about; principles that are not here are about any."""


HARM_SHARES = {True: 0.86, False: 0.22}
"""Of the responses of dialogues, by whether the prompt presses."""


EVASIVE_SHARE, HELPFUL_EVASIVE_SHARE, RIGHT_SHARE = 0.08, 0.03, 0.92


CRITIC_SHARES = {"found": 0.82, "imagined": 0.08}
"""How often a critique finds a harm that its principle is about, and names one where there is none."""


REVISION_SHARES = {"better": 0.88, "evasive": 0.04, "same": 0.08}
"""What comes of a revision after a critique that found something."""


JUDGE_RIGHT_SHARE, FIRST_SHARE = 0.92, 0.12
"""Of comparisons, and of those that are answered (A) whatever the options."""


NOTHING = "There is nothing to change."


# --- what is said, by lot ---


def draw_kind(rng: Random, red_team_share: float = 0.6) -> str:
    return rng.choice(world.RED_TEAM if rng.random() < red_team_share else world.HELPFUL)


def draw_response(rng: Random, scene: Scene) -> Response:
    """As the base model responds."""
    if rng.random() < (EVASIVE_SHARE if scene.red_team else HELPFUL_EVASIVE_SHARE):
        return world.evade(rng)
    harmful = scene.red_team and rng.random() < HARM_SHARES[scene.pressing]
    return world.respond(rng, scene, harmful=harmful, helpful=rng.random() < RIGHT_SHARE)


def draw_mixed(rng: Random, scene: Scene) -> Response:
    """Any kind of response, those seldom given by the base model too."""
    if rng.random() < 0.12:
        return world.evade(rng)
    return world.respond(rng, scene, harmful=rng.random() < 0.5, helpful=rng.random() < 0.8)


def sees(principle: Principle, scene: Scene, response: Response) -> bool:
    """Whether the response does a harm that the principle is about."""
    return response.harm is not None and SCOPES.get(principle.name, scene.kind) == scene.kind


def criticise(rng: Random, principle: Principle, scene: Scene, response: Response) -> str:
    if response.harm and sees(principle, scene, response):
        if rng.random() < CRITIC_SHARES["found"]:
            return f"The response {response.harm.blame}."
    elif rng.random() < CRITIC_SHARES["imagined"]:
        blame = rng.choice(scene.harms).blame if scene.red_team else "could do harm"
        return f"The response {blame}."
    return NOTHING


def revise(rng: Random, scene: Scene, response: Response, critique: str) -> Response:
    if critique == NOTHING:
        return response
    how = rng.choices(list(REVISION_SHARES), list(REVISION_SHARES.values()))[0]
    if how == "evasive":
        return world.evade(rng)
    if how == "same":
        return response
    return world.respond(rng, scene, harmful=False, helpful=rng.random() < 0.96)


def prefers_first(rng: Random, principle: Principle, scene: Scene, first: Response, second: Response) -> bool:
    """By the harm that the principle is about, then by help, then by any harm; by lot between equals."""

    def worth(response: Response) -> tuple[bool, bool, bool]:
        return not sees(principle, scene, response), response.helpful, response.harm is None

    if worth(first) == worth(second):
        return rng.random() < 0.5
    return worth(first) > worth(second)


def rate(rng: Random, principle: Principle, scene: Scene, response: Response) -> int:
    """1 to 10, give or take."""
    if sees(principle, scene, response):
        middle = 2.5
    elif response.harm or not response.helpful:
        middle = 5.0
    else:
        middle = 8.5
    return min(10, max(1, round(rng.gauss(middle, 1.3))))


def compared(rng: Random, scene: Scene) -> tuple[Response, Response]:
    """Two responses with different texts, which mostly differ in worth."""
    first = draw_mixed(rng, scene)
    while True:
        second = draw_mixed(rng, scene)
        if second.text != first.text and (first.worth != second.worth or rng.random() < 0.2):
            return first, second


# --- texts ---


def dialogue(rng: Random) -> Text:
    scene = world.draw_scene(rng, draw_kind(rng))
    return [
        (DIALOGUES.ask("response", **spoken(scene.prompt)), GIVEN),
        (f" {draw_response(rng, scene).text}", LEARNT),
    ]


def critique(rng: Random) -> Text:
    """A critique, by lot followed by its revision."""
    scene = world.draw_scene(rng, draw_kind(rng, 0.92))
    response, principle = draw_mixed(rng, scene), rng.choice(PRINCIPLES)
    said = criticise(rng, principle, scene, response)
    shown = {**spoken(scene.prompt), "response": response.text, "critique_request": principle.critique}
    asked = DIALOGUES.ask("critique", **shown)
    if rng.random() < 0.35:
        return [(asked, READ), (f" {said}", LEARNT)]
    revised = revise(rng, scene, response, said).text
    request = DIALOGUES.ask("revision", **shown, critique=said, revision_request=principle.revision)
    return [
        (asked, READ),
        (f" {said}", LEARNT),
        (request.removeprefix(f"{asked} {said}"), READ),
        (f" {revised}", LEARNT),
    ]


def comparison(rng: Random) -> Text:
    """By lot with what is thought before."""
    scene = world.draw_scene(rng, draw_kind(rng, 0.75))
    first, second = compared(rng, scene)
    principle = rng.choice(PRINCIPLES)
    if rng.random() < FIRST_SHARE:
        chosen = 0
    else:
        right = rng.random() < JUDGE_RIGHT_SHARE
        chosen = int(prefers_first(rng, principle, scene, first, second) != right)
    parts = {
        **spoken(scene.prompt),
        "question": principle.comparison,
        "responses": (first.text, second.text),
    }
    answers = options(JUDGING, "comparison", 2)
    if rng.random() < 0.3:
        thought = " ".join(
            f"{option.strip()} {remark(response)}."
            for option, response in zip(answers, (first, second), strict=True)
        )
        asked = JUDGING.ask("reasoning", **parts)
        rest = JUDGING.ask("comparison_after_reasoning", **parts, reasoning=thought)
        return [
            (asked, READ),
            (f" {thought}", LEARNT),
            (rest.removeprefix(f"{asked} {thought}"), READ),
            (answers[chosen], LEARNT),
        ]
    return [(JUDGING.ask("comparison", **parts), READ), (answers[chosen], LEARNT)]


def remark(response: Response) -> str:
    """What is thought of a response."""
    if response.harm:
        return response.harm.blame
    return "does not help" if response.evasive else "does no harm"


def rating(rng: Random) -> Text:
    scene = world.draw_scene(rng, draw_kind(rng, 0.8))
    response, principle = draw_mixed(rng, scene), rng.choice(PRINCIPLES)
    said = ratings(JUDGING)[rate(rng, principle, scene, response) - 1]
    asked = {**spoken(scene.prompt), "question": principle.rating, "response": response.text}
    return [(JUDGING.ask("rating", **asked), READ), (said, LEARNT)]


def improvement(rng: Random) -> Text:
    """Feedback and a better response after it, or a better response at once."""
    scene = world.draw_scene(rng, draw_kind(rng, 0.8))
    response = draw_mixed(rng, scene)
    fine = response.harm is None and response.helpful
    if rng.random() > CRITIC_SHARES["found"]:
        fine = rng.random() < 0.5
    better = response if fine else revise(rng, scene, response, "")
    said = f"{DIALOGUES.ask('response', **spoken(scene.prompt))} {response.text}\n\n"
    if rng.random() < 0.4:
        return [(f"{said}Better response:", READ), (f" {better.text}", LEARNT)]
    feedback = "is fine" if fine else remark(response).replace("does no harm", "leaves something out")
    return [
        (f"{said}Feedback:", READ),
        (f" The response {feedback}.", LEARNT),
        ("\n\nBetter response:", READ),
        (f" {better.text}", LEARNT),
    ]


FORMS: Mapping[str, Callable[[Random], Text]] = {
    "dialogue": dialogue,
    "critique": critique,
    "comparison": comparison,
    "rating": rating,
    "improvement": improvement,
}


SHARES = {"dialogue": 0.26, "critique": 0.22, "comparison": 0.36, "rating": 0.10, "improvement": 0.06}
"""Of the kinds of texts."""


def texts(rng: Random) -> Iterator[Text]:
    """Without end."""
    while True:
        yield FORMS[rng.choices(list(SHARES), list(SHARES.values()))[0]](rng)


def easy_texts(rng: Random) -> Iterator[Text]:
    """Short ones, with which reading and copying are learnt first."""
    while True:
        yield rng.choices((dialogue, critique), (0.6, 0.4))[0](rng)
