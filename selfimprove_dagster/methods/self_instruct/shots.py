"""The worked examples that Self-Instruct's prompts show, in our own words.

The paper has 31 for classification, 12 with yes and 19 with no (2212.10560, table 6), and a handful of tasks
for instances (tables 7 and 8). Any beginning of CLASSIFICATION_SHOTS of two or more holds both answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.families.tasks.settings import ShotSection
from selfimprove_dagster.families.tasks.tables import INSTANCE
from selfimprove_dagster.families.tasks.tasks import Instance, Task
from selfimprove_dagster.lake.records import Parent
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.table import Row

CLASSIFICATION_SHOTS: tuple[tuple[str, bool], ...] = (
    ("Say whether the review is favourable, unfavourable or mixed.", True),
    ("Retell the fable in the voice of its villain.", False),
    ("Suggest a menu for a dinner with two vegetarian guests.", False),
    ("Is the number prime? Answer yes or no.", True),
    ("Convert the temperature from Celsius to Fahrenheit.", False),
    ("Sort the message into one of: order, complaint, question.", True),
    ("Explain to a child why the sky is blue.", False),
    ("Rewrite the sentence in the passive voice.", False),
    ("Decide whether the two sentences mean the same.", True),
    ("Name five rivers of the continent.", False),
    ("Compose a short birthday greeting for the colleague.", False),
    ("Which of the four options completes the sentence best? Answer with its letter.", True),
    ("Find the spelling mistakes and correct them.", False),
    ("Summarise the article in two sentences.", False),
    ("Tell whether the statement follows from the paragraph, contradicts it, or neither.", True),
    ("List the ingredients that the recipe needs.", False),
    ("Invent a name for the bakery and give a reason.", False),
    ("Label the text by its language: English, French, German or Spanish.", True),
    ("Plan a weekend in the city for a family of four.", False),
    ("Continue the story with one more paragraph.", False),
    ("Does the comment insult anyone? Choose insulting or harmless.", True),
    ("Turn the list of notes into an email.", False),
    ("Solve the equation for x and show the steps.", False),
    ("Rate the urgency of the ticket as low, medium or high.", True),
    ("Describe the taste of a mango to someone who never ate one.", False),
    ("Tell whether the animal is a mammal, a bird, a fish or an insect.", True),
    ("Write a function that reverses a string.", False),
    ("Give three arguments for and three against school uniforms.", False),
    ("Pick the season in which the event takes place: spring, summer, autumn or winter.", True),
    ("Translate the proverb and explain what it means.", False),
    ("Decide if the headline is news or opinion.", True),
)


def _task(instruction: str, is_classification: bool, *instances: tuple[str, str]) -> Task:
    return Task(instruction, tuple(Instance(given, output) for given, output in instances), is_classification)


INPUT_FIRST_SHOTS: tuple[Task, ...] = (
    _task(
        "Put the words into alphabetical order.",
        False,
        ("pear, apple, fig", "apple, fig, pear"),
        ("wind, rain, snow, fog", "fog, rain, snow, wind"),
    ),
    _task(
        "Name three things that one takes along on a day in the mountains.",
        False,
        ("", "Sturdy boots, a rain jacket and enough water."),
    ),
    _task(
        "Rewrite the request so that it sounds polite.",
        False,
        ("Send me the report.", "Could you please send me the report?"),
        ("Be quiet.", "Would you mind being a little quieter, please?"),
        ("Move your car.", "Could I ask you to move your car, please?"),
    ),
    _task(
        "Work out how much change the customer gets back.",
        False,
        (
            "The bill is 13.40 and the customer pays with a 20.",
            "20.00 - 13.40 = 6.60, so the change is 6.60.",
        ),
        ("The bill is 4.75 and the customer pays with a 10.", "10.00 - 4.75 = 5.25, so the change is 5.25."),
    ),
    _task(
        "Write a reply that declines the invitation.",
        False,
        (
            "Hi Ana,\nwe have a barbecue on Saturday at six. Will you come?\nTom",
            "Hi Tom,\nthank you for thinking of me. I am away on Saturday, but do ask me again.\nAna",
        ),
    ),
    _task(
        "Give a word that rhymes with the given one.",
        False,
        ("light", "night"),
        ("stone", "bone"),
        ("hill", "mill"),
    ),
    _task(
        "Explain the saying in one plain sentence.",
        False,
        ("Many hands make light work.", "A task is easier when several people share it."),
        ("Look before you leap.", "Think about what may happen before you act."),
    ),
    _task(
        "Describe how to boil an egg.",
        False,
        (
            "",
            "1. Bring water to the boil.\n2. Lower the egg in with a spoon.\n3. Wait six to nine minutes.\n"
            "4. Cool it under cold water.",
        ),
    ),
)


OUTPUT_FIRST_SHOTS: tuple[Task, ...] = (
    _task(
        "Is the review favourable or unfavourable?",
        True,
        ("The soup was cold and nobody cared.", "unfavourable"),
        ("We laughed from the first scene to the last.", "favourable"),
    ),
    _task(
        "Sort the message into one of: order, complaint, question.",
        True,
        ("Two boxes of A4 paper to our office, please.", "order"),
        ("The lamp arrived with a broken switch.", "complaint"),
        ("Until when are you open on Fridays?", "question"),
    ),
    _task(
        "Say whether the two sentences mean the same. Answer yes or no.",
        True,
        ("1: The shop shuts at eight.\n2: At eight the shop closes.", "yes"),
        ("1: Mara sold her bicycle.\n2: Mara bought a bicycle.", "no"),
    ),
    _task(
        "Tell whether the animal is a mammal, a bird, a fish or an insect.",
        True,
        ("heron", "bird"),
        ("otter", "mammal"),
        ("wasp", "insect"),
        ("trout", "fish"),
    ),
    _task(
        "Rate the urgency of the ticket as low, medium or high.",
        True,
        ("The payment page has been down for an hour.", "high"),
        ("The logo on the help page looks a bit blurred.", "low"),
        ("Exports work only at the second try.", "medium"),
    ),
    _task(
        "Which option completes the sentence best? Answer with its letter.",
        True,
        ("The kettle is hot because it has just ___.\n(A) boiled\n(B) slept\n(C) sung", "A"),
        ("She opened her umbrella, for it began to ___.\n(A) write\n(B) rain\n(C) bloom", "B"),
    ),
)


SHOT: dict[str, Any] = {
    "id": pl.String,
    "instruction": pl.String,
    "instances": pl.List(INSTANCE),
    "is_classification": pl.Boolean,
}
"""A worked example of a prompt as a row; `id` is that of the pool's task that it is, None for one that ships."""


class Shots:
    """The worked examples that prompts may show: the pool's seed tasks, or those that ship.

    Of the seed tasks those alone are read that a prompt shows.
    """

    def __init__(self, pool: pl.LazyFrame, section: ShotSection, seed: int) -> None:
        self._count, self._seed, self._ships = section.shots, seed, section.ships
        kinds = [pool.filter(origin="human", is_classification=kind).select(SHOT.keys()) for kind in _KINDS]
        self._tasks = pl.concat(kinds).with_row_index("number")
        counts = pl.concat([one.select(pl.len()) for one in kinds]).collect()["len"].to_list()
        starts = [0, counts[0]]
        self._numbers = {
            kind: range(start, start + count)
            for kind, start, count in zip(_KINDS, starts, counts, strict=True)
        }

    def of(self, prompts: Sequence[tuple[str, bool | None]]) -> list[list[Row]]:
        """The examples (`SHOT`) of each prompt, by its key and the kind of task that it shows, None for both.

        The first ones for every prompt if they ship; else a random choice that follows from the key.
        """
        if self._ships:
            return [shipped(kind)[: self._count] for _, kind in prompts]
        chosen = [self._choose(*prompt) for prompt in prompts]
        wanted = list({number for numbers in chosen for number in numbers})
        found = self._tasks.filter(pl.col("number").is_in(wanted)).collect()
        rows = {row.pop("number"): row for row in found.iter_rows(named=True)}
        return [[rows[number] for number in numbers] for numbers in chosen]

    def _choose(self, key: str, kind: bool | None) -> list[int]:
        draw = random.Random(seed_of(self._seed, "shots", key))
        kinds = [self._numbers[one] for one in (_KINDS if kind is None else (kind,))]
        each = -(-self._count // len(kinds))
        chosen = [number for numbers in kinds for number in draw.sample(numbers, min(each, len(numbers)))]
        return draw.sample(chosen, min(self._count, len(chosen)))


_KINDS = (True, False)


def task_of(shot: Row) -> Task:
    """The task of a worked example."""
    instances = tuple(Instance(one["input"], one["output"]) for one in shot["instances"] or ())
    return Task(shot["instruction"], instances, shot["is_classification"])


def demonstrations_of(shots: Iterable[Row]) -> list[Parent]:
    """The pool's tasks among worked examples, as parents."""
    return [Parent(shot["id"], "demonstration") for shot in shots if shot["id"]]


def shipped(is_classification: bool | None) -> list[Row]:
    """The worked examples that ship for a kind of task, None for both kinds."""
    if is_classification is None:
        tasks: Sequence[Task] = [Task(text, (), answer) for text, answer in CLASSIFICATION_SHOTS]
    else:
        tasks = OUTPUT_FIRST_SHOTS if is_classification else INPUT_FIRST_SHOTS
    return [
        {
            "id": None,
            "instruction": task.instruction,
            "instances": [vars(one) for one in task.instances],
            "is_classification": task.is_classification,
        }
        for task in tasks
    ]
