"""Which of the model's tasks and instances are kept (Wang et al., 2212.10560, section 2.2, published code).

A rule is a filter: a frame of candidates in, a decision for each out. Rules for instructions read the columns
`candidate_id, instruction`, those for instances `candidate_id, task_id, instruction, input, output`. Instances go
through in the order of the published code: what is invalid first, then what contradicts, then what is repeated.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from selfimprove_dagster.families.tasks.rules import Ban, not_banned, output_not_empty
from selfimprove_dagster.filters.rules import Filter, apply_filters, decision, perplexity_at_most
from selfimprove_dagster.filters.tokenisers import TOKENISERS, Tokeniser, TokeniserName
from selfimprove_dagster.lots import lots, seed_of

FORBIDDEN_OPENINGS = ("Write a program",)


FORBIDDEN_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
)
"""What a language model can neither see nor do."""


class NoveltyVerdict(Protocol):
    """Whether a text is new, and its nearest members of the pool: index and ROUGE-L F1, best first."""

    @property
    def kept(self) -> bool: ...
    @property
    def neighbours(self) -> tuple[tuple[int, float], ...]: ...


# --- instructions ---


@dataclass(frozen=True)
class InstructionThresholds:
    """Which instructions join the pool; None, False or nothing listed switches a rule off."""

    least_words: int = 4
    most_words: int = 150
    forbidden_openings: tuple[str, ...] = FORBIDDEN_OPENINGS
    forbidden_words: tuple[str, ...] = FORBIDDEN_WORDS
    drop_opening_punctuation: bool = True
    drop_opening_non_ascii: bool = True
    maximum_perplexity: float | None = None
    tokeniser: TokeniserName = "rouge"


def filter_instructions(
    candidates: pl.DataFrame, thresholds: InstructionThresholds, bans: Mapping[str, Ban] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The instructions worth comparing with the pool, and a decision for each at every rule it reached.

    `bans` are keyed by `normalise_instruction`. With a maximum perplexity the column `perplexity` is needed.
    Novelty is judged after this, since each instruction that is admitted changes the pool for the next. With a
    tokeniser for every language, words are its tokens, and instructions may open with any letter.
    """
    english = thresholds.tokeniser == "rouge"
    tokeniser = None if english else TOKENISERS[thresholds.tokeniser]
    filters: list[Filter] = [
        words_at_least(thresholds.least_words, tokeniser),
        words_at_most(thresholds.most_words, tokeniser),
    ]
    if thresholds.forbidden_openings:
        filters.append(opens_with_none_of(thresholds.forbidden_openings))
    if thresholds.drop_opening_punctuation:
        filters.append(opens_without_punctuation)
    if thresholds.drop_opening_non_ascii and english:
        filters.append(opens_in_ascii)
    if thresholds.forbidden_words:
        filters.append(holds_none_of(thresholds.forbidden_words))
    if bans:
        filters.append(not_banned(bans))
    if thresholds.maximum_perplexity is not None:
        filters.append(perplexity_at_most(thresholds.maximum_perplexity))
    return apply_filters(candidates, filters)


def words_at_least(threshold: int, tokeniser: Tokeniser | None = None) -> Filter:
    """Keep instructions of at least so many words (the published code's 4).

    Words are the tokens of the tokeniser, or without one what is parted by white space, as in the published code.
    """

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        words = _words(tokeniser)
        reason = pl.format("{} words against at least {}", words, pl.lit(threshold))
        kept = words >= threshold
        return decision(candidates, "least_words", kept=kept, reason=reason, score=words, threshold=threshold)

    return decide


def words_at_most(threshold: int, tokeniser: Tokeniser | None = None) -> Filter:
    """Keep instructions of at most so many words (the published code's 150), counted as by `words_at_least`."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        words = _words(tokeniser)
        reason = pl.format("{} words against at most {}", words, pl.lit(threshold))
        kept = words <= threshold
        return decision(candidates, "most_words", kept=kept, reason=reason, score=words, threshold=threshold)

    return decide


def opens_with_none_of(openings: Sequence[str]) -> Filter:
    """Drop instructions that begin with one of the openings, in small or capital letters.

    "Write a program" leaves open whether the program or its output is wanted, and models add it to anything.
    """
    pattern = f"(?i)^({'|'.join(map(_spaced, openings))})"

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found = pl.col("instruction").str.strip_chars().str.extract(pattern)
        reason = (
            pl.when(found.is_null())
            .then(pl.lit("opens with nothing forbidden"))
            .otherwise(pl.format("opens with “{}”", found))
        )
        return decision(candidates, "opening", kept=found.is_null(), reason=reason)

    return decide


def opens_without_punctuation(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop instructions whose first character is ASCII punctuation, and empty ones."""
    first = pl.col("instruction").str.strip_chars().str.slice(0, 1)
    kept = ~first.is_in([*string.punctuation, ""])
    reason = (
        pl.when(first == "").then(pl.lit("there is no text")).otherwise(pl.format("opens with “{}”", first))
    )
    return decision(candidates, "opening_punctuation", kept=kept, reason=reason)


def opens_in_ascii(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop instructions whose first character is not ASCII: the published code's test of English."""
    first = pl.col("instruction").str.strip_chars().str.slice(0, 1)
    return decision(
        candidates,
        "opening_non_ascii",
        kept=first.str.contains(r"^[\x00-\x7f]"),
        reason=pl.format("opens with “{}”", first),
    )


def holds_none_of(words: Sequence[str]) -> Filter:
    """Drop instructions that hold one of the words, whole, in small or capital letters."""
    pattern = rf"(?i)\b({'|'.join(map(_spaced, words))})\b"

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found = pl.col("instruction").str.extract(pattern)
        reason = (
            pl.when(found.is_null())
            .then(pl.lit("holds no forbidden word"))
            .otherwise(pl.format("holds “{}”", found))
        )
        return decision(candidates, "forbidden_word", kept=found.is_null(), reason=reason)

    return decide


def novel(verdicts: Mapping[str, NoveltyVerdict], pool_ids: Sequence[str], threshold: float = 0.7) -> Filter:
    """The verdicts of a novelty pool, by candidate id, as decisions (section 2.2: ROUGE-L below 0.7).

    `pool_ids` are the ids of the pool's members by index, those that the verdicts themselves admitted
    included. The score is the highest ROUGE-L F1 to any member, `nearest_id` that member's id. A candidate
    without a verdict is dropped.
    """

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        rows = []
        for candidate in candidates["candidate_id"]:
            verdict = verdicts.get(candidate)
            nearest, score = None, None
            reason = None if verdict is None else "there is nothing in the pool to compare it with"
            if verdict is not None and verdict.neighbours:
                index, score = verdict.neighbours[0]
                nearest = pool_ids[index]
                reason = f"{score:.2f} to {nearest}"
            rows.append((candidate, verdict.kept if verdict else None, score, nearest, reason))
        schema = {
            "candidate_id": pl.String,
            "kept": pl.Boolean,
            "score": pl.Float64,
            "nearest": pl.String,
            "told": pl.String,
        }
        return decision(
            pl.DataFrame(rows, schema=schema, orient="row"),
            "novelty",
            kept=pl.col("kept"),
            reason=pl.col("told"),
            score=pl.col("score"),
            threshold=threshold,
            nearest_id=pl.col("nearest"),
        )

    return decide


def _words(tokeniser: Tokeniser | None) -> pl.Expr:
    text = pl.col("instruction")
    if tokeniser is None:
        return text.str.count_matches(r"\S+")
    return text.map_elements(lambda one: len(tokeniser(one)), return_dtype=pl.UInt32)


def _spaced(phrase: str) -> str:
    """A pattern for the phrase with any white space between its words."""
    return r"\s+".join(map(re.escape, phrase.split()))


# --- instances ---


@dataclass(frozen=True)
class InstanceThresholds:
    """Which instances are trained on; None or False switches a rule off."""

    most: int | None = 5
    drop_repeated_input: bool = True
    drop_trailing_colon: bool = True
    drop_contradictions: bool = True


def filter_instances(
    candidates: pl.DataFrame, thresholds: InstanceThresholds, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The instances worth training on, and a decision for each at every rule it reached."""
    filters: list[Filter] = [output_not_empty]
    if thresholds.drop_repeated_input:
        filters.append(output_not_input)
    if thresholds.drop_trailing_colon:
        filters.append(no_trailing_colon)
    if thresholds.drop_contradictions:
        filters.append(no_contradiction)
    filters.append(counted_once)
    if thresholds.most is not None:
        filters.append(at_most_per_task(thresholds.most, seed))
    return apply_filters(candidates, filters)


def output_not_input(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop instances whose output says the input again."""
    same = pl.col("input").str.strip_chars() == pl.col("output").str.strip_chars()
    reason = (
        pl.when(same).then(pl.lit("the output is the input")).otherwise(pl.lit("the output is another text"))
    )
    return decision(candidates, "output_is_input", kept=~same, reason=reason)


def no_trailing_colon(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop instances whose input or output ends in a colon: something was to follow."""
    ends = [pl.col(field).str.strip_chars().str.ends_with(":") for field in ("input", "output")]
    reason = (
        pl.when(ends[0])
        .then(pl.lit("the input ends in a colon"))
        .when(ends[1])
        .then(pl.lit("the output ends in a colon"))
        .otherwise(pl.lit("neither input nor output ends in a colon"))
    )
    return decision(candidates, "trailing_colon", kept=~(ends[0] | ends[1]), reason=reason)


def no_contradiction(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop all instances of a task that has different outputs for one input, the empty input aside."""
    torn = (pl.col("output").n_unique().over("task_id", "input") > 1) & (pl.col("input") != "")
    marked = candidates.with_columns(pl.when(torn).then("input").alias("torn_input"))
    first = pl.col("torn_input").drop_nulls().first().over("task_id")
    reason = (
        pl.when(first.is_null())
        .then(pl.lit("its task has one output for each input"))
        .otherwise(pl.format("its task has different outputs for the input “{}”", first.str.slice(0, 60)))
    )
    return decision(marked, "contradiction", kept=first.is_null(), reason=reason)


def counted_once(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep the first of several equal instances of a task."""
    first = pl.col("candidate_id").first().over("task_id", "input", "output")
    kept = pl.col("candidate_id") == first
    reason = (
        pl.when(kept)
        .then(pl.lit("no equal instance before it"))
        .otherwise(pl.format("the same instance as {}", first))
    )
    return decision(
        candidates,
        "duplicate",
        kept=kept,
        reason=reason,
        nearest_id=pl.when(kept).then(None).otherwise(first),
    )


def at_most_per_task(most: int, seed: int) -> Filter:
    """Keep at most `most` randomly sampled instances per task (the paper's 5)."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        candidates = candidates.with_columns(lots(candidates, ["instruction", "input", "output"], seed))
        rank = pl.col("lot").rank("ordinal").over("task_id")
        reason = pl.format("number {} of its task by lot, at most {}", rank, pl.lit(most))
        return decision(
            candidates, "instances_per_task", kept=rank <= most, reason=reason, score=rank, threshold=most
        )

    return decide


def lots_in_all(candidates: pl.DataFrame, seed: int) -> pl.Series:
    """Return the random numbers by which `at_most` samples, one per instruction, input and output."""
    return lots(candidates, ["instruction", "input", "output"], seed_of(seed, "in all"))


def at_most(most: int) -> Filter:
    """Keep at most `most` instances in total, those with the lowest random number `lot`."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        rank = pl.col("lot").rank("ordinal")
        reason = pl.format("number {} by lot, at most {}", rank, pl.lit(most))
        return decision(
            candidates, "most_examples", kept=rank <= most, reason=reason, score=rank, threshold=most
        )

    return decide
