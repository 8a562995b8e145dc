"""The novelty filter: the scores of `rouge_score`, the decisions of a plain loop over them."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from absl import logging as absl_logging
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq
from rouge_score import tokenize  # type: ignore[import-untyped]
from rouge_score.rouge_scorer import _score_lcs  # type: ignore[import-untyped]

from selfimprove_dagster.filters import novelty
from selfimprove_dagster.filters.novelty import NoveltyPool, Verdict, rouge_l_f1
from selfimprove_dagster.filters.tokenisers import TOKENISERS, TokeniserName, rouge

# rouge_score's log would close the stream that it found, pytest's own, as soon as a test runs a command.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@cache
def read(text: str) -> list[str]:
    """The tokens of `rouge_score`."""
    return list(tokenize.tokenize(text, None))


def rouge_score_f1(a: str, b: str) -> float:
    """F1 of `rouge_score` itself, target first."""
    return float(_score_lcs(read(a), read(b)).fmeasure)


def quick_f1(a: str, b: str) -> float:
    """The same by RapidFuzz, for tests of many pairs."""
    common = LCSseq.similarity(read(a), read(b))
    if not common:
        return 0.0
    precision, recall = common / len(read(b)), common / len(read(a))
    return 2 * precision * recall / (precision + recall)


def plain_loop(
    pool: Sequence[str],
    candidates: Sequence[str],
    threshold: float,
    nearest: int = 10,
    f1: Callable[[str, str], float] = rouge_score_f1,
) -> list[Verdict]:
    """Every candidate against every member, one by one."""
    members, verdicts = list(pool), []
    for candidate in candidates:
        scores = [f1(member, candidate) for member in members]
        order = sorted(range(len(members)), key=lambda at: (-scores[at], at))[:nearest]
        kept = not order or scores[order[0]] <= threshold
        verdicts.append(Verdict(kept, tuple((at, scores[at]) for at in order)))
        if kept:
            members.append(candidate)
    return verdicts


def near_duplicates(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Texts with some words dropped, doubled, moved or taken from another."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        words, others = (chance.choice(texts).split() for _ in range(2))
        for _ in range(chance.randint(0, 1 + len(words) // 2)):
            at = chance.randrange(len(words))
            change = chance.choice(["drop", "double", "move", "take"])
            if change == "drop" and len(words) > 1:
                words.pop(at)
            elif change == "double":
                words.insert(at, words[at])
            elif change == "move":
                words.insert(chance.randrange(len(words)), words.pop(at))
            else:
                words[at] = chance.choice(others)
        found.append(" ".join(words))
    return found


@pytest.fixture(scope="module")
def published(shared_data: Path) -> tuple[list[str], list[str]]:
    """The 175 seed instructions of Self-Instruct and its 252 of evaluation."""
    files = ("seed_tasks.jsonl", "user_oriented_instructions.jsonl")
    lines = [
        (shared_data / "self_instruct" / name).read_text(encoding="utf-8").splitlines() for name in files
    ]
    seeds, evaluation = ([json.loads(line)["instruction"] for line in file] for file in lines)
    assert (len(seeds), len(evaluation)) == (175, 252)
    return seeds, evaluation


# --- the score ---


@pytest.mark.parametrize(
    ("a", "b", "f1"),
    [
        ("Write a poem.", "write a POEM", 1.0),
        ("a b c d", "a x c y", 0.5),
        ("a b", "b a", 0.5),
        ("", "a", 0.0),
        ("…!", "?", 0.0),
        ("to be or not to be", "to be", 0.5),
        ("naïve", "na ve", 1.0),  # what is not a-z or 0-9 parts tokens
        ("3 \N{KELVIN SIGN}", "3 k", 1.0),  # whose lower case is ASCII
    ],
)
def test_scores_that_can_be_checked_by_hand(a: str, b: str, f1: float) -> None:
    assert rouge_l_f1(a, b) == rouge_l_f1(b, a) == rouge_score_f1(a, b) == f1


words = st.sampled_from(
    ["a", "b", "c", "the", "The", "of", "9", "é", "-", "İ", "\u212a", "日本", "\n", "a_b"]
)
texts = st.one_of(st.text(max_size=30), st.lists(words, max_size=80).map(" ".join))


@given(texts, texts)
def test_any_two_texts_score_as_in_rouge_score(a: str, b: str) -> None:
    assert rouge(a) == read(a)
    assert rouge_l_f1(a, b) == rouge_score_f1(a, b) == rouge_score_f1(b, a) == quick_f1(a, b)


@given(st.text(st.characters(max_codepoint=127)))
def test_on_ascii_the_tokens_of_every_language_are_those_of_rouge_score(text: str) -> None:
    assert TOKENISERS["words"](text) == rouge(text)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("words", "请写一首诗。", ["请", "写", "一", "首", "诗"]),
        ("words", "カレーを2皿", ["カ", "レ", "ー", "を", "2", "皿"]),
        ("words", "เขียนบท", ["เ", "ขี", "ย", "น", "บ", "ท"]),
        ("words", "हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("words", "Напиши стихи", ["напиши", "стихи"]),
        ("words", "한국어 문장", ["한국어", "문장"]),
        ("words", "ＡＢＣ naı̈ve STRASSE", ["abc", "naı̈ve", "strasse"]),
        ("characters", "Ça va", ["ç", "a", "v", "a"]),
    ],
)
def test_tokens_in_other_scripts(name: TokeniserName, text: str, expected: list[str]) -> None:
    assert TOKENISERS[name](text) == expected


@pytest.mark.parametrize("name", ["words", "characters"])
@pytest.mark.parametrize(
    "text", ["请写一首关于秋天的诗。", "秋について詩を書いて", "Напиши стихи", "اكتب قصيدة"]
)
def test_equal_instructions_are_equal_in_every_script(name: TokeniserName, text: str) -> None:
    assert rouge_l_f1(text, text) == 0.0, "`rouge_score` reads ASCII alone"
    assert rouge_l_f1(text, text, TOKENISERS[name]) == 1.0


def test_a_pool_of_another_script_refuses_what_resembles_its_members() -> None:
    pool = NoveltyPool(["请写一首关于秋天的诗。"], tokeniser=TOKENISERS["words"])
    near, far = pool.admit(["请写一首关于春天的诗。", "把这句话翻译成英文。"])
    assert (near.kept, near.neighbours) == (False, ((0, 0.9),))
    assert far.kept and len(pool) == 2
    assert pool.admit(["Translate this."])[0].kept


# --- decisions and neighbours ---


def test_published_instructions_are_decided_as_by_rouge_score(
    published: tuple[list[str], list[str]],
) -> None:
    seeds, evaluation = published
    candidates = evaluation + near_duplicates(seeds + evaluation, 100, seed=0)
    random.Random(1).shuffle(candidates)
    verdicts = NoveltyPool(seeds).admit(candidates)
    assert verdicts == plain_loop(seeds, candidates, 0.7)
    assert 50 < sum(not verdict.kept for verdict in verdicts) < 300


def test_many_blocks_and_tiles_are_decided_as_by_a_plain_loop(
    published: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty, "_BLOCK", 100)
    monkeypatch.setattr(novelty, "_TILE", 64)
    monkeypatch.setattr(novelty, "_PENDING", 1000)
    monkeypatch.setattr(novelty, "_HEAD", 3)
    monkeypatch.setattr(novelty, "_POSTINGS", 20)
    seeds, evaluation = published
    candidates = near_duplicates(seeds + evaluation, 600, seed=2)
    verdicts = NoveltyPool(seeds).admit(candidates)
    assert verdicts == plain_loop(seeds, candidates, 0.7, f1=quick_f1)


few_words = st.lists(st.sampled_from(list("abcdefg")), max_size=12).map(" ".join)


@hypothesis_settings(max_examples=150)
@given(
    st.lists(few_words, max_size=30),
    st.lists(st.one_of(few_words, texts), max_size=40),
    st.sampled_from([-1.0, 0.0, 0.5, 0.7, 1.0]),
    st.integers(1, 12),
)
def test_any_texts_are_decided_as_by_rouge_score(
    pool: list[str], candidates: list[str], threshold: float, nearest: int
) -> None:
    verdicts = NoveltyPool(pool, nearest=nearest).admit(candidates, threshold)
    assert verdicts == plain_loop(pool, candidates, threshold, nearest)


@hypothesis_settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 70))
def test_pools_of_few_or_many_words_are_searched_exactly(seed: int, vocabulary: int, longest: int) -> None:
    """Few words give many ties and high bounds; many give candidates that have nothing in common."""
    chance = np.random.default_rng(seed)
    texts = [
        " ".join(map(str, chance.integers(0, vocabulary, chance.integers(0, longest + 1))))
        for _ in range(330)
    ]
    verdicts = NoveltyPool(texts[:250]).admit(texts[250:])
    assert verdicts == plain_loop(texts[:250], texts[250:], 0.7, f1=quick_f1)


def test_a_score_at_the_threshold_is_kept() -> None:
    member, candidate = "a b c d e f g h i j", "a b c d e f g x y z"
    f1 = rouge_score_f1(member, candidate)
    assert NoveltyPool([member]).admit([candidate], f1)[0].kept
    assert not NoveltyPool([member]).admit([candidate], np.nextafter(f1, 0))[0].kept


def test_the_order_of_candidates_decides() -> None:
    chain = ["a b c d e f", "b c d e f g", "c d e f g h"]  # neighbours are near, the ends are not
    assert [verdict.kept for verdict in NoveltyPool().admit(chain)] == [True, False, True]
    assert [verdict.kept for verdict in NoveltyPool().admit([chain[1], chain[0], chain[2]])] == [
        True,
        False,
        False,
    ]


def test_a_rejected_candidate_is_no_neighbour_and_takes_no_number() -> None:
    pool = NoveltyPool(["a b c"])
    verdicts = pool.admit(["a b c", "x y z", "x y z"])
    assert verdicts == [
        Verdict(False, ((0, 1.0),)),
        Verdict(True, ((0, 0.0),)),
        Verdict(False, ((1, 1.0), (0, 0.0))),
    ]
    assert len(pool) == 2


def test_of_equal_scores_the_earlier_member_comes_first() -> None:
    pool = NoveltyPool(["x"] * 5 + ["a b"] * 40 + ["b a"], nearest=3)
    assert pool.admit(["a b"])[0].neighbours == ((5, 1.0), (6, 1.0), (7, 1.0))
    assert pool.admit(["q"])[0].neighbours == ((0, 0.0), (1, 0.0), (2, 0.0))
    assert pool.admit([""])[0].neighbours == ((0, 0.0), (1, 0.0), (2, 0.0))


def test_admitting_in_parts_is_admitting_at_once(published: tuple[list[str], list[str]]) -> None:
    seeds, evaluation = published
    candidates = near_duplicates(seeds + evaluation, 1500, seed=3)
    whole, parts = NoveltyPool(seeds), NoveltyPool(seeds[:30])
    parts.add(seeds[30:])
    told: list[int] = []
    found = [
        *parts.admit(candidates[:7]),
        *parts.admit([]),
        *parts.admit(candidates[7:1300], progress=told.append),
        *parts.admit(candidates[1300:]),
    ]
    assert found == whole.admit(candidates)
    assert len(parts) == len(whole)
    assert sum(told) == 1293


def test_nothing_changes_when_there_are_more_tokens_than_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    texts = [" ".join(chance.choices([f"w{n}" for n in range(40)], k=8)) for _ in range(200)]
    expected = NoveltyPool(texts[:150]).admit(texts[150:])
    monkeypatch.setattr(novelty, "_CODE_POINTS", 20)
    assert NoveltyPool(texts[:150]).admit(texts[150:]) == expected


def test_very_long_texts_are_bounded_exactly() -> None:
    chance = np.random.default_rng(0)
    texts = [
        " ".join(map(str, chance.integers(0, 30, size))) for size in (3000, 2990, 3, 0, 1, 70, 3000, 2000)
    ]
    texts += ["7 " * 5000, "7 " * 4999, "7 " * 4990 + "8 " * 10] * 3
    assert NoveltyPool(texts[:12], nearest=2).admit(texts[12:]) == plain_loop(
        texts[:12], texts[12:], 0.7, 2, f1=quick_f1
    )


def test_a_pool_without_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="nearest must be at least 1, not 0"):
        NoveltyPool(nearest=0)
