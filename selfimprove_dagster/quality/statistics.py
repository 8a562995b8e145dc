"""Compute text statistics for checks: overlap of word n-grams, drift of words and lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log2

_WORD = re.compile(r"\w+")


_DIGITS = re.compile(r"\d+")


def words(text: str) -> list[str]:
    """Return lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """Return the word n-grams. A text with fewer words is one n-gram of all its words."""
    found = words(text)
    if len(found) < n:
        return {tuple(found)} if found else set()
    return {tuple(found[start : start + n]) for start in range(len(found) - n + 1)}


def ngram_overlap(texts: Sequence[str], references: Iterable[str], n: int) -> list[float]:
    """Return for each text the share of its distinct n-grams that occur in any reference, 0 without words."""
    known: set[tuple[str, ...]] = set()
    for reference in references:
        known |= ngrams(reference, n)
    shares = []
    for text in texts:
        own = ngrams(text, n)
        shares.append(len(own & known) / len(own) if own else 0.0)
    return shares


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """Count words.

    Every run of digits counts as `0`, since different numbers are not a different vocabulary.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(_DIGITS.sub("0", text)))
    return counts


def jensen_shannon_divergence(first: Counter[str], second: Counter[str]) -> float | None:
    """Return the divergence of two distributions in bits, 0 (equal) to 1 (disjoint); None if one is empty."""
    first_total, second_total = sum(first.values()), sum(second.values())
    if not first_total or not second_total:
        return None
    divergence = 0.0
    for word in first.keys() | second.keys():
        p, q = first[word] / first_total, second[word] / second_total
        middle = (p + q) / 2
        divergence += sum(share * log2(share / middle) / 2 for share in (p, q) if share > 0)
    return min(1.0, max(0.0, divergence))
