"""Training texts of the embedded tool model: annotated texts, texts after a note, questions, translations.

Where a call helps is nowhere to be learnt. Annotations stand at places drawn by lot, with inputs drawn by lot
from the text; calls with results come only as notes on a line before a text, relevant or not by lot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.recipes import tool_world as world
from selfimprove_dagster.recipes.machinery import END, Text
from selfimprove_dagster.recipes.tool_world import WorldText
from selfimprove_dagster.tools.base import Tool
from selfimprove_dagster.tools.calls import Call, PlacedCall, interleave, write_call
from selfimprove_dagster.tools.prompts import PROMPTS, annotating
from selfimprove_dagster.tools.registry import BUILT_IN, open_tools

FIXED, GIVEN, TOLD, LEARNT = 0.0, 0.1, 0.5, 1.0


CALL_SHARE = 0.12
"""Share of the words of an annotated text before which a call stands."""


EASY_CALL_SHARE = 0.5


KIND_SHARES = {
    "arithmetic": 0.34,
    "date": 0.17,
    "fact": 0.20,
    "question": 0.13,
    "translation": 0.11,
    "plain": 0.05,
}


INVENTED_SHARES = {"fact": 0.9, "question": 0.97, "translation": 0.98}
"""How often a running text tells what is true in no other: what the tools know is seldom said there."""


NOTE_SHARES = {"relevant": 0.50, "drawn": 0.30, "empty": 0.20}
"""The note before a text is the call that tells what the text tells; one drawn by lot; one without result."""


TOOL_SHARES = {"Calculator": 0.36, "Calendar": 0.10, "WikiSearch": 0.20, "QA": 0.20, "MT": 0.14}
"""Of the tools whose calls annotate texts."""


UNIT_SHARES = {"noted": 0.56, "bare": 0.18, "asked": 0.18, "translated": 0.08}


UNITS = 5
"""Texts in a document of texts."""


_NUMBER = re.compile(r"\d+")


_QUOTED = re.compile(r"“([^”]*)”")


_PERSON = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")


_WORD_BOUNDARY = re.compile(r"(?:^|(?<= ))(?=\S)")


TOOLS: Mapping[str, Tool] = open_tools(BUILT_IN, prompts_only=True)


_ASKED = load_prompts([PROMPTS], TEXT)


def annotation_prompt(tool: Tool, text: str) -> str:
    """The prompt that asks for the calls of a tool in a text."""
    return _ASKED.ask("annotation", **annotating(tool, text))


# --- calls drawn by lot ---


def draw_sum(rng: Random, text: str) -> str:
    """An operation by lot on numbers by lot of the text."""
    numbers = list(dict.fromkeys(_NUMBER.findall(text)))
    while len(numbers) < 2:
        numbers.append(str(rng.randint(2, 999)))
    count = min(len(numbers), rng.choices((2, 3), (0.75, 0.25))[0])
    chosen = rng.sample(range(len(numbers)), count)
    if rng.random() < 0.6:
        chosen.sort()
    expression = numbers[chosen[0]]
    for index in chosen[1:]:
        expression += f" {rng.choice('+-*/')} {numbers[index]}"
    return expression


def draw_words(rng: Random, text: str) -> str:
    """One to three words of the text by lot, those of a name or quotation more often."""
    marked = [*_QUOTED.findall(text), *_PERSON.findall(text)]
    if marked and rng.random() < 0.6:
        return str(rng.choice(marked))
    words = re.findall(r"[^\W\d]+", text)
    first = rng.randrange(len(words))
    return " ".join(words[first : first + rng.choice((1, 1, 2, 3))])


def draw_question(rng: Random, text: str) -> str:
    """A question of any kind about a person of the text, else about any words of it."""
    persons = _PERSON.findall(text)
    about = rng.choice(persons) if persons and rng.random() < 0.9 else draw_words(rng, text)
    return rng.choice(world.RELATIONS)[1].format(p=about)


ARGUMENTS: Mapping[str, Callable[[Random, str], str]] = {
    "Calculator": draw_sum,
    "Calendar": lambda rng, text: "",
    "WikiSearch": lambda rng, text: f'"{draw_words(rng, text)}"',
    "QA": lambda rng, text: f'"{draw_question(rng, text)}"',
    "MT": lambda rng, text: f'"{draw_words(rng, text)}"',
}


def draw_tool(rng: Random) -> str:
    """A tool by its share."""
    return rng.choices(list(TOOL_SHARES), list(TOOL_SHARES.values()))[0]


def annotated(rng: Random, tool: str, text: str, share: float = CALL_SHARE) -> str:
    """The text with calls at places drawn by lot."""
    places = [boundary.start() for boundary in _WORD_BOUNDARY.finditer(text)]
    drawn = [place for place in places if rng.random() < share] or [rng.choice(places)]
    return interleave(text, [PlacedCall(place, Call(tool, ARGUMENTS[tool](rng, text))) for place in drawn])


# --- what only pretraining texts tell ---


ENTRIES: Sequence[tuple[str, str]] = (
    ("{e} is a town on {i}. It was founded in {y} by {t} traders.", "{e} was founded in |{y}|"),
    ("{e} is a town on {i}. It was founded in {y} by {t} traders.", "{e} is a town on |{i}|"),
    ("{e} is an island of {i}, known for its {c} {t}.", "{e} is known for its |{c} {t}|"),
    ("{e} is an island. Its main town is {o}. It has {t}.", "The main town of {e} is |{o}|"),
    ("{e} crosses {i} and is {n} metres long. It was finished in {y}.", "{e} is |{n} metres| long"),
    ("{e} crosses {i} and is {n} metres long. It was finished in {y}.", "{e} was finished in |{y}|"),
    ("{e} was a potter from {i} who built {n} {t}.", "{e} was a potter from |{i}|"),
    ("{e} was a potter from {i} who built {n} {t}.", "{e} built |{n} {t}|"),
    ("The {e} is a {c} bird of {i}. It lives on {t}.", "The {e} is a |{c} bird|"),
    ("The {e} is a {c} bird of {i}. Its belly is {t}.", "The belly of the {e} is |{t}|"),
    ("{e} is a drink from {i} made of {c} {t}.", "{e} is a drink from |{i}|"),
    ("{e} is a drink from {i}. It is made of {c} {t}.", "{e} is made of |{c} {t}|"),
    ("{e} is a festival of {i}. It was first held in {y}.", "{e} was first held in |{y}|"),
    ("{e} is a festival of {i}, which lasts {n} days.", "{e} lasts |{n} days|"),
    ("The {e} of {y} killed {n} people on {i}.", "The {e} of {y} killed |{n} people|"),
    ("{e} is a {c} lake on {i}. It is full of {t}.", "{e} is a |{c} lake|"),
    ("{e} was built by {o} in {y}. It has {n} {t}.", "{e} was built by |{o}|"),
    ("{e} was signed in {i} in {y}. It was a law about {t}.", "{e} was signed in |{i}|"),
)
"""Invented passages and what a text says after them: reading is learnt there, not what is said."""


def invented_name(rng: Random) -> str:
    syllables = ("ba", "den", "fi", "gor", "hu", "kal", "lo", "mar", "nes", "pir", "ros", "sel", "tum", "vo")
    return "".join(rng.sample(syllables, rng.choice((2, 2, 3)))).capitalize()


def invented_fact(rng: Random) -> WorldText:
    """Of a passage that no encyclopaedia has."""
    values = {
        key: f"{invented_name(rng)} {invented_name(rng)}"[: rng.choice((8, 99))].strip() for key in "eio"
    }
    values |= {"t": rng.choice(world.THINGS), "c": rng.choice(world.COLOURS)}
    values |= {"n": str(rng.randint(12, 990)), "y": str(rng.randint(1500, 1990))}
    passage, clause = (part.format(**values) for part in rng.choice(ENTRIES))
    return world.fact_text(rng, clause, values["e"], f"{values['e']}: {passage}")


def invented_question(rng: Random) -> WorldText:
    """About a person of whom nothing else is said."""
    return world.question(rng, f"{invented_name(rng)} {invented_name(rng)}")


def invented_translation(rng: Random) -> WorldText:
    """Of words put together from halves of those of the language."""
    words = [*world.NOUNS, *world.ADJECTIVES, *world.VERBS]

    def word() -> str:
        return rng.choice(words)[:2] + rng.choice(words)[2:]

    foreign = f"{word()} {word()}" if rng.random() < 0.65 else f"{word()} na {word()}"
    return world.meaning_text(rng, foreign, world.phrase(rng)[1])


INVENTED: Mapping[str, Callable[[Random], WorldText]] = {
    "fact": invented_fact,
    "question": invented_question,
    "translation": invented_translation,
}


# --- texts ---


def draw(rng: Random, kinds: Mapping[str, float] = KIND_SHARES) -> WorldText:
    """A text for pretraining of a kind by lot."""
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if rng.random() < INVENTED_SHARES.get(kind, 0):
        return world.embellished(rng, INVENTED[kind](rng))
    return world.draw_text(rng, kind)


def sum_note(rng: Random, text: WorldText) -> Call | None:
    """A sum of the text's numbers by lot, with its result; none that is held out."""
    expression = draw_sum(rng, text.text)
    if world.split_of(world.sum_key(expression)) != "pretraining":
        return None
    result = world.calculated(expression)
    return Call("Calculator", expression, result) if result else None


def drawn_note(rng: Random, text: WorldText) -> Call:
    """A true call that may have nothing to do with the text."""
    tool = text.call.tool if text.call and rng.random() < 0.7 else rng.choice(list(TOOLS))
    if tool == "Calendar":
        return Call(tool, "", world.today(text.date))
    if tool == "Calculator":
        return sum_note(rng, text) or drawn_note(rng, text)
    kind = {"WikiSearch": "fact", "QA": "question", "MT": "translation"}[tool]
    other = draw(rng, {kind: 1.0}).call
    assert other
    return other


def note(rng: Random, text: WorldText) -> Call:
    """The note before a text."""
    kind = rng.choices(list(NOTE_SHARES), list(NOTE_SHARES.values()))[0]
    call = text.call if text.call and kind != "drawn" else drawn_note(rng, text)
    if kind == "empty":
        if rng.random() < 0.5:
            call = drawn_note(rng, text)
        return Call(call.tool, call.arguments, "")
    return call


def told(text: WorldText, weight: float) -> Text:
    """The parts of a running text; what it tells has the weight."""
    return [(text.before, TOLD), (f" {text.answer}" if text.answer else "", weight), (text.after, TOLD)]


def noted(rng: Random) -> Text:
    """A text after a note."""
    text = draw(rng)
    return [(f"{write_call(note(rng, text))}\n", GIVEN), *told(text, LEARNT)]


def bare(rng: Random) -> Text:
    """A text alone."""
    return told(draw(rng), TOLD)


def asked(rng: Random) -> Text:
    """A question in the form in which the tool asks the model."""
    call = world.question(rng).call
    assert call
    return [(f"Q: {call.arguments[1:-1]}\nA:", GIVEN), (f" {call.result}", LEARNT)]


def translated(rng: Random) -> Text:
    """A phrase in the form in which the tool asks the model."""
    call = world.draw_text(rng, "translation").call
    assert call
    opening = f"Translate into English.\nText: {call.arguments[1:-1]}\nEnglish:"
    return [(opening, GIVEN), (f" {call.result}", LEARNT)]


_UNITS = {"noted": noted, "bare": bare, "asked": asked, "translated": translated}


def several(rng: Random) -> Text:
    """Texts, questions and translations, each between tokens that end a text."""
    text: Text = [(END, FIXED)] if rng.random() < 0.7 else []
    for number in range(UNITS):
        name = rng.choices(list(UNIT_SHARES), list(UNIT_SHARES.values()))[0]
        text += [*([(END, TOLD)] if number else []), *_UNITS[name](rng)]
    return text


def pairs(rng: Random, tool: str, count: int, share: float = CALL_SHARE) -> Text:
    """Texts with their annotations."""
    text: Text = []
    for _ in range(count):
        given = draw(rng).text
        text.append((f"Input: {given}\nOutput:", GIVEN))
        text += [(f" {annotated(rng, tool, given, share)}", LEARNT), ("\n\n", TOLD)]
    return text[:-1]


def shown_pairs(rng: Random) -> Text:
    """Annotated texts alone: what tool is asked for can be read off the first."""
    return pairs(rng, draw_tool(rng), 3)


def prompted_pairs(rng: Random) -> Text:
    """The prompt of a tool as it is shipped, and annotated texts after it."""
    tool = draw_tool(rng)
    opening = annotation_prompt(TOOLS[tool], "").removesuffix("Input: \nOutput:")
    return [(opening, FIXED), *pairs(rng, tool, 2)]


FORMS: Mapping[str, tuple[Callable[[Random], Text], float]] = {
    "several": (several, 0.60),
    "shown_pairs": (shown_pairs, 0.22),
    "prompted_pairs": (prompted_pairs, 0.18),
}
"""Forms of training text and their shares."""


def texts(rng: Random) -> Iterator[Text]:
    """Training texts without end."""
    makers = [maker for maker, _ in FORMS.values()]
    shares = [share for _, share in FORMS.values()]
    while True:
        yield rng.choices(makers, shares)[0](rng)


def copied_lists(rng: Random) -> Iterator[Text]:
    """Words and numbers said three times: a small model first has to learn to copy at all."""
    while True:
        parts = [
            str(rng.randint(1, 9999)) if rng.random() < 0.5 else rng.choice((*world.THINGS, *world.NAMES))
            for _ in range(rng.randint(4, 8))
        ]
        listed = " ".join(parts)
        yield [(f" {listed}\n", FIXED), (f" {listed}\n {listed}", LEARNT)]


def easy_texts(rng: Random) -> Iterator[Text]:
    """A text after its note, or one text with calls at many places, to learn what a call is made of."""
    while True:
        if rng.random() < 0.5:
            text = draw(rng)
            if text.call:
                yield [(f"{END}{write_call(text.call)}\n", GIVEN), *told(text, LEARNT)]
        else:
            yield pairs(rng, draw_tool(rng), 1, EASY_CALL_SHARE)
