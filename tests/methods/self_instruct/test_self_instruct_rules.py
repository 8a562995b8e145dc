"""The rules of Self-Instruct: each with an example on either side of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.tasks.rules import not_banned, output_not_empty
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.filters.novelty import NoveltyPool
from selfimprove_dagster.filters.rules import DECISION_COLUMNS, Filter
from selfimprove_dagster.methods.self_instruct import rules
from selfimprove_dagster.methods.self_instruct.admission import novelty_parameters
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection


@dataclass(frozen=True)
class Verdict:
    kept: bool
    neighbours: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Banned:
    by: str
    why: str


def instructions(*texts: str) -> pl.DataFrame:
    ids = [f"task:{n}" for n in range(len(texts))]
    return pl.DataFrame(
        {"candidate_id": ids, "instruction": texts}, schema_overrides={"instruction": pl.String}
    )


def instances(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Rows of task, input and output."""
    columns = {"task_id": pl.String, "input": pl.String, "output": pl.String}
    frame = pl.DataFrame(list(rows), schema=columns, orient="row")
    frame = frame.with_columns(instruction=pl.format("Do {}.", "task_id"))
    return frame.with_columns(pl.Series("candidate_id", [f"in:{n}" for n in range(len(rows))], pl.String))


def judged(rule: Filter, candidates: pl.DataFrame) -> dict[str, Any]:
    """The only decision of the rule on the only candidate."""
    decisions = rule(candidates)
    assert dict(decisions.schema) == DECISION_COLUMNS
    return decisions.row(0, named=True)


WORDS = rules.holds_none_of(rules.FORBIDDEN_WORDS)
OPENINGS = rules.opens_with_none_of(rules.FORBIDDEN_OPENINGS)


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (rules.words_at_least(4), "Name a bird.", "3 words against at least 4"),
        (rules.words_at_least(4), "", "0 words against at least 4"),
        (rules.words_at_most(150), "word " * 151, "151 words against at most 150"),
        (OPENINGS, "Write a program that adds.", "opens with “Write a program”"),
        (OPENINGS, " write  A programme for the evening", "opens with “write  A program”"),
        (rules.opens_without_punctuation, "(Optional) Say it.", "opens with “(”"),
        (rules.opens_without_punctuation, " - Say it.", "opens with “-”"),
        (rules.opens_without_punctuation, " ", "there is no text"),
        (rules.opens_in_ascii, "Übersetze den Satz.", "opens with “Ü”"),
        (rules.opens_in_ascii, "“Say” it.", "opens with ““”"),
        (WORDS, "Describe the IMAGE.", "holds “IMAGE”"),
        (WORDS, "Sort the files by size.", "holds “files”"),
        (WORDS, "Draw: a horse", "holds “Draw”"),
        (WORDS, "Go\nto the shop.", "holds “Go\nto”"),
        (WORDS, "Plan a map-reduce job.", "holds “map”"),
    ],
)
def test_what_a_rule_drops(rule: Filter, text: str, reason: str) -> None:
    decision = judged(rule, instructions(text))
    assert (decision["kept"], decision["reason"]) == (False, reason)


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (rules.words_at_least(4), "Name a small bird.", "4 words against at least 4"),
        (rules.words_at_most(150), "word " * 150, "150 words against at most 150"),
        (OPENINGS, "Rewrite a program that adds.", "opens with nothing forbidden"),
        (rules.opens_without_punctuation, "Say (it).", "opens with “S”"),
        (rules.opens_without_punctuation, "3 birds: name them.", "opens with “3”"),
        (rules.opens_in_ascii, "Übersetze"[1:], "opens with “b”"),
        (rules.opens_in_ascii, "Say “it”.", "opens with “S”"),
        (WORDS, "Imagine a paragraph on profiles.", "holds no forbidden word"),
        (WORDS, "Withdraw the plotter's topographic filet.", "holds no forbidden word"),
        (WORDS, "Go on to the shop.", "holds no forbidden word"),
    ],
)
def test_what_a_rule_keeps(rule: Filter, text: str, reason: str) -> None:
    decision = judged(rule, instructions(text))
    assert (decision["kept"], decision["reason"]) == (True, reason)


def test_scores_and_thresholds_say_by_how_much() -> None:
    decision = judged(rules.words_at_least(4), instructions("Name a bird."))
    assert (decision["score"], decision["threshold"]) == (3.0, 4.0)
    decision = judged(rules.words_at_most(2), instructions("Name a bird."))
    assert (decision["rule"], decision["score"], decision["threshold"]) == ("most_words", 3.0, 2.0)


def test_a_ban_names_who_and_why_and_ignores_case_and_space() -> None:
    bans = {normalise_instruction("Name a bird."): Banned("Ida", "asked too often")}
    kept = not_banned(bans)(instructions("name  a BIRD", "Name two birds."))
    assert kept["kept"].to_list() == [False, True]
    assert kept["reason"].to_list() == ["banned by Ida: asked too often", "banned by nobody"]


def test_novelty_names_the_nearest_by_its_id() -> None:
    verdicts = {
        "task:0": Verdict(False, ((1, 0.8333), (0, 0.2))),
        "task:1": Verdict(True, ((0, 0.7), (1, 0.1))),
        "task:2": Verdict(True),
    }
    decided = rules.novel(verdicts, ["seed:a", "seed:b"])(instructions("a", "b", "c", "d"))
    assert dict(decided.schema) == DECISION_COLUMNS
    assert decided.select("kept", "score", "threshold", "nearest_id", "reason").rows() == [
        (False, 0.8333, 0.7, "seed:b", "0.83 to seed:b"),
        (True, 0.7, 0.7, "seed:a", "0.70 to seed:a"),
        (True, None, 0.7, None, "there is nothing in the pool to compare it with"),
        (False, None, 0.7, None, "nothing to decide it by: a value is missing"),
    ]
    assert rules.novel({}, [])(instructions()).is_empty()


def test_a_novelty_pool_tells_which_of_its_own_candidates_was_nearest() -> None:
    candidates = instructions("Name a small grey bird.", "Name a small grey bird now.", "Sing.")
    pool = NoveltyPool(["Add the two numbers."])
    verdicts = dict(
        zip(candidates["candidate_id"], pool.admit(candidates["instruction"].to_list()), strict=True)
    )
    admitted = [candidate for candidate, verdict in verdicts.items() if verdict.kept]
    decided = rules.novel(verdicts, ["seed:add", *admitted])(candidates)
    assert decided["kept"].to_list() == [True, False, True]
    assert decided["reason"][1] == "0.91 to task:0"


def test_instructions_go_through_all_rules_in_order() -> None:
    texts = (
        "Name a small bird.",
        "Name a bird.",
        "Write a program that sings.",
        "?What is it now",
        "Été or winter, which is it?",
        "Describe the picture in words.",
        "Say the alphabet backwards, please.",
        "Sing an unlikely song now.",
    )
    candidates = instructions(*texts).with_columns(pl.Series("perplexity", [2.0] * 7 + [9.0]))
    bans = {normalise_instruction(texts[6]): Banned("Ida", "no")}
    thresholds = rules.InstructionThresholds(maximum_perplexity=5.0)
    kept, decisions = rules.filter_instructions(candidates, thresholds, bans)
    assert kept["instruction"].to_list() == ["Name a small bird."]
    assert decisions.filter(~pl.col("kept"))["rule"].to_list() == [
        "least_words",
        "opening",
        "opening_punctuation",
        "opening_non_ascii",
        "forbidden_word",
        "banned",
        "perplexity",
    ]
    assert decisions.filter(candidate_id="task:0").height == 8


def test_rules_can_be_switched_off() -> None:
    texts = ("¿Qué?", "Draw", "Write a program", "- x")
    thresholds = rules.InstructionThresholds(
        least_words=1,
        forbidden_openings=(),
        forbidden_words=(),
        drop_opening_punctuation=False,
        drop_opening_non_ascii=False,
    )
    kept, decisions = rules.filter_instructions(instructions(*texts), thresholds)
    assert kept.height == 4 and set(decisions["rule"]) == {"least_words", "most_words"}


# --- instances ---


@pytest.mark.parametrize(
    ("rule", "row", "kept", "reason"),
    [
        (output_not_empty, ("t", "a", " \n"), False, "an output of 0 characters"),
        (output_not_empty, ("t", "", "0"), True, "an output of 1 characters"),
        (rules.output_not_input, ("t", "a ", "a"), False, "the output is the input"),
        (rules.output_not_input, ("t", "a", "A"), True, "the output is another text"),
        (rules.no_trailing_colon, ("t", "a: ", "b"), False, "the input ends in a colon"),
        (rules.no_trailing_colon, ("t", "a", "b:\n"), False, "the output ends in a colon"),
        (rules.no_trailing_colon, ("t", "a: b", ":b"), True, "neither input nor output ends in a colon"),
    ],
)
def test_instances_that_cannot_be_used(
    rule: Filter, row: tuple[str, str, str], kept: bool, reason: str
) -> None:
    decision = judged(rule, instances(row))
    assert (decision["kept"], decision["reason"]) == (kept, reason)


def test_a_contradiction_drops_the_whole_task() -> None:
    candidates = instances(
        ("one", "a", "1"),
        ("one", "b", "2"),
        ("one", "a", "3"),
        ("two", "a", "1"),
        ("two", "a", "1"),
        ("two", "b", "1"),
        ("no input", "", "1"),
        ("no input", "", "2"),
    )
    decided = rules.no_contradiction(candidates)
    assert decided["kept"].to_list() == [False] * 3 + [True] * 5
    assert decided["reason"][1] == "its task has different outputs for the input “a”"


def test_equal_instances_of_a_task_count_once() -> None:
    rows = [("one", "a", "1"), ("one", "a", "1"), ("two", "a", "1"), ("one", "", "1")]
    decided = rules.counted_once(instances(*rows))
    assert decided["kept"].to_list() == [True, False, True, True]
    assert decided["nearest_id"].to_list() == [None, "in:0", None, None]


def test_at_most_so_many_of_a_task_whatever_their_order() -> None:
    candidates = instances(*[("one", str(n), "x") for n in range(9)], ("two", "0", "x"))
    kept = rules.at_most_per_task(5, seed=1)(candidates).filter("kept")["candidate_id"].to_list()
    assert len(kept) == 6 and "in:9" in kept
    backwards = rules.at_most_per_task(5, seed=1)(candidates.reverse()).filter("kept")
    assert sorted(backwards["candidate_id"]) == sorted(kept)
    other = rules.at_most_per_task(5, seed=2)(candidates).filter("kept")
    assert sorted(other["candidate_id"]) != sorted(kept)


def test_invalid_instances_go_before_contradictions_are_sought() -> None:
    candidates = instances(("one", "a", "1"), ("one", "a", ""), ("one", "b", "2"), ("one", "b", "b"))
    kept, decisions = rules.filter_instances(candidates, rules.InstanceThresholds(), seed=0)
    assert kept["candidate_id"].to_list() == ["in:0", "in:2"]
    assert set(decisions["rule"]) == {
        *("empty_output", "output_is_input", "trailing_colon", "contradiction", "duplicate"),
        "instances_per_task",
    }
    loose = rules.InstanceThresholds(None, False, False, False)
    kept, decisions = rules.filter_instances(candidates, loose, seed=0)
    assert kept.height == 3 and set(decisions["rule"]) == {"empty_output", "duplicate"}


ROWS = st.lists(
    st.tuples(st.sampled_from("tu"), st.sampled_from(["", "a", "b:"]), st.sampled_from(["", "a", "c"])),
    max_size=12,
)


@given(ROWS, st.integers(1, 3))
def test_what_is_kept_breaks_no_rule(rows: list[tuple[str, str, str]], most: int) -> None:
    thresholds = rules.InstanceThresholds(most=most)
    kept, decisions = rules.filter_instances(instances(*rows), thresholds, seed=0)
    assert decisions["candidate_id"].n_unique() == len(rows)
    assert kept.height == kept.unique(["task_id", "input", "output"]).height
    assert all(
        given != output and output and not given.endswith(":")
        for _, given, output in kept.select("task_id", "input", "output").iter_rows()
    )
    assert kept.group_by("task_id").len()["len"].max() in (None, *range(1, most + 1))


@pytest.mark.parametrize(
    "text", ["请写一首关于秋天的诗。", "Übersetze diesen kurzen Satz.", "秋について詩を書いて"]
)
def test_instructions_in_every_language_pass_with_a_tokeniser_for_them(text: str) -> None:
    english, _ = rules.filter_instructions(instructions(text), rules.InstructionThresholds())
    every, decisions = rules.filter_instructions(
        instructions(text), rules.InstructionThresholds(tokeniser="words")
    )
    assert english.is_empty(), "the published code's rules are for English"
    assert every.height == 1 and decisions["score"][0] >= 4


def test_too_few_words_of_another_language_are_dropped() -> None:
    thresholds = rules.InstructionThresholds(tokeniser="words")
    kept, decisions = rules.filter_instructions(instructions("写诗！"), thresholds)
    assert kept.is_empty() and decisions["reason"].to_list() == ["2 words against at least 4"]


def test_a_tokeniser_is_recorded_only_where_it_is_set() -> None:
    usual = TaskFilterSection(seed_instances=False)
    assert novelty_parameters(usual) == {"maximum_rouge_l": 0.7} and "tokeniser" not in usual.model_dump()
    other = TaskFilterSection(seed_instances=False, tokeniser="characters")
    assert novelty_parameters(other) == {"maximum_rouge_l": 0.7, "tokeniser": "characters"}
