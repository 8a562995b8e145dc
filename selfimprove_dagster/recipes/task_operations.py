"""What the tasks of the embedded task world do: draw the value of an input, and give the output for one.

A function that draws takes a generator, the topic and the task's parameters; one that gives an output takes
the parameters and the value, and returns None where the task cannot be done on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from selfimprove_dagster.recipes.task_lexicon import KIND_OF, KINDS, PLURAL_KINDS, VERBS

Parameters = Mapping[str, str]


YES_NO = ("Yes", "No")


SEPARATORS = {"dash": "-", "slash": "/", "plus": "+"}


POSITIONS = {"first": 0, "second": 1, "third": 2, "last": -1}


@dataclass(frozen=True)
class Topic:
    """The words and numbers that one text keeps to."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


def some(rng: Random, words: Sequence[Any], low: int, high: int) -> list[Any]:
    return rng.sample(list(words), min(rng.randint(low, high), len(words)))


def words(low: int, high: int) -> Callable[[Random, Topic, Parameters], list[str]]:
    return lambda rng, topic, _: some(rng, topic.words, low, high)


def numbers(low: int, high: int) -> Callable[[Random, Topic, Parameters], list[int]]:
    return lambda rng, topic, _: some(rng, topic.numbers, low, high)


def number(low: int, high: int) -> Callable[[Random, Topic, Parameters], int]:
    return lambda rng, topic, _: rng.randint(low, high)


def known_words(known: Mapping[str, Any]) -> Callable[[Random, Topic, Parameters], list[str]]:
    """One to three words of which something is known, those of the topic first."""

    def make(rng: Random, topic: Topic, _: Parameters) -> list[str]:
        near = [word for word in topic.words if word in known]
        return some(rng, near if len(near) > 3 else list(known), 2, 3)

    return make


def with_word(rng: Random, topic: Topic, p: Parameters) -> list[str]:
    """Three to five words, the parameter among them."""
    words = some(rng, [word for word in topic.words if word not in p.values()], 2, 4)
    return rng.sample([*words, p["w"]], len(words) + 1)


def perhaps_with_word(rng: Random, topic: Topic, p: Parameters) -> list[str]:
    return with_word(rng, topic, p) if rng.random() < 0.5 else without(rng, topic, p)


def without(rng: Random, topic: Topic, p: Parameters) -> list[str]:
    return some(rng, [word for word in topic.words if word not in p.values()], 3, 5)


def with_repeats(rng: Random, topic: Topic, _: Parameters) -> list[str]:
    words = some(rng, topic.words, 2, 3)
    words += rng.sample(words, rng.randint(1, 2))
    return rng.sample(words, len(words))


def perhaps_same_ends(rng: Random, topic: Topic, _: Parameters) -> list[str]:
    words = some(rng, topic.words, 3, 5)
    return [*words[:-1], words[0]] if rng.random() < 0.5 else words


def mixed(rng: Random, topic: Topic, p: Parameters) -> list[str]:
    """One or two words of the kind that is asked for, among others."""
    kind = singular(p["kinds"])
    words = some(rng, KINDS[kind], 1, 2)
    words += some(rng, [word for word in topic.words if KIND_OF.get(word) != kind], 1, 3)
    return rng.sample(words, len(words))


def one_of_two(rng: Random, topic: Topic, p: Parameters) -> str:
    return rng.choice(KINDS[rng.choice((bare(p["one"]), bare(p["other"])))])


def perhaps_kind(rng: Random, topic: Topic, p: Parameters) -> str:
    kind = bare(p["one"])
    return rng.choice(KINDS[kind] if rng.random() < 0.5 else [w for w in KIND_OF if KIND_OF[w] != kind])


def sentence(rng: Random, topic: Topic, _: Parameters | None = None) -> list[str]:
    """`the red fox sees the cup`"""
    return [
        "the", rng.choice(KINDS["colour"]), rng.choice(KINDS["animal"]), rng.choice(list(VERBS)),
        "the", rng.choice(KINDS["thing"]),
    ]  # fmt: skip


def sentence_perhaps_with(rng: Random, topic: Topic, p: Parameters) -> list[str]:
    drawn = sentence(rng, topic)
    slots = {"colour": 1, "animal": 2, "thing": 5}
    if rng.random() < 0.5 and (slot := slots.get(KIND_OF.get(p["w"], ""))):
        drawn[slot] = p["w"]
    return drawn


def word(rng: Random, topic: Topic, _: Parameters) -> str:
    return rng.choice(topic.words)


def nothing(rng: Random, topic: Topic, _: Parameters) -> None:
    return None


def near(rng: Random, topic: Topic, p: Parameters) -> int:
    return max(0, int(p["m"]) + rng.choice((-1, 1)) * rng.randint(1, 20))


def singular(kinds: str) -> str:
    return next(kind for kind, plural in PLURAL_KINDS.items() if plural == kinds)


def bare(kind: str) -> str:
    """`animal` for `an animal`."""
    return kind.split()[-1]


def joined(items: Sequence[Any] | None) -> str | None:
    return " ".join(str(item) for item in items) if items else None


def item_at(position: str, items: Sequence[Any]) -> str | None:
    index = POSITIONS[position]
    return str(items[index]) if index < len(items) else None


def yes_or_no(truth: bool) -> str:
    return YES_NO[0] if truth else YES_NO[1]


def mapped(known: Mapping[str, str], words: Sequence[str]) -> str | None:
    return joined([known[word] for word in words]) if all(word in known for word in words) else None


def without_word(p: Parameters, words: list[str]) -> str | None:
    return joined([word for word in words if word != p["w"]]) if p["w"] in words else None


def replaced(p: Parameters, words: list[str]) -> str | None:
    return joined([p["v"] if word == p["w"] else word for word in words]) if p["w"] in words else None


def appended(p: Parameters, words: list[str]) -> str | None:
    return joined([p["w"], *words] if p["side"] == "start" else [*words, p["w"]])


def dropped(p: Parameters, words: list[str]) -> str | None:
    return joined(words[1:] if p["end"] == "first" else words[:-1])


def of_kind(p: Parameters, words: list[str]) -> list[str]:
    return [word for word in words if KIND_OF.get(word) == singular(p["kinds"])]


def is_of_kind(p: Parameters, word: str) -> str | None:
    return yes_or_no(KIND_OF[word] == bare(p["one"])) if word in KIND_OF else None


def which_of_two(p: Parameters, word: str) -> str | None:
    kind = KIND_OF.get(word)
    return kind if kind in (bare(p["one"]), bare(p["other"])) and p["one"] != p["other"] else None


def only_of_kind(p: Parameters, words: list[str]) -> str | None:
    found = [word for word in words if KIND_OF.get(word) == p["kind"]]
    return found[0] if len(found) == 1 else None


def verb_at(words: list[str]) -> int | None:
    places = [place for place, word in enumerate(words) if word in VERBS]
    return places[0] if len(places) == 1 else None


def past(_: Parameters, words: list[str]) -> str | None:
    place = verb_at(words)
    if place is None:
        return None
    return " ".join([*words[:place], VERBS[words[place]][1], *words[place + 1 :]])


def negative(_: Parameters, words: list[str]) -> str | None:
    place = verb_at(words)
    if place is None:
        return None
    return " ".join([*words[:place], "does not", VERBS[words[place]][0], *words[place + 1 :]])


def counted(p: Parameters, _: Any) -> str | None:
    a, b = int(p["a"]), int(p["b"])
    step = 1 if b > a else -1
    return joined(range(a, b + step, step)) if 0 < abs(b - a) <= 9 else None


def repeated(word: str, times: str) -> str | None:
    return joined([word] * int(times)) if 1 <= int(times) <= 9 else None


def taken_away(p: Parameters, number: int) -> str | None:
    return str(number - int(p["n"])) if number >= int(p["n"]) else None
