"""How varied tasks are: verbs with nouns, and lengths."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from selfimprove_dagster.families.tasks.statistics import length_histogram, verb_noun_counts, verb_noun_pair


@pytest.mark.parametrize(
    ("instruction", "pair"),
    [
        ("Write a short poem about autumn.", ("write", "poem")),
        ("Translate the following sentence into Danish.", ("translate", "sentence")),
        ("Give me three tips, please.", ("give", "tips")),
        ("Given a list of words, sort the list by length.", ("sort", "list")),
        ("In this task you need to find the capital of a country.", ("find", "capital")),
        ("Given the name of a town, guess its size.", ("guess", "size")),
        ("Is this a mammal?", None),
        ("Translate into Danish.", None),
        ("Sort", None),
        ("写一首诗", None),
        ("", None),
    ],
)
def test_the_verb_and_its_noun(instruction: str, pair: tuple[str, str] | None) -> None:
    assert verb_noun_pair(instruction) == pair


def test_pairs_are_counted_and_what_has_none_is_left_out() -> None:
    assert verb_noun_counts(["Write a poem.", "WRITE the poem again, now", "Why?"]) == Counter(
        {("write", "poem"): 2}
    )


def test_most_published_tasks_have_a_pair(shared_data: Path) -> None:
    lines = (shared_data / "self_instruct" / "seed_tasks.jsonl").read_text().splitlines()
    counts = verb_noun_counts(json.loads(line)["instruction"] for line in lines)
    assert counts.total() >= 0.8 * len(lines)
    assert len(counts) > 100


def test_lengths_fall_into_bins_without_gaps() -> None:
    assert length_histogram(["a", "a b c d", "a b c d e", "w " * 12], width=5) == [
        (0, 4, 2),
        (5, 9, 1),
        (10, 14, 1),
    ]
    assert length_histogram(["w " * 7], width=3) == [(0, 2, 0), (3, 5, 0), (6, 8, 1)]
    assert length_histogram([]) == []
