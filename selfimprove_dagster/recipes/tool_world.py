"""The world of the embedded tool model: short dated texts that tell a number, date, fact or meaning late.

What is told can be worked out, looked up, asked or translated by one of the built-in tools. What is true is
for evaluation, tests and the notes in front of pretraining texts; no method sees it. A text is held out by a
hash of what it tells: numbers and operation, a phrase, a fact; where it tells a date, of its words.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calendar import Calendar
from selfimprove_dagster.tools.calls import Call
from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA, read_corpus

Split = Literal["pretraining", "seeds", "evaluation"]


KINDS = ("arithmetic", "date", "fact", "question", "translation", "plain")


PASSAGES = {one["title"]: f"{one['title']}: {one['text']}" for one in read_corpus(ENCYCLOPAEDIA)}


_CALCULATOR, _CALENDAR = Calculator(), Calendar()


_COMMUTATIVE = re.compile(r"(\d+) ([+*]) (\d+)")


PLACES = (
    "orchard", "market", "harbour", "school", "mill", "station", "library", "farm", "bakery", "garden",
    "theatre", "workshop", "museum", "tavern", "quarry", "chapel",
)  # fmt: skip


THINGS = (
    "trees", "apples", "lamps", "chairs", "bricks", "books", "tickets", "jars", "ropes", "boxes", "candles",
    "bottles", "stamps", "tiles", "eggs", "coins", "bells", "barrels",
)  # fmt: skip


NAMES = (
    "Mara", "Tobin", "Ila", "Bran", "Senna", "Orla", "Pavel", "Dorin", "Wenda", "Kasper", "Lotte", "Milo",
    "Greta", "Anton", "Nell", "Ruben",
)  # fmt: skip


COLOURS = ("red", "blue", "green", "white", "black", "grey", "brown", "yellow", "silver", "golden")


# "|" stands before what is told; the rest of the text follows it.
SUMS: Mapping[str, Sequence[str]] = {
    "{a} + {b}": (
        "The {place} sold {a} {things} in spring and {b} in autumn, | over the year.",
        "{name} counted {a} {things} on the left and {b} on the right, | together.",
        "There were {a} {things} in the {place}. Then {b} more came, which made |.",
        "One cart carried {a} {things} and the other {b}, so that | reached the {place}.",
        "On Monday {a} people came to the {place} and on Tuesday {b}, a total of |.",
        "{name} had saved {a} coins and earned {b} more, | coins in all.",
        "The {place} opened in the morning with {a} {things}. With {b} more from the cellar it had |.",
    ),
    "{a} - {b}": (
        "Of the {a} {things} in the {place}, {b} were broken, so that | were left.",
        "{name} had {a} {things} and gave away {b}, keeping |.",
        "The {place} ordered {a} {things}, but {b} did not arrive; | did.",
        "The {place} had {a} {things}. After {b} were sold, | remained.",
        "The path is {a} metres long. After {b} metres, | metres are still to go.",
        "The {place} owed {a} crowns and paid {b}, which leaves | crowns.",
        "{name} needs {a} {things} and has {b}: | are missing.",
    ),
    "{a} * {b}": (
        "The {place} has {a} rows of {b} {things}, | {things} in all.",
        "{name} packed {a} boxes of {b} {things} each, | in total.",
        "Each of the {a} shelves holds {b} {things}, which makes | {things}.",
        "The {place} uses {b} {things} a day. In {a} days that is |.",
        "A ticket costs {a} pence, so {b} tickets cost | pence.",
        "There are {a} carts with {b} {things} on each, | {things} altogether.",
        "{name} walks {a} steps a minute. In {b} minutes this makes | steps.",
        "With {a} {things} in each of {b} rooms, the {place} has |.",
    ),
    "{a} / {b}": (
        "The {place} shared {a} {things} among {b} children, | for each.",
        "{name} put {a} {things} into {b} boxes, so that each box held |.",
        "The {a} {things} stand in {b} equal rows of |.",
        "A rope of {a} metres was cut into {b} equal parts, each of | metres.",
        "{b} tickets cost {a} pence, which is | pence for one.",
        "The {place} used {a} {things} in {b} days, | a day.",
        "Divided among {b} workers, the {a} crowns came to | crowns each.",
        "The {place} is paid for in {b} equal parts. Of {a} crowns each part is |.",
    ),
    "{a} - {b} + {c}": (
        "{name} had {a} {things}, gave away {b} and found {c} more, so that | were left.",
        "The {place} had {a} {things}, sold {b} and bought {c}, and now has |.",
    ),
    "{a} * {b} + {c}": (
        "The {place} has {a} rows of {b} {things} and {c} more at the gate, | in all.",
    ),
    "{a} * {b} - {c}": ("{name} packed {a} boxes of {b} {things}, but {c} were broken, which leaves |.",),
}  # fmt: skip


_SHAPE_SHARES = dict(zip(SUMS, (24, 24, 24, 20, 4, 2, 2), strict=True))


DATES: Mapping[str, Sequence[str]] = {
    "weekday": (
        "The {place} is closed today since it is a |.", "Today is |, and the {place} is full of people.",
        "{name} writes this letter on a | evening.",
        "It is | today, the day on which {name} goes to the {place}.",
        "The {place} opens late, as on every |.", "As today is a |, {name} bakes bread.",
    ),
    "month": (
        "It is | now, and {name} looks after the {place}.", "This | the {place} has more visitors than ever.",
        "The {place} sells {things} this month, in |.",
        "We are in the middle of |, and the {place} is quiet.",
        "{name} says that | is the best month for the {place}.",
    ),
    "year": (
        "The {place} was painted this year, in |.", "It is the year |, and the {place} still stands.",
        "Now, in |, {name} is the oldest in the {place}.",
        "In this year of | the {place} gave away {things}.",
    ),
    "years ago": (
        "The {place} was finished {n} years ago, in |.", "{n} years ago, in |, {name} came to the {place}.",
        "{name} bought the {place} {n} years ago. That was in |.",
        "The {place} burned down exactly {n} years ago, in the year |.",
    ),
    "whole date": (
        "Today, |, the {place} opens again.", "{name} signed the letter today, |.",
        "The {place} was counted today, |, by {name}.",
    ),
}  # fmt: skip


FACTS = (
    "Sel:The capital of Sel is |Marrow Bay| on the south coast", "Ondra:Ondra is a group of |nine islands|",
    "Marrow Bay:Marrow Bay was founded in |1641| by salt traders",
    "Tarn:Tarn is known for its |slate quarries|", "Tarn:The main town of Tarn is |Oldgate|",
    "Vash:The volcano of Vash, Mount Ember, last erupted in |1878|",
    "Mount Ember:Mount Ember has a height of |1,934 metres|", "Korrin:Korrin has forests of |tree fern|",
    "Pell:Pell is an island of |beekeepers|", "Quill Island:Quill Island has the shape of a |feather|",
    "Dray:Dray is an island of |potters|", "Lumen River:The Lumen rises in the |Hollow Hills|",
    "Hollow Hills:The Hollow Hills are a range of |limestone hills|",
    "Echo Cave:Echo Cave was first explored to its end in |1956| by a climber",
    "Ida Venn:Ida Venn mapped |31 caves|", "Sable Lake:Sable Lake is a |crater lake|",
    "Reed Water:Reed Water is a |shallow lagoon| of cranes",
    "Marrow Bridge:Marrow Bridge was finished in |1723|",
    "Marrow Bridge:Marrow Bridge crosses the Lumen on |eleven stone arches|",
    "Hesper Light:Hesper Light was built by |Osric Tal|",
    "Hesper Light:Hesper Light is a lighthouse |52 metres| high",
    "University of Sel:The University of Sel was founded in |1790|",
    "Glass Library:The Glass Library has a roof of |2,400 panes|",
    "Tomas Reck:Tomas Reck was a |baker and poet|", "Lena Quist:Lena Quist is a |composer|",
    "Aldo Finn:Aldo Finn sailed around the islands alone, in |1887|",
    "Hanna Dorrit:Hanna Dorrit was a |physician|", "Bruno Vale:Bruno Vale was a potter from |Dray|",
    "Vale blue:Vale blue is made of |copper ore|", "Ondran crown:One crown has |24 pence|",
    "Lantern Night:Lantern Night is a festival on the |first of November|",
    "Tide Fair:The Tide Fair is held on |Little Tarn|",
    "Honey Week:Honey Week is a harvest festival on |Pell|",
    "Salt Day:Salt Day remembers the |founding of Marrow Bay|",
    "Ember lizard:The belly of the ember lizard is |red|", "Lamp crane:The lamp crane is a |white bird|",
    "Slate beetle:The slate beetle is a |flat grey beetle|",
    "Silver eel:The silver eel is caught in the |Lumen|",
    "Moon whale:The moon whale passes |Hesper| each spring",
    "Saltberry:The saltberry is a |sour orange berry|", "Black oat:Black oat is a |hardy grain|",
    "Fern tea:Fern tea is a drink from |Korrin|", "Harbour soup:Harbour soup is a soup of |eel, leek|",
    "Fever of 1849:The fever of 1849 killed |3,100 people|",
    "Quarry strike:The quarry strike of 1906 lasted |14 weeks|",
    "Union of the Isles:The Union of the Isles was signed in |Oldgate|",
    "Salt tax:The salt tax was abolished in |1860|", "Coast railway:The coast railway opened in |1891|",
    "Hollin:Hollin is known for its |ropes and sails|",
    "Ferry line:The first steamer of the Ondran ferry line was called |Patience|",
    "Wrack:Wrack is a |fishing village|", "Cinder Point:Cinder Point is the southern tip of |Vash|",
    "Nine Stones:Nine Stones is a |board game|", "Copper Steps:The Copper Steps are an |old open mine|",
    "Tide clock:A tide clock has |one hand|",
    "Rope bridge of Wrack:The rope bridge of Wrack is |118 metres| long",
    "Ashby Mill:Ashby Mill grinds |black oat|",
    "Ondran Gazette:The Ondran Gazette has appeared each Friday since |1755|",
    "House of Tides:The House of Tides is a |museum|",
    "Slate roof law:The slate roof law forbade |roofs of straw|",
)  # fmt: skip
"""`title:text`, with a bar on either side of what is told."""


FRAMES = (
    "{fact}.", "The guide says: {fact}.", "{name} wrote home: {fact}.", "It is said in the {place}: {fact}.",
    "{name} tells everyone the same. {fact}.", "A sign at the {place} says: {fact}.", "{fact}, says {name}.",
    "{name} read it in the {place}. {fact}.", "As {name} knows: {fact}.",
)  # fmt: skip


HALVES = (
    "Upper Lower Old New West East North South Far Near High", "Hollin Wrack Ashby Garrow Timmer Sandle",
    "rope clock boat glass shoe lamp bread net knife barrel paper", "maker seller mender painter buyer",
    "wooden silver copper little great old broken yellow curved", "flute drum horn harp fiddle pipe bell",
    "red blue green white black grey brown yellow tame wild old", "goat cat dog hen horse duck crow hare",
)  # fmt: skip
"""Of the answers about persons, two for each relation."""


RELATIONS = (
    ("{p} was born in", "Where was {p} born?"), ("{p} works as a", "What is the trade of {p}?"),
    ("{p} plays the", "Which instrument does {p} play?"), ("{p} keeps a", "Which animal does {p} keep?"),
)  # fmt: skip


PERSONS = tuple(
    f"{first} {last}"
    for first in ("Ada", "Bela", "Corin", "Dessa", "Emil", "Fenna", "Goran", "Hild")
    for last in ("Brandt", "Corvin", "Dahl", "Ester", "Falk")
)


NOUNS = {
    "tolu": "door", "kesh": "gate", "brani": "house", "lomo": "river", "dusk": "stone", "pirra": "bird",
    "vanno": "tree", "shil": "boat", "meru": "road", "ganta": "bell", "olik": "king", "tessa": "queen",
    "hurn": "bear", "zibi": "cat", "feru": "horse", "nald": "bridge", "quon": "tower", "yemi": "garden",
    "rasp": "knife", "sulo": "bread",
}  # fmt: skip


ADJECTIVES = {
    "mira": "red", "tavo": "blue", "beku": "old", "nish": "new", "gorro": "large", "pim": "small", "sarel":
    "white", "duno": "black", "lefa": "quiet", "wox": "loud", "hanu": "cold", "omber": "warm", "yul":
    "long", "kirt": "short", "aspo": "good", "vedd": "bad",
}  # fmt: skip


VERBS = {
    "shen": "close", "kavi": "open", "rumo": "find", "tolk": "leave", "bess": "see", "jarn": "guard",
}  # fmt: skip


MEANINGS = (
    "On the {place} stood “{f}”, which means |.", "The ship was named {f}, which means |.",
    "{name} said “{f}”, that is |.", "Her motto was “{f}”: |.",
    "The old song begins with “{f}”, in English |.", "The sign says “{f}”, or |.",
    "{name} wrote “{f}” on the wall, meaning |.", "The word of the day is “{f}”: |.",
    "They call the {place} “{f}”, which is |.", "“{f}”, answered {name}, |.",
)  # fmt: skip


PLAIN = (
    "It rained all morning.", "The wind came from the sea.", "{name} and {other} sat in the {place}.",
    "{name} was tired and went home.", "The {place} was quiet.", "A {colour} bird flew over the {place}.",
    "{name} painted the door of the {place} {colour}.", "There was fog over the {place}.",
    "{name} waited for {other}.", "{name} bought {n} {things}.", "{other} laughed.",
    "The sun went down behind the {place}.", "{name} met {other} at the {place}.",
    "The {place} smelled of {things}.", "It was {n} degrees.", "{name} carried {n} {things} to the {place}.",
    "Snow lay on the road to the {place}.", "{name} likes {things}.",
    "In the evening {other} told a story about {things}.", "The {things} were {colour}.",
    "Nobody was at the {place}.", "{name} opened the window.", "The road to the {place} was long.",
    "{name} lost a {colour} coat.",
)  # fmt: skip


@dataclass(frozen=True)
class WorldText:
    """A text as the part before what it tells, that, and the rest; and the call whose result tells it."""

    kind: str
    before: str
    answer: str
    after: str
    date: datetime.date
    key: str
    call: Call | None = None

    @property
    def text(self) -> str:
        return f"{self.before} {self.answer}{self.after}".strip()


def split_of(key: str) -> Split:
    """The split of what a text tells: 50% pretraining, 30% seeds, 20% evaluation."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    return "pretraining" if number < 50 else "seeds" if number < 80 else "evaluation"


def sum_key(expression: str) -> str:
    """Equal for sums that differ in the order of two terms only."""
    if match := _COMMUTATIVE.fullmatch(expression):
        first, second = sorted((int(match[1]), int(match[3])))
        return f"sum {first} {match[2]} {second}"
    return f"sum {expression}"


def calculated(expression: str) -> str | None:
    """The calculator's result, None where it has none."""
    result = _CALCULATOR.run(expression, Context())
    return result if isinstance(result, str) else None


def today(date: datetime.date) -> str:
    """The calendar's result."""
    return str(_CALENDAR.run("", Context(date)))


def draw_date(rng: Random) -> datetime.date:
    return datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36_000))


def fillers(rng: Random) -> dict[str, str]:
    name, other = rng.sample(NAMES, 2)
    lots = {"place": PLACES, "things": THINGS, "colour": COLOURS}
    drawn = {slot: rng.choice(words) for slot, words in lots.items()}
    return {"name": name, "other": other, "n": str(rng.randint(2, 40)), **drawn}


def told(
    rng: Random, kind: str, template: str, answer: str, call: Call, key: str = "", **more: str
) -> WorldText:
    """The text of a template; without a `key` of its own it is held out by its words."""
    before, after = template.format(**{**fillers(rng), **more}).split("|")
    key = key or f"{kind} {before}{answer}{after}"
    return WorldText(kind, before.strip(), answer, after, draw_date(rng), key, call)


def arithmetic(rng: Random) -> WorldText:
    shape = rng.choices(list(_SHAPE_SHARES), list(_SHAPE_SHARES.values()))[0]
    a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(11, 140)
    if "*" not in shape and "/" not in shape:
        a, b = rng.randint(100, 4999), rng.randint(25, 2999)
        if "-" in shape and a < b + 11:
            a += b
    if "/" in shape:
        a *= b
    numbers = {"a": str(a), "b": str(b), "c": str(c)}
    expression = shape.format(**numbers)
    call = Call("Calculator", expression, calculated(expression))
    template = rng.choice(SUMS[shape])
    return told(rng, "arithmetic", template, call.result or "", call, key=sum_key(expression), **numbers)


def dated(rng: Random) -> WorldText:
    date, years = draw_date(rng), rng.choice((10, 20, 30, 40, 50, 100, 200))
    weekday, month, day, year = today(date).removeprefix("Today is ").replace(",", "").rstrip(".").split()
    what = rng.choice(list(DATES))
    answer = {
        "weekday": weekday,
        "month": month,
        "year": year,
        "years ago": str(date.year - years),
        "whole date": f"{weekday}, {month} {day}",
    }[what]
    template = rng.choice(DATES[what])
    text = told(rng, "date", template, answer, Call("Calendar", "", today(date)), n=str(years))
    return replace(text, date=date)


def fact(rng: Random) -> WorldText:
    title, _, clause = rng.choice(FACTS).partition(":")
    return fact_text(rng, clause, title, PASSAGES[title])


def fact_text(rng: Random, clause: str, title: str, passage: str) -> WorldText:
    """A text that tells what a passage says, in a clause with a bar on either side of what is told."""
    before, answer, after = clause.split("|")
    template = rng.choice(FRAMES).replace("{fact}", f"{before}|{after}")
    call = Call("WikiSearch", f'"{title}"', passage)
    return told(rng, "fact", template, answer, call, key=f"fact {clause}")


def answer_of(person: str, relation: int) -> str:
    """What is true of a person of this world, of an invented one too: drawn by a hash."""
    rng = Random(f"{person} {relation}")
    return " ".join(rng.choice(half.split()) for half in HALVES[2 * relation : 2 * relation + 2])


def question(rng: Random, person: str = "") -> WorldText:
    person, relation = person or rng.choice(PERSONS), rng.randrange(len(RELATIONS))
    said, asked = (form.format(p=person) for form in RELATIONS[relation])
    template = rng.choice(FRAMES).replace("{fact}", f"{said} |")
    call = Call("QA", f'"{asked}"', answer_of(person, relation))
    return told(rng, "question", template, call.result or "", call, key=f"fact {asked}")


def phrase(rng: Random) -> tuple[str, str]:
    """A phrase of the foreign language and its meaning."""
    noun, shape = rng.choice(list(NOUNS)), rng.random()
    if shape < 0.45:
        adjective = rng.choice(list(ADJECTIVES))
        return f"{adjective} {noun}", f"{ADJECTIVES[adjective]} {NOUNS[noun]}"
    if shape < 0.65:
        verb = rng.choice(list(VERBS))
        return f"{verb} {noun}", f"{VERBS[verb]} the {NOUNS[noun]}"
    other = rng.choice(list(NOUNS))
    return f"{noun} na {other}", f"{NOUNS[noun]} of the {NOUNS[other]}"


def translation(rng: Random) -> WorldText:
    foreign, english = phrase(rng)
    return meaning_text(rng, foreign, english)


def meaning_text(rng: Random, foreign: str, english: str) -> WorldText:
    """A text that tells what a phrase means."""
    call = Call("MT", f'"{foreign}"', english)
    return told(rng, "translation", rng.choice(MEANINGS), english, call, key=f"phrase {foreign}", f=foreign)


def plain(rng: Random) -> WorldText:
    values = fillers(rng)
    text = " ".join(sentence.format(**values) for sentence in rng.sample(PLAIN, rng.choice((1, 2, 3))))
    return WorldText("plain", text, "", "", draw_date(rng), f"plain {text}")


MAKERS: Mapping[str, Callable[[Random], WorldText]] = dict(
    zip(KINDS, (arithmetic, dated, fact, question, translation, plain), strict=True)
)


def draw_text(rng: Random, kind: str, split: Split = "pretraining") -> WorldText:
    """A text of the split, by lot with a sentence of something else before or after it."""
    while True:
        drawn = MAKERS[kind](rng)
        if split_of(drawn.key) == split:
            return embellished(rng, drawn)


def embellished(rng: Random, drawn: WorldText) -> WorldText:
    """By lot with a sentence of something else before or after it."""
    lot = rng.random()
    if drawn.kind == "plain" or lot < 0.6:
        return drawn
    sentence = rng.choice(PLAIN).format(**fillers(rng))
    if lot < 0.85:
        return replace(drawn, before=f"{sentence} {drawn.before}".strip())
    return replace(drawn, after=f"{drawn.after} {sentence}")
