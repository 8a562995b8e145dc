"""Measure the diversity of texts."""

from __future__ import annotations

from collections.abc import Iterable


def distinct_ngram_share(texts: Iterable[str], n: int = 4) -> float:
    """Return the share of distinct word n-grams among all word n-grams of the texts (Li et al., 1510.03055).

    It is 1 if none repeats or there are none. A decrease over iterations indicates that the model loses
    diversity.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        for start in range(len(words) - n + 1):
            seen.add(tuple(words[start : start + n]))
            total += 1
    return len(seen) / total if total else 1.0
