"""Which answered tasks and paraphrases are trained on: the rules as an experiment sets them.

A row is an output with one of the paraphrases of its task, so that the rows of a task can be judged by themselves.
Only of which examples the words are the same is decided over all rows at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.families.tasks.rules import Ban, not_banned, not_held_out, output_not_empty
from selfimprove_dagster.filters.rules import apply_filters, could_be_read
from selfimprove_dagster.filters.whole import apply_verdicts, with_verdicts
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions as method


def outputs_with_paraphrases(outputs: pl.LazyFrame, paraphrases: pl.LazyFrame) -> pl.LazyFrame:
    """What the rules read of `task_outputs` and `paraphrases`, those of a task as neighbours."""
    cut_off = pl.when(pl.col("finish_reason") == "length").then(pl.lit("cut off at the token limit"))
    answers = outputs.select(
        *("task_id", "instruction", "input", "constraints"),
        candidate_id="id",
        output=pl.col("text").str.strip_chars(),
        problem=pl.coalesce(pl.col("^problem$"), cut_off),
    )
    words = paraphrases.select(
        *("task_id", "paraphrase"), original="instruction", unread="problem", paraphrase_id="id"
    )
    return answers.join(words, on="task_id", how="full", coalesce=True, maintain_order="left_right")


@dataclass(frozen=True)
class ExampleRules:
    """The rules for examples; of each task at most so many `paraphrases` are trained on."""

    paraphrases: int
    held_out: Collection[str]
    banned: Mapping[str, Ban]

    def within_a_task(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The examples that rows of `outputs_with_paraphrases` make, and the decisions on all candidates.

        An example has the columns `candidate_id, task_id, output_id, paraphrase_id, instruction, input, output`; the
        candidate is the paraphrase, or the output where there is none.
        """
        held_out = not_held_out(self.held_out)
        outputs = rows.drop_nulls("candidate_id").unique("candidate_id", keep="first", maintain_order=True)
        answered, decisions = apply_filters(
            outputs, [could_be_read, held_out, not_banned(self.banned), output_not_empty]
        )
        said = rows.drop_nulls("paraphrase_id").unique("paraphrase_id", keep="first", maintain_order=True)
        words, on_words = method.filter_paraphrases(
            said.select(
                *("task_id", "paraphrase"),
                candidate_id="paraphrase_id",
                instruction="original",
                problem="unread",
            ),
            self.paraphrases,
        )
        return _examples(answered, words), pl.concat([decisions, on_words])

    def first_of_their_words(self, parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
        """The decisions on examples with the same words: the first stays, those in a task's own words before others.

        The ids of all examples are held, each with a hash of its words.
        """
        columns = {"candidate_id": pl.String, "words": pl.String, "reworded": pl.Boolean}
        hashed = (
            self.within_a_task(part)[0].select(
                "candidate_id",
                words=pl.struct("instruction", "input", "output").map_elements(
                    method.example_words, return_dtype=pl.String
                ),
                reworded=pl.col("paraphrase_id").is_not_null(),
            )
            for part in parts
        )
        examples = pl.concat([pl.DataFrame(schema=columns), *hashed])
        # A paraphrase can be the instruction of another task.
        return method.first_of_its_words(examples.sort("reworded", maintain_order=True))


def with_same_words(rows: pl.LazyFrame, decisions: pl.DataFrame) -> pl.LazyFrame:
    """Rows of `outputs_with_paraphrases` with the decisions of `first_of_their_words` on the output and paraphrase."""
    return with_verdicts(
        with_verdicts(rows, decisions), decisions, of="paraphrase_id", name="paraphrase_verdicts"
    )


def apply_same_words(examples: pl.DataFrame, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The examples that the decisions in the rows of `with_same_words` keep, and these decisions."""
    on_outputs = rows.select("candidate_id", "verdicts")
    on_words = rows.select(candidate_id="paraphrase_id", verdicts="paraphrase_verdicts")
    verdicts = pl.concat([on_outputs, on_words]).drop_nulls("candidate_id").unique("candidate_id")
    return apply_verdicts(examples.join(verdicts, on="candidate_id", how="left", maintain_order="left"))


def _examples(answered: pl.DataFrame, paraphrases: pl.DataFrame) -> pl.DataFrame:
    """Each answered task under its own instruction, then under each paraphrase; constraints come behind it."""
    own = answered.select(
        *("candidate_id", "task_id", "instruction", "input", "output", "constraints"),
        output_id="candidate_id",
        paraphrase_id=pl.lit(None, pl.String),
    )
    words = paraphrases.select(
        "task_id", "candidate_id", paraphrase_id="candidate_id", instruction="paraphrase"
    )
    reworded = own.drop("candidate_id", "paraphrase_id", "instruction").join(
        words, on="task_id", maintain_order="left_right"
    )
    constrained = pl.concat_str("instruction", "constraints", separator=" ")
    said = pl.when(pl.col("constraints") != method.NO_CONSTRAINTS).then(constrained).otherwise("instruction")
    return pl.concat([own, reworded.select(own.columns)]).with_columns(instruction=said).drop("constraints")
