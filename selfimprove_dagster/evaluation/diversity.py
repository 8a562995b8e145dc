"""How varied texts are."""

from __future__ import annotations

from collections.abc import Iterable


def distinct_ngram_share(texts: Iterable[str], n: int = 4) -> float:
    """Distinct word n-grams over all word n-grams of the texts, 1 when none repeats (Li et al., 1510.03055).

    Falling from iteration to iteration, it shows a model that narrows. 1.0 when there is no n-gram at all.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        for start in range(len(words) - n + 1):
            seen.add(tuple(words[start : start + n]))
            total += 1
    return len(seen) / total if total else 1.0
