"""Unnatural Instructions: three demonstrations elicit a fourth (Honovich et al., 2212.09689).

A prompt shows three of 15 human seeds; the model writes a fourth by nucleus sampling (p = 0.99) in the same
three fields, its output is generated greedily from them, and each instruction is said in up to two other
ways. Tasks are dropped that lack a field, that repeat a demonstration of their own prompt, or that are there
already; two tasks are the same when instruction and input are. From
section 2 of the paper, as remembered.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from selfimprove_dagster.families.tasks.answers import says_nothing, without_remark
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.filters.rules import Filter, apply_filters, decision
from selfimprove_dagster.text import one_line

Seed = TypeVar("Seed")


NO_CONSTRAINTS = "None."


PARAPHRASE_SHOTS: tuple[tuple[str, str], ...] = (
    ("Name a fruit that has the given colour.", "Tell me one fruit of the colour that you are given."),
    ("Shorten the message to a single sentence.", "Say in one sentence what the message says."),
    ("Decide whether the word is a noun or a verb.", "Is the word a noun or a verb?"),
    (
        "Write a question to which the text is the answer.",
        "Which question does the text answer? Write it down.",
    ),
)
"""Instructions and the same in other words."""


_FIELD = re.compile(
    r"^[ \t]*(?:[#>*-]+[ \t]+|\d{1,2}[.)][ \t]+)?(?:\*\*|__)?"
    r"(?P<name>instruction|input|constraints?|output|example(?=[ \t]*\d))"
    r"[ \t]*\d*(?:\*\*|__)?[ \t]*(?:[:：]|(?<=\d)[ \t]*$)(?:\*\*|__)?",
    re.IGNORECASE | re.MULTILINE,
)
"""The name of a field at the beginning of a line, also as a heading, in a list or in bold."""


_ANNOUNCED = re.compile(
    r"(?:\*\*)?(?:new |rephrased |the )*(?:instruction|rephrased|rephrasing)(?:\*\*)?[:：](?:\*\*)?[ \t]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ElicitedTask:
    """A task in the four fields of the paper; the output is empty until it is generated."""

    instruction: str
    input: str
    constraints: str
    output: str = ""


@dataclass(frozen=True)
class ParsedExample:
    """What a completion gives: a task, or the reason why there is none."""

    task: ElicitedTask | None
    dropped: str | None = None


def choose_demonstrations(seeds: Sequence[Seed], seed: int, count: int = 3) -> list[Seed]:
    """The seeds that one prompt shows, in its order; they follow from the seed and the seeds' order."""
    return random.Random(seed).sample(seeds, min(count, len(seeds)))


def parse_example(text: str, finish_reason: str) -> ParsedExample:
    """The task that a completion of `example_prompt` writes.

    A field may span lines; it ends where a line begins with the name of a field or with `Example` and a
    number. An output is left out, since outputs are generated apart. An input may be empty or say `None`, an
    instruction and constraints may not be empty. With the finish reason `length` a task whose last field was
    cut off is dropped.
    """
    whole, text = text, without_remark(text)
    limited = finish_reason == "length" and text == whole
    headings = [*_FIELD.finditer(text)]
    values: dict[str, str] = {}
    cut_off = False
    for heading, following in zip(headings, [*headings[1:], None], strict=False):
        name = heading["name"].lower().removesuffix("s")
        end = following.start() if following else len(text)
        if name in values or (name == "example" and values):
            break
        if name != "example":
            values[name] = text[heading.end() : end].strip()
            if name != "instruction" and says_nothing(values[name]):
                values[name] = NO_CONSTRAINTS if name == "constraint" else ""
            cut_off = limited and end == len(text) and name != "output"
    wanted = {"instruction": "instruction", "input": "input", "constraint": "constraints"}
    missing = [shown for name, shown in wanted.items() if name not in values]
    if missing:
        return ParsedExample(None, f"there is no {' and no '.join(missing)} field")
    if cut_off:
        return ParsedExample(None, "cut off at the token limit")
    empty = [shown for name, shown in wanted.items() if not values[name] and name != "input"]
    if empty:
        return ParsedExample(None, f"empty: {' and '.join(empty)}")
    return ParsedExample(ElicitedTask(*(values[name] for name in wanted)))


def parse_paraphrase(text: str, finish_reason: str) -> tuple[str | None, str]:
    """The paraphrase on the first line that is not empty, and "read"; or None and the reason.

    A line before it that ends in a colon, a label (`Rephrased:`), quotes and bold marks around it are left out.
    """
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if len(lines) > 1 and lines[0].rstrip("*").endswith((":", "：")):
        del lines[0]
    said = _unquoted(_ANNOUNCED.sub("", lines[0], count=1)) if lines else ""
    if not said:
        return None, "nothing was said"
    if finish_reason == "length" and len(lines) == 1:
        return None, "cut off at the token limit"
    return said, "read"


def _unquoted(text: str) -> str:
    for opening, closing in (("**", "**"), ('"', '"'), ("“", "”")):
        inner = text.removeprefix(opening).removesuffix(closing)
        if len(inner) == len(text) - len(opening + closing) and opening not in inner:
            text = inner.strip()
    return text


def example_key(instruction: str, given: str) -> str:
    """What two tasks that are the same have in common: instruction and input, case and white space aside."""
    return f"{normalise_instruction(instruction)}\n{one_line(given).casefold()}"


def example_words(example: Mapping[str, str]) -> str:
    """A hash of the `instruction`, `input` and `output` of an example, by which equal ones are found."""
    return _hash(example["instruction"], example["input"], example["output"])


def with_first(candidates: pl.LazyFrame, drawn: pl.LazyFrame, pool: pl.LazyFrame) -> pl.LazyFrame:
    """What the filters read of candidate tasks, their completions, and the pool (`id`, `instruction`, `input`).

    Columns: `candidate_id`, those of a task, `problem`, `key` and `demonstrations` as `filter_examples` reads them, and
    `first`, the id of the first task with that key: one of the pool, else the first candidate that copies no
    demonstration. Only ids and hashes of keys are compared.
    """
    key = pl.struct("instruction", "input").map_elements(_hashed_key, return_dtype=pl.String)
    pooled = pool.select("id", key=key)
    shown = (
        drawn.select(completion_id="id", shown=pl.col("parents").list.eval(pl.element().struct.field("id")))
        .explode("shown")
        .join(pooled, left_on="shown", right_on="id")
        .group_by("completion_id")
        .agg(demonstrations="key")
    )
    keyed = candidates.select(
        *("completion_id", "instruction", "input", "constraints", "problem"), candidate_id="id", key=key
    ).join(shown, on="completion_id", how="left", maintain_order="left")
    known = pooled.group_by("key").agg(first=pl.col("id").last())
    new = keyed.filter(
        pl.col("problem").is_null() & ~pl.col("demonstrations").list.contains(pl.col("key"))
    ).select("key", first="candidate_id")
    firsts = pl.concat([known, new]).group_by("key").agg(pl.col("first").first())
    return keyed.join(firsts, on="key", how="left", maintain_order="left")


def _hashed_key(task: Mapping[str, str]) -> str:
    return _hash(example_key(task["instruction"], task["input"]))


def _hash(*texts: str) -> str:
    text = "\0".join(texts)
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()


# --- filters ---


def filter_examples(candidates: pl.DataFrame, known: Mapping[str, str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tasks worth an output, and a decision for each candidate at every rule it reached.

    `candidates` has one row a completion: `candidate_id, problem` (the reason why there is no task, else
    null), `key` (of `example_key`, or a hash of it) and `demonstrations`, the keys of those that its prompt
    showed. `known` gives the id of the first task by its key, human seeds included.
    """
    return apply_filters(candidates, [has_all_fields, copies_no_demonstration, not_known(known)])


def has_all_fields(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep completions out of which a task could be read (`problem` is null)."""
    problem = pl.col("problem")
    return decision(
        candidates,
        "fields",
        kept=problem.is_null(),
        reason=problem.fill_null("instruction, input and constraints are there"),
    )


def copies_no_demonstration(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop tasks whose instruction and input are those of a demonstration of their own prompt."""
    copied = pl.col("demonstrations").list.contains(pl.col("key"))
    reason = (
        pl.when(copied)
        .then(pl.lit("copies a demonstration of its prompt"))
        .otherwise(pl.lit("copies no demonstration of its prompt"))
    )
    return decision(candidates, "copy", kept=~copied, reason=reason)


def not_known(known: Mapping[str, str]) -> Filter:
    """Keep the first of the tasks of one key: the one in `known` (key to id), else the first candidate."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        first = dict(known)
        pairs = candidates.select("candidate_id", "key").iter_rows()
        nearest = [one if (one := first.setdefault(key, id)) != id else None for id, key in pairs]
        judged = candidates.select("candidate_id").with_columns(
            pl.Series("nearest", nearest, dtype=pl.String)
        )
        same = pl.col("nearest").is_not_null()
        reason = (
            pl.when(same)
            .then(pl.format("the same instruction and input as {}", "nearest"))
            .otherwise(pl.lit("no task with this instruction and input before it"))
        )
        return decision(judged, "duplicate", kept=~same, reason=reason, nearest_id=pl.col("nearest"))

    return decide


def first_of_its_words(candidates: pl.DataFrame) -> pl.DataFrame:
    """Of examples with the same `words` (of `example_words`), keep the first."""
    first = pl.col("candidate_id").first().over("words")
    kept = pl.col("candidate_id") == first
    return decision(
        candidates,
        "same_example",
        kept=kept,
        reason=pl.when(kept)
        .then(pl.lit("says what none before it does"))
        .otherwise(pl.format("says what {} does", first)),
        nearest_id=pl.when(kept).then(None).otherwise(first),
    )


def filter_paraphrases(candidates: pl.DataFrame, most: int = 2) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The paraphrases to train on, and a decision for each at every rule it reached.

    `candidates` has `candidate_id, task_id, instruction, paraphrase, problem`, the last as in
    `filter_examples`. Paraphrases that say the instruction again, or what an earlier paraphrase says, are
    dropped; of the others the first `most` of each task stay (the paper's 2).
    """
    keyed = candidates.with_columns(
        pl.Series("key", [normalise_instruction(text or "") for text in candidates["paraphrase"]], pl.String),
        pl.Series("original", [normalise_instruction(text) for text in candidates["instruction"]], pl.String),
    )
    kept, decisions = apply_filters(keyed, [_was_read, _says_it_otherwise, _said_once, _first_of_task(most)])
    return kept.drop("key", "original"), decisions


def _was_read(candidates: pl.DataFrame) -> pl.DataFrame:
    problem = pl.col("problem")
    return decision(
        candidates, "fields", kept=problem.is_null(), reason=problem.fill_null("a paraphrase was read")
    )


def _says_it_otherwise(candidates: pl.DataFrame) -> pl.DataFrame:
    same = pl.col("key") == pl.col("original")
    reason = pl.when(same).then(pl.lit("the instruction itself")).otherwise(pl.lit("other words"))
    return decision(candidates, "copy", kept=~same, reason=reason)


def _said_once(candidates: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("candidate_id").first().over("task_id", "key")
    kept = pl.col("candidate_id") == first
    reason = (
        pl.when(kept)
        .then(pl.lit("no equal paraphrase before it"))
        .otherwise(pl.format("the same paraphrase as {}", first))
    )
    nearest = pl.when(kept).then(None).otherwise(first)
    return decision(candidates, "duplicate", kept=kept, reason=reason, nearest_id=nearest)


def _first_of_task(most: int) -> Filter:
    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        number = pl.int_range(1, pl.len() + 1).over("task_id")
        reason = pl.format("number {} of its task, at most {}", number, pl.lit(most))
        return decision(
            candidates,
            "paraphrases_per_task",
            kept=number <= most,
            reason=reason,
            score=number,
            threshold=most,
        )

    return decide
