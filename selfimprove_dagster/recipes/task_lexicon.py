"""The words of the embedded task world, and what is known about them."""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "animal": (
        "dog", "cat", "cow", "pig", "hen", "fox", "owl", "bear", "lion", "horse",
        "sheep", "goat", "duck", "mouse", "frog", "wolf", "tiger", "snake", "bee",
    ),
    "food": (
        "apple", "bread", "cheese", "egg", "soup", "rice", "cake", "plum",
        "pear", "bean", "corn", "nut", "lemon", "tomato", "onion",
    ),
    "colour": ("red", "blue", "green", "black", "white", "brown", "pink", "grey", "yellow", "purple"),
    "thing": (
        "cup", "key", "box", "book", "lamp", "chair", "table", "door", "ball", "hat",
        "shoe", "coat", "bag", "pen", "bed", "clock", "spoon", "boat", "car", "bell",
    ),
}  # fmt: skip


KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}


PLURAL_KINDS = {"animal": "animals", "food": "foods", "colour": "colours", "thing": "things"}


_PAIRS = (
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("wet", "dry"), ("fast", "slow"),
    ("high", "low"), ("full", "empty"), ("happy", "sad"), ("hard", "soft"), ("light", "dark"),
    ("rich", "poor"), ("long", "short"), ("clean", "dirty"), ("early", "late"),
)  # fmt: skip


OPPOSITES = {**dict(_PAIRS), **{second: first for first, second in _PAIRS}}


_IRREGULAR = {
    "mouse": "mice", "sheep": "sheep", "wolf": "wolves", "tomato": "tomatoes",
    "fox": "foxes", "box": "boxes",
}  # fmt: skip


PLURALS = {word: _IRREGULAR.get(word, f"{word}s") for kind in ("animal", "thing") for word in KINDS[kind]} | {
    word: _IRREGULAR.get(word, f"{word}s")
    for word in ("apple", "egg", "cake", "plum", "pear", "bean", "nut", "lemon", "tomato", "onion")
}


VERBS: dict[str, tuple[str, str]] = {
    "sees": ("see", "saw"),
    "takes": ("take", "took"),
    "finds": ("find", "found"),
    "likes": ("like", "liked"),
    "wants": ("want", "wanted"),
    "brings": ("bring", "brought"),
    "hides": ("hide", "hid"),
    "drops": ("drop", "dropped"),
    "holds": ("hold", "held"),
    "sells": ("sell", "sold"),
}
"""Verbs of the sentences: third person present, with its base form and its past."""


WORDS = (*KIND_OF, *OPPOSITES)
"""Every word that lists are made of."""


_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip


_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """`forty-two` for 42; 0 to 99."""
    if number < 20:
        return _SMALL[number]
    tens, ones = _TENS[number // 10 - 2], number % 10
    return f"{tens}-{_SMALL[ones]}" if ones else tens


NUMERALS = {in_words(number): number for number in range(100)}
