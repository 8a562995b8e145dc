"""Filters for large sets: near duplicates by MinHash, and texts of similar meaning by embeddings.

Like `pools`, each filter keeps a text if it resembles none that was kept, and names the nearest.

- MinHash with locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3) finds
  texts with the same n-grams of tokens. The score is the estimated Jaccard similarity, with a standard error of at most
  0.045 for 128 hashes. It needs the package `rensa`.
- The cosine similarity of embeddings (SemDeDup, Abbas et al., 2303.09540) finds the same meaning in other words, and in
  other languages if the model knows them. It is compared with every kept text, by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from selfimprove_dagster.filters.pools import Compared, compared, unlike
from selfimprove_dagster.filters.rules import Filter
from selfimprove_dagster.filters.tokenisers import Tokeniser, words

HASHES = 128
"""Hashes of a text: 0.5 KB."""

_SEED = 42

_FOUND = 0.99
"""The share of pairs at the threshold that bands must find at least."""

_TILE = 8192
"""Kept texts per matrix product."""

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Returns a vector per text."""


def bands_for(threshold: float) -> int:
    """Return the smallest number of bands with which a pair at the threshold is found at `_FOUND` probability.

    With b bands of r = `HASHES` / b hashes that is 1 − (1 − s^r)^b for the similarity s; fewer bands find fewer pairs
    below the threshold, which have to be compared.
    """
    counts = [bands for bands in range(1, HASHES + 1) if HASHES % bands == 0]
    found = (bands for bands in counts if 1 - (1 - threshold ** (HASHES // bands)) ** bands >= _FOUND)
    return next(found, HASHES)


def ngrams(tokens: Sequence[str], size: int) -> set[str]:
    """Return the n-grams of tokens, or the whole text if it is shorter; none without tokens."""
    if not tokens:
        return set()
    last = max(len(tokens) - size, 0)
    return {"\0".join(tokens[start : start + size]) for start in range(last + 1)}


def unlike_by_minhash(
    threshold: float, what: Compared = "both", tokeniser: Tokeniser = words, size: int = 3
) -> Filter:
    """Keep texts whose n-grams of `size` tokens have a Jaccard similarity of at most `threshold` to every kept text."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold, HASHES, bands_for(threshold))
    sketches: list[Any] = []
    ids: list[str] = []

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        texts = [ngrams(tokeniser(text), size) for text in compared(candidates, what)]
        made = RMinHash.from_token_sets([sorted(text) for text in texts], HASHES, _SEED)
        found: list[tuple[bool, float | None, str | None]] = []
        for one, text, sketch in zip(candidates["candidate_id"], texts, made, strict=True):
            if not text:  # resembles nothing, and nothing resembles it
                found.append((True, None, None))
                continue
            scores = [(sketch.jaccard(sketches[at]), -at) for at in index.query(sketch)]
            score, at = max(scores, default=(0.0, 0))
            kept = score <= threshold
            found.append((kept, score or None, ids[-at] if score else None))
            if kept:
                index.insert(len(ids), sketch)
                sketches.append(sketch)
                ids.append(one)
        return unlike("near_duplicates", candidates, found, threshold, "Jaccard similarity")

    return decide


def unlike_in_meaning(threshold: float, embed: Embed, what: Compared = "both") -> Filter:
    """Keep texts whose embedding has a cosine similarity of at most `threshold` to every kept text."""
    kept: list[npt.NDArray[np.float32]] = []
    ids: list[str] = []

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        texts = compared(candidates, what)
        if not texts:
            return unlike("meaning", candidates, [], threshold, "cosine similarity")
        vectors = np.asarray(embed(texts), np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        scores, nearest = _nearest(vectors, kept)
        first = len(ids)
        joined: list[int] = []
        found: list[tuple[bool, float | None, str | None]] = []
        for row, one in enumerate(candidates["candidate_id"]):
            score, at = scores[row], nearest[row]
            if joined:
                own = _similarity(vectors[row][None], vectors[joined])[0]
                place = int(own.argmax())
                if own[place] > score:
                    score, at = float(own[place]), first + place
            is_kept = bool(score <= threshold)
            near = at >= 0 and score > 0
            found.append((is_kept, min(float(score), 1.0) if near else None, ids[at] if near else None))
            if is_kept:
                joined.append(row)
                ids.append(one)
        if joined:
            kept.append(vectors[joined])
        return unlike("meaning", candidates, found, threshold, "cosine similarity")

    return decide


def _similarity(vectors: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the similarities to five decimals: the others depend on how many are computed at once."""
    product: npt.NDArray[np.float32] = (vectors @ others.T).round(5)
    return product


def _nearest(
    vectors: npt.NDArray[np.float32], kept: list[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the highest similarity of each vector to the kept ones, and the number of that one; −1 without any."""
    scores = np.full(len(vectors), -1.0)
    nearest = np.full(len(vectors), -1)
    start = 0
    for block in kept:
        for part in (block[at : at + _TILE] for at in range(0, len(block), _TILE)):
            product = _similarity(vectors, part)
            best = product.argmax(axis=1)
            highest = product[np.arange(len(vectors)), best]
            better = highest > scores
            scores[better], nearest[better] = highest[better], best[better] + start
            start += len(part)
    return scores, nearest
