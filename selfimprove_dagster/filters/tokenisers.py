"""Split texts into the tokens that word rules count and that measures of likeness compare.

`rouge` is the tokeniser of the package `rouge_score`: runs of ASCII letters and digits, so that a text in another
script has no tokens. `words` suits every language: words are runs of letters and digits, and in scripts that put no
spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character is a token. `characters` splits every
word into its characters. On ASCII texts `words` and `rouge` are equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

import regex

Tokeniser = Callable[[str], list[str]]
"""Returns the tokens of a text, in order and in lower case."""

TokeniserName = Literal["rouge", "words", "characters"]

_ROUGE = re.compile("[a-z0-9]+")

_UNSPACED = "".join(
    rf"\p{{scx={script}}}" for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)

_CHARACTER = r"[\p{L}\p{N}]\p{M}*"

_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|(?:[[\p{{L}}\p{{N}}]--[{_UNSPACED}]]\p{{M}}*)+",
    regex.VERSION1,
)

_ONE = regex.compile(_CHARACTER)


def rouge(text: str) -> list[str]:
    """Return the runs of ASCII letters and digits of the text, like `rouge_score` without stemming."""
    return _ROUGE.findall(text.lower())


def words(text: str) -> list[str]:
    """Return the words of the text; each character is one in scripts without spaces between words."""
    return _WORD.findall(_folded(text))


def characters(text: str) -> list[str]:
    """Return the letters and digits of the text, each with its combining marks."""
    return _ONE.findall(_folded(text))


TOKENISERS: Mapping[TokeniserName, Tokeniser] = {"rouge": rouge, "words": words, "characters": characters}


def _folded(text: str) -> str:
    """Return the text in one form of equal characters: full-width letters as ASCII, case folded."""
    return unicodedata.normalize("NFKC", text).casefold()
