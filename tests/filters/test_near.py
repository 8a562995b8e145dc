"""Near duplicates by MinHash, and novelty of meaning: the decisions of plain loops over exact similarities."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from selfimprove_dagster.filters.near import HASHES, bands_for, ngrams, unlike_by_minhash, unlike_in_meaning
from selfimprove_dagster.filters.tokenisers import words

pytest.importorskip("rensa")


def candidates(texts: list[str]) -> pl.DataFrame:
    ids = [f"c:{number}" for number in range(len(texts))]
    return pl.DataFrame({"candidate_id": ids, "question": [""] * len(texts), "text": texts})


def varied(count: int, seed: int) -> list[str]:
    """Texts of 60 words, half of them earlier ones in which some words were replaced."""
    chance = random.Random(seed)
    made: list[list[str]] = []
    for _ in range(count):
        if made and chance.random() < 0.5:
            text = [*chance.choice(made)]
            for _ in range(chance.choice([0, 1, 2, 8])):
                text[chance.randrange(len(text))] = f"new{chance.randrange(10_000)}"
        else:
            text = [f"w{chance.randrange(2_000)}" for _ in range(60)]
        made.append(text)
    return [" ".join(text) for text in made]


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_find_pairs_at_the_threshold(threshold: float) -> None:
    bands = bands_for(threshold)
    assert HASHES % bands == 0
    assert 1 - (1 - threshold ** (HASHES // bands)) ** bands >= 0.99


def test_near_duplicates_are_those_of_exact_jaccard_but_near_the_threshold() -> None:
    texts = varied(400, seed=0)
    decisions = unlike_by_minhash(0.7, "answer")(candidates(texts))
    sets = [ngrams(words(text), 3) for text in texts]
    kept: list[int] = []
    clear = wrong = 0
    for at, decided in enumerate(decisions.rows(named=True)):
        highest = max((jaccard(sets[at], sets[one]) for one in kept), default=0.0)
        if abs(highest - 0.7) > 0.15:  # more than three standard errors away
            clear += 1
            wrong += decided["kept"] != (highest <= 0.7)
        if decided["nearest_id"] and not decided["kept"]:
            nearest = int(decided["nearest_id"].removeprefix("c:"))
            assert nearest in kept and abs(decided["score"] - jaccard(sets[at], sets[nearest])) < 0.2
        kept += [at] if decided["kept"] else []
    assert clear > 300 and wrong == 0
    assert 50 < (~decisions["kept"]).sum() < 250


def test_equal_texts_of_any_length_and_script_are_near_duplicates() -> None:
    texts = ["你好", "你好", "ok", "OK!", "请写一首关于秋天的诗。", "请写一首关于秋天的诗！", "?!", "?!", ""]
    decisions = unlike_by_minhash(0.8, "answer")(candidates(texts))
    assert decisions["kept"].to_list() == [True, False, True, False, True, False, True, True, True]
    assert decisions["nearest_id"].to_list()[:2] == [None, "c:0"]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_parts_of_any_size_are_decided_alike(size: int) -> None:
    rows = candidates(varied(60, seed=1))

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[len(word) for word in text.split()[:8]] for text in texts], np.float32)

    for make in (lambda: unlike_by_minhash(0.7, "answer"), lambda: unlike_in_meaning(0.99, embed, "answer")):
        piecewise = make()
        assert pl.concat([piecewise(part) for part in rows.iter_slices(size)]).equals(make()(rows))


def test_meaning_is_compared_by_cosine_with_all_that_were_kept() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(200, 3)).astype(np.float32)
    texts = [str(number) for number in range(len(vectors))]
    decisions = unlike_in_meaning(0.9, lambda asked: vectors[[int(one) for one in asked]], "answer")
    found = pl.concat([decisions(part) for part in candidates(texts).iter_slices(64)])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept: list[int] = []
    for at, decided in enumerate(found.rows(named=True)):
        likeness = [float(unit[at] @ unit[one]) for one in kept]
        highest = max(likeness, default=-1.0)
        assert decided["kept"] == (highest <= 0.9)
        if highest > 0:
            assert decided["score"] == pytest.approx(highest, abs=1e-5)
            assert decided["nearest_id"] == f"c:{kept[int(np.argmax(likeness))]}"
        kept += [at] if decided["kept"] else []
    assert 5 < len(kept) < 100
