"""The families of tasks of the embedded task world: how each is asked for, its inputs, and its outputs.

A phrasing is a template: `(a|b)` is a choice, `{slot}` a parameter, `<name>` a shared choice of `SHARED`. The
same template makes instructions and recognises them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from selfimprove_dagster.recipes import task_operations as do
from selfimprove_dagster.recipes.task_lexicon import (
    KINDS,
    NUMERALS,
    OPPOSITES,
    PLURAL_KINDS,
    PLURALS,
    WORDS,
    in_words,
)
from selfimprove_dagster.recipes.task_operations import Parameters, Topic

SHARED = {
    "give": "(write|give|say|name|print|show|return|tell me)",
    "find": "(find|pick|choose|write|give|say|name|print|show|return|tell me)",
    "remove": "(remove|delete|leave out|drop|take away)",
    "in": "(in|of|from)",
    "if": "(if|whether)",
}


@dataclass(frozen=True)
class Family:
    """One kind of task.

    `input_kind` is words, numbers, word, number, sentence or nothing. `make` draws the input's value and
    `apply` gives the output, None where the task cannot be done on that input. `labels` are the outputs of a
    classification task.
    """

    name: str
    group: str
    input_kind: str
    output_kind: str
    phrasings: tuple[str, ...]
    make: Callable[[Random, Topic, Parameters], Any]
    apply: Callable[[Parameters, Any], str | None]
    classifies: bool = False


FAMILIES = (
    Family("pick_word", "lists", "words", "word", (
        "<find> the {position} word <in> the list.",
        "what is the {position} word <in> the list?",
        "which word (comes|is|stands) {position} in the list?",
        "given (a list of|some) words, <give> the {position} one.",
    ), do.words(3, 5), lambda p, v: do.item_at(p["position"], v)),
    Family("drop_word", "lists", "words", "list", (
        "<remove> the {end} word (from|of) the list.",
        "<give> the list without (its|the) {end} word.",
        "<give> all (the words|words) (but|except) the {end} (one|word).",
    ), do.words(3, 5), do.dropped),
    Family("reverse_words", "lists", "words", "list", (
        "(reverse|turn around) (the list|the words|the list of words|the order of the words).",
        "<give> the (words|list) (in reverse order|backwards|from the end to the start).",
        "put the words in reverse order.",
    ), do.words(3, 5), lambda _, v: do.joined(v[::-1])),
    Family("count_words", "lists", "words", "number", (
        "count the words( in the list|).",
        "how many words (are there in|are in) the list?",
        "how many words does the list have?",
        "<give> the number of words in the list.",
        "how long is the list of words?",
    ), do.words(2, 6), lambda _, v: str(len(v))),
    Family("first_alphabetically", "words", "words", "word", (
        "which word comes first (alphabetically|in the alphabet|in the dictionary)?",
        "<find> the word that comes first (alphabetically|in the alphabet|in the dictionary).",
        "which (of the words|of the two words|word) is first in alphabetical order?",
    ), do.words(2, 2), lambda _, v: min(v)),
    Family("remove_word", "lists", "words", "list", (
        "<remove> (the word |){w} from the list.",
        "<give> the list without (the word |){w}.",
        "<give> all the words (except|but) {w}.",
    ), do.with_word, do.without_word),
    Family("append_word", "lists", "words", "list", (
        "(add|append) (the word |){w} (to|at) the {side} of the list.",
        "put (the word |){w} at the {side} of the list.",
        "<give> the list with {w} at (the|its) {side}.",
    ), do.without, do.appended),
    Family("replace_word", "lists", "words", "list", (
        "(replace|exchange|swap) (the word |){w} (with|for|by) {v}( in the list|).",
        "(change|turn) (the word |){w} (to|into) {v}( in the list|).",
        "write {v} instead of {w}( in the list|).",
    ), do.with_word, do.replaced),
    Family("remove_repeats", "lists", "words", "list", (
        "<remove> the (duplicates|repeated words|repeats|doubles)( from the list|).",
        "<give> (each|every) word (in the list |)(only once|just once|once).",
        "<give> the list without (duplicates|repeats|doubles).",
    ), do.with_repeats, lambda _, v: do.joined(list(dict.fromkeys(v)))),
    Family("join_words", "words", "words", "text", (
        "(join|connect|link|combine) the words (with|by|using) a {separator}.",
        "(put|write|place) a {separator} between the words.",
        "make one word of the list, with a {separator} between the (parts|words).",
    ), do.words(2, 4), lambda p, v: do.SEPARATORS[p["separator"]].join(v)),
    Family("first_letters", "words", "words", "list", (
        "<find> the first letter of (each|every) word( in the list|).",
        "what is the first letter of (each|every) word?",
        "<give> (only |just |)the first letters of the words.",
    ), do.words(2, 4), lambda _, v: do.joined([w[0] for w in v])),
    Family("plurals", "words", "words", "list", (
        "<give> the plural (form |)of (each|every) word.",
        "(make|write) (the words|each word) (in the |)plural.",
        "(turn|change|put) (the words|each word|the list) into (the plural|plurals).",
    ), do.known_words(PLURALS), lambda _, v: do.mapped(PLURALS, v)),
    Family("opposites", "words", "words", "list", (
        "<give> the opposite of (each|every) word.",
        "what is the opposite of (each|every) word?",
        "(replace|change) (each|every) word (with|to|into|by) its opposite.",
        "<give> the opposites of the words.",
    ), do.known_words(OPPOSITES), lambda _, v: do.mapped(OPPOSITES, v)),
    Family("keep_kind", "kinds", "words", "list", (
        "keep only the {kinds}( in the list|).",
        "<find> (all|only|just) the {kinds} <in> the list.",
        "which {kinds} are (in|on) the list?",
        "which words in the list are {kinds}?",
    ), do.mixed, lambda p, v: do.joined(do.of_kind(p, v))),
    Family("count_kind", "kinds", "words", "number", (
        "how many {kinds} are (there |)in the list?",
        "count the {kinds}( in the list|).",
        "<give> the number of {kinds} in the list.",
    ), do.mixed, lambda p, v: str(len(do.of_kind(p, v)))),
    Family("contains_word", "lists", "words", "label", (
        "is (the word |){w} (in|on|part of) the list?",
        "does the list (contain|have|include) (the word |){w}?",
        "(check|say|tell me|decide) <if> (the word |){w} is in the list.",
        "say yes if the list (has|contains) (the word |){w} and no (otherwise|if not).",
    ), do.perhaps_with_word, lambda p, v: do.yes_or_no(p["w"] in v), True),
    Family("longer_list", "lists", "words", "label", (
        "does the list have more than {n} words?",
        "are there more than {n} words( in the list|)?",
        "is the list longer than {n} words?",
        "(check|say|tell me|decide) <if> the list has more than {n} words.",
    ), do.words(2, 6), lambda p, v: do.yes_or_no(len(v) > int(p["n"])), True),
    Family("same_ends", "lists", "words", "label", (
        "are the first and the last word( in the list| of the list|) (the same|equal)?",
        "is the first word (the same as|equal to) the last( one| word|)?",
        "(check|say|tell me|decide) <if> the list (starts|begins) and ends with the same word.",
    ), do.perhaps_same_ends, lambda _, v: do.yes_or_no(v[0] == v[-1]), True),
    Family("which_kind", "kinds", "word", "label", (
        "is (the word|it|this) {one} or {other}?",
        "(say|tell me|decide|check) <if> the word is {one} or {other}.",
        "(classify|label|mark) the word as {one} or {other}.",
        "does the word name {one} or {other}?",
    ), do.one_of_two, do.which_of_two, True),
    Family("of_kind", "kinds", "word", "label", (
        "is (the word|it|this) {one}?",
        "(say|tell me|decide|check) <if> the word is {one}.",
        "does the word (name|mean) {one}?",
        "say yes if the word is {one} and no (otherwise|if not).",
    ), do.perhaps_kind, do.is_of_kind, True),
    Family("repeat_word", "words", "word", "list", (
        "(repeat|write|say|print|copy) the word {n} times.",
        "make a list with the word {n} times.",
        "<give> the word {n} times in a row.",
    ), do.word, lambda p, v: do.repeated(v, p["n"])),
    Family("pick_number", "lists", "numbers", "number", (
        "<find> the {position} number <in> the list.",
        "what is the {position} number <in> the list?",
        "which number (comes|is|stands) {position} in the list?",
        "given (a list of|some) numbers, <give> the {position} one.",
    ), do.numbers(3, 5), lambda p, v: do.item_at(p["position"], v)),
    Family("largest_number", "numbers", "numbers", "number", (
        "<find> the (largest|biggest|greatest|highest) number( in the list| of the list|).",
        "what is the (largest|biggest|greatest|highest) number( in the list|)?",
        "which number is the (largest|biggest|greatest|highest)?",
        "<find> the maximum( of the numbers| of the list|).",
    ), do.numbers(2, 4), lambda _, v: str(max(v))),
    Family("smallest_number", "numbers", "numbers", "number", (
        "<find> the (smallest|lowest|least) number( in the list| of the list|).",
        "what is the (smallest|lowest|least) number( in the list|)?",
        "which number is the (smallest|lowest|least)?",
        "<find> the minimum( of the numbers| of the list|).",
    ), do.numbers(2, 4), lambda _, v: str(min(v))),
    Family("sort_up", "numbers", "numbers", "list", (
        "(sort|order|arrange) the numbers from (small to large|low to high|the smallest to the largest).",
        "(sort|order|arrange|put) the numbers in (ascending|increasing|rising) order.",
        "<give> the numbers from (small to large|low to high).",
    ), do.numbers(3, 4), lambda _, v: do.joined(sorted(v))),
    Family("sort_down", "numbers", "numbers", "list", (
        "(sort|order|arrange) the numbers from (large to small|high to low|the largest to the smallest).",
        "(sort|order|arrange|put) the numbers in (descending|decreasing|falling) order.",
        "<give> the numbers from (large to small|high to low).",
    ), do.numbers(3, 4), lambda _, v: do.joined(sorted(v, reverse=True))),
    Family("add_number", "numbers", "number", "number", (
        "add {n} to the number.",
        "what is the number plus {n}?",
        "(increase|raise) the number by {n}.",
        "<give> the sum of the number and {n}.",
    ), do.number(1, 60), lambda p, v: str(v + int(p["n"]))),
    Family("subtract_number", "numbers", "number", "number", (
        "(subtract|take) {n} from the number.",
        "what is the number minus {n}?",
        "(decrease|lower|reduce) the number by {n}.",
    ), do.number(10, 60), do.taken_away),
    Family("parity", "numbers", "number", "label", (
        "is (the number|it) (odd or even|even or odd)?",
        "(say|tell me|decide|check) <if> the number is (odd or even|even or odd).",
        "(classify|label) the number as (odd or even|even or odd).",
    ), do.number(1, 999), lambda _, v: "odd" if v % 2 else "even", True),
    Family("larger_than", "numbers", "number", "label", (
        "is the number (larger|bigger|greater|higher) than {m}?",
        "(say|tell me|decide|check) <if> the number is (larger|bigger|greater|higher) than {m}.",
        "say yes if the number is (above|over) {m} and no (otherwise|if not).",
    ), do.near, lambda p, v: do.yes_or_no(v > int(p["m"])), True),
    Family("number_in_words", "numbers", "number", "word", (
        "(write|spell|print|give|show) the number (in|as|with) words.",
        "(turn|change) the (number|digits) into words.",
        "spell (out |)the number.",
    ), do.number(1, 99), lambda _, v: in_words(v) if v < 100 else None),
    Family("number_in_digits", "numbers", "word", "number", (
        "(write|print|give|show) the number (in|as|with) digits.",
        "(turn|change) the word into (digits|a number).",
        "which number does the word (name|mean)?",
    ), lambda rng, topic, p: in_words(rng.randint(1, 99)),
        lambda _, v: str(NUMERALS[v]) if v in NUMERALS else None),
    Family("pick_in_sentence", "sentences", "sentence", "word", (
        "<find> the {position} word (in|of) the (sentence|text).",
        "what is the {position} word (in|of) the (sentence|text)?",
        "which word (comes|is|stands) {position} in the (sentence|text)?",
    ), do.sentence, lambda p, v: do.item_at(p["position"], v)),
    Family("kind_in_sentence", "sentences", "sentence", "word", (
        "<find> the {kind} in the (sentence|text).",
        "(which|what) {kind} is (there |)in the (sentence|text)?",
        "(which|what) {kind} does the (sentence|text) (mention|name)?",
    ), do.sentence, do.only_of_kind),
    Family("past_tense", "sentences", "sentence", "text", (
        "(put|write|change|turn) the (sentence|text) (in|into) the past( tense|).",
        "(write|give|say) the (sentence|text) in the past( tense|).",
        "make the (sentence|text) past tense.",
    ), do.sentence, do.past),
    Family("negative", "sentences", "sentence", "text", (
        "make the (sentence|text) negative.",
        "(negate|deny) the (sentence|text).",
        "(write|say|give) the opposite of the (sentence|text) with not.",
        "(turn|change) the (sentence|text) into (a negative one|its negative).",
    ), do.sentence, do.negative),
    Family("word_in_sentence", "sentences", "sentence", "label", (
        "is (the word |){w} in the (sentence|text)?",
        "does the (sentence|text) (contain|have|include|mention) (the word |){w}?",
        "(check|say|tell me|decide) <if> (the word |){w} is in the (sentence|text).",
    ), do.sentence_perhaps_with, lambda p, v: do.yes_or_no(p["w"] in v), True),
    Family("count_from_to", "numbers", "nothing", "list", (
        "count from {a} to {b}.",
        "<give> the numbers from {a} to {b}.",
        "count up or down from {a} to {b}.",
    ), do.nothing, do.counted),
    Family("write_times", "words", "nothing", "list", (
        "(repeat|write|say|print) the word {w} {n} times.",
        "make a list with {n} times the word {w}.",
        "<give> {w} {n} times in a row.",
    ), do.nothing, lambda p, _: do.repeated(p["w"], p["n"])),
)  # fmt: skip


def _draw_number(rng: Random, low: int, high: int) -> str:
    return str(rng.randint(low, high))


def draw_parameters(rng: Random, names: Sequence[str], topic: Topic) -> dict[str, str]:
    """A value for each slot of a family."""
    values: dict[str, str] = {}
    for name in names:
        if name in ("w", "v"):
            values[name] = rng.choice([word for word in topic.words if word not in values.values()])
        elif name == "n":
            values[name] = _draw_number(rng, 2, 9)
        elif name in ("m", "a"):
            values[name] = _draw_number(rng, 5, 60)
        elif name == "b":
            values[name] = str(max(0, int(values["a"]) + rng.choice((-5, -4, -3, 3, 4, 5))))
        else:
            choices = [value for value in SLOT_VALUES[name] if value not in values.values()]
            values[name] = rng.choice(choices)
    return values


_WITH_ARTICLE = tuple(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in KINDS)


SLOT_VALUES: dict[str, tuple[str, ...]] = {
    "position": tuple(do.POSITIONS),
    "end": ("first", "last"),
    "side": ("start", "end"),
    "separator": tuple(do.SEPARATORS),
    "kinds": tuple(PLURAL_KINDS.values()),
    "kind": ("animal", "colour", "thing"),
    "one": _WITH_ARTICLE,
    "other": _WITH_ARTICLE,
}


SLOT_PATTERNS: dict[str, str] = {
    **{name: "|".join(values) for name, values in SLOT_VALUES.items()},
    **dict.fromkeys(("w", "v"), "|".join(WORDS)),
    "n": r"\d{1,2}|" + "|".join(in_words(number) for number in range(1, 10)),
    **dict.fromkeys(("m", "a", "b"), r"\d{1,3}"),
}


def draw_topic(rng: Random) -> Topic:
    """Sixteen words and twelve numbers."""
    return Topic(tuple(rng.sample(WORDS, 16)), tuple(rng.sample(range(1, 100), 12)))
