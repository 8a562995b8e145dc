"""The task world of the embedded task model: instructions, inputs and a solver that knows what is true.

Every instruction belongs to one of the families of `task_families`, in one of its phrasings and with
parameters of its own. `recognise` reads any instruction of the world, also one that a model has put together
anew, and `solve` gives the one right output of an instruction on an input. What is true is for evaluation
and tests only: no method sees it.

A task on an input is held out or not by a hash of its family, parameters and input, never by its words, so
that a held-out task is held out in every phrasing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from selfimprove_dagster.recipes.task_families import (
    FAMILIES,
    SHARED,
    SLOT_PATTERNS,
    Family,
    draw_parameters,
    draw_topic,
)
from selfimprove_dagster.recipes.task_lexicon import NUMERALS, in_words
from selfimprove_dagster.recipes.task_operations import Topic

Split = Literal["training", "evaluation"]


POLITE = "(please |look at the input and |take the input and |now |)"
"""What may stand before an instruction that ends with a full stop."""


_CHOICE = re.compile(r"\(([^()]*)\)")


_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Asked:
    """What an instruction asks for: a family, and parameters as sorted (name, value) pairs."""

    family: Family
    values: tuple[tuple[str, str], ...]

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.values)


@dataclass(frozen=True)
class Example:
    """An instruction, an input ("" where the task has none) and the right output."""

    asked: Asked
    instruction: str
    input: str
    output: str


def _expanded(template: str) -> str:
    for name, choice in SHARED.items():
        template = template.replace(f"<{name}>", choice)
    return (POLITE if template.endswith(".") else "") + template


def _pattern(template: str) -> re.Pattern[str]:
    """Recognises every text that `phrase` can make of the template; the last full stop may be missing.

    Where the template has a choice of verbs that ask for an output, any such verb will do: models recombine.
    """
    verbs = SHARED["find"].strip("()").split("|")

    def widened(choice: re.Match[str]) -> str:
        options = choice[1].split("|")
        if len(set(options) & set(verbs)) > 1:
            options = [*dict.fromkeys([*options, *verbs])]
        return "(" + "|".join(options) + ")"

    widest = _CHOICE.sub(widened, _expanded(template).rstrip(".?"))
    escaped = re.sub(r"[.?+]", r"\\\g<0>", widest).replace("(", "(?:")
    named = _SLOT.sub(lambda slot: f"(?P<{slot[1]}>{SLOT_PATTERNS[slot[1]]})", escaped)
    return re.compile(named + r"\s*[.?!:]?", re.IGNORECASE)


_PATTERNS = [(family, _pattern(template)) for family in FAMILIES for template in family.phrasings]


def slots_of(family: Family) -> list[str]:
    """Names of the family's parameters."""
    return sorted(set(_SLOT.findall(" ".join(family.phrasings))))


def draw_asked(rng: Random, topic: Topic, family: Family | None = None) -> Asked:
    """Draw what is asked for, of `family` or of any."""
    family = family or rng.choice(FAMILIES)
    return Asked(family, tuple(sorted(draw_parameters(rng, slots_of(family), topic).items())))


def phrase(rng: Random, asked: Asked) -> str:
    """One of the ways to ask for it."""
    text = _expanded(rng.choice(asked.family.phrasings))
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), text)
    values = asked.parameters
    if "n" in values and rng.random() < 0.5:
        values["n"] = in_words(int(values["n"]))
    text = text.format(**values)
    return text[0].upper() + text[1:]


def recognise(instruction: str) -> Asked | None:
    """What the instruction asks for; None where it is none of this world."""
    text = " ".join(instruction.split())
    for family, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            values = {name: value.lower() for name, value in match.groupdict().items()}
            if "n" in values and not values["n"].isdigit():
                values["n"] = str(NUMERALS[values["n"]])
            return Asked(family, tuple(sorted(values.items())))
    return None


def read_input(kind: str, text: str) -> Any:
    """The value of an input of a kind; ValueError where the text is no such input."""
    parts = text.split(" ")
    valid = {
        "words": 1 < len(parts) <= 9 and all(re.fullmatch("[a-z]+", part) for part in parts),
        "numbers": 1 < len(parts) <= 9 and all(re.fullmatch(r"\d{1,4}", part) for part in parts),
        "word": bool(re.fullmatch("[a-z]+(-[a-z]+)?", text)),
        "number": bool(re.fullmatch(r"\d{1,4}", text)),
        "sentence": bool(re.fullmatch("[a-z]+( [a-z]+){2,11}", text)),
        "nothing": text == "",
    }
    if not valid[kind]:
        raise ValueError(f"{text!r} is not an input of kind {kind}.")
    if kind == "nothing":
        return None
    if kind in ("number", "numbers"):
        numbers = [int(part) for part in parts]
        return numbers[0] if kind == "number" else numbers
    return {"words": parts, "word": text, "sentence": text.split(" ")}[kind]


def write_input(kind: str, value: Any) -> str:
    """The text of an input's value."""
    if kind in ("words", "numbers"):
        return " ".join(str(item) for item in value)
    return {"sentence": lambda: " ".join(value), "nothing": lambda: ""}.get(kind, lambda: str(value))()


def solve(instruction: str, input: str) -> str | None:
    """The right output; None where the instruction is none of this world or the input does not suit it."""
    asked = recognise(instruction)
    if asked is None:
        return None
    try:
        value = read_input(asked.family.input_kind, input.strip())
    except ValueError:
        return None
    return asked.family.apply(asked.parameters, value)


def split_of(asked: Asked, input: str) -> Split:
    """The split of a task on an input: 10% evaluation, 90% training."""
    text = f"{asked.family.name}|{asked.values}|{input.strip()}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "evaluation" if int.from_bytes(digest, "big") % 100 < 10 else "training"


def is_held_out(instruction: str, input: str) -> bool:
    """Whether the instruction on that input belongs to the evaluation split, in whatever words."""
    asked = recognise(instruction)
    return asked is not None and split_of(asked, input) == "evaluation"


def draw_input(rng: Random, topic: Topic, asked: Asked, split: Split) -> tuple[str, str] | None:
    """Input and right output of the split; None where twenty draws find none."""
    for _ in range(20):
        value = asked.family.make(rng, topic, asked.parameters)
        text, output = (
            write_input(asked.family.input_kind, value),
            asked.family.apply(asked.parameters, value),
        )
        if output is not None and split_of(asked, text) == split:
            return text, output
    return None


def draw_example(
    rng: Random, topic: Topic | None = None, family: Family | None = None, split: Split = "training"
) -> Example:
    """Draw an instruction with an input of the split."""
    while True:
        near = topic or draw_topic(rng)
        asked = draw_asked(rng, near, family)
        if drawn := draw_input(rng, near, asked, split):
            return Example(asked, phrase(rng, asked), *drawn)


def distinct_examples(rng: Random, split: Split, count: int) -> list[Example]:
    """`count` examples, the families in turn, no two with the same task on the same input.

    A family of which fifty draws bring nothing new is left out from there on.
    """
    found: dict[tuple[Asked, str], Example] = {}
    families = list(FAMILIES)
    while families:
        for family in list(families):
            for _ in range(50):
                example = draw_example(rng, family=family, split=split)
                if (key := (example.asked, example.input)) not in found:
                    found[key] = example
                    break
            else:
                families.remove(family)
            if len(found) == count:
                return list(found.values())
    raise ValueError(f"There are only {len(found)} different examples of the split {split}.")
