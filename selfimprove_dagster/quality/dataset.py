"""Define checks of the training examples and of the decisions that selected them."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.statistics import jensen_shannon_divergence, ngram_overlap, word_counts
from selfimprove_dagster.quality.subject import Subject, counted

NEAR_WORDS = 8


NEAR_SHARE = 0.7
"""A text is near held-out texts if this share of its word 8-grams occurs there (PaLM, 2204.02311, §8)."""


LENGTH_DRIFT = 0.3


VOCABULARY_DRIFT = 0.2


_FIRST = NotApplicable("this is the first iteration, so there is none to compare with")


def _not_empty(subject: Subject) -> Evidence:
    rows = subject.columns("id")
    return Evidence(
        rows,
        (Expect("ExpectTableRowCountToBeBetween", min_value=1),),
        statement=f"there are {rows.height:,} examples",
        allowed="training needs at least 1",
        observed={"examples": rows.height},
    )


def _no_empty_text(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "prompt", "completion"),
        (
            Expect("ExpectColumnValuesToMatchRegex", column="prompt", regex=r"\S"),
            Expect("ExpectColumnValuesToMatchRegex", column="completion", regex=r"\S"),
        ),
        found="have an empty prompt or completion",
        allowed="both must have text",
        unit="examples",
    )


def _near_evaluation(subject: Subject) -> Evidence:
    rows = subject.columns("id", "question")
    distinct = rows.select(pl.col("question").fill_null("").unique(maintain_order=True))["question"].to_list()
    overlap = ngram_overlap(distinct, subject.evaluation_questions["question"], NEAR_WORDS)
    shares = pl.DataFrame(
        {"question": distinct, "overlap": overlap}, schema={"question": pl.String, "overlap": pl.Float64}
    )
    return Evidence(
        rows.join(shares, on="question", how="left", maintain_order="left"),
        (Expect("ExpectColumnValuesToBeBetween", column="overlap", max_value=NEAR_SHARE, strict_max=True),),
        found=f"share {NEAR_SHARE:.0%} or more of their word {NEAR_WORDS}-grams with the evaluation file",
        allowed="questions should not be that similar to the evaluation file",
        unit="examples",
    )


def _length_drift(subject: Subject) -> Evidence | NotApplicable:
    before = subject.previous("completion")
    if before is None:
        return _FIRST
    rows = subject.columns("completion")
    old, new = _mean_length(before), _mean_length(rows)
    return Evidence.of_number(
        "length_ratio",
        new / old if old and new is not None else None,
        least=1 - LENGTH_DRIFT,
        most=1 + LENGTH_DRIFT,
        statement="one of the two iterations has no text"
        if old is None or new is None
        else f"completions have {new:.1f} characters on average, {old:.1f} in the previous iteration",
        allowed=f"a change of at most {LENGTH_DRIFT:.0%} is usual",
        evaluated=rows.height,
        observed={} if new is None else {"mean_characters": new},
    )


def _mean_length(rows: pl.DataFrame) -> float | None:
    return rows.select(pl.col("completion").str.len_chars().cast(pl.Float64).mean()).item()


def _vocabulary_drift(subject: Subject) -> Evidence | NotApplicable:
    before = subject.previous("completion")
    if before is None:
        return _FIRST
    rows = subject.columns("completion")
    old, new = (word_counts(text or "" for text in frame["completion"]) for frame in (before, rows))
    divergence = jensen_shannon_divergence(old, new)
    return Evidence.of_number(
        "divergence",
        divergence,
        most=VOCABULARY_DRIFT,
        statement="one of the two iterations has no words"
        if divergence is None
        else f"the distribution of words diverges by {divergence:.3f} from that of the previous iteration",
        allowed=f"at most {VOCABULARY_DRIFT:g} (Jensen-Shannon, bits; numbers count as one word) is usual",
        evaluated=rows.height,
        observed={"distinct_words": len(new)},
    )


def decisions_complete(subject: Subject, candidates: str = "raw_generations") -> Evidence:
    """Check that every record of `candidates` has a decision, and no dropped one is in the dataset."""
    decided = (
        subject.sibling("decisions", "candidate_id", "kept")
        .group_by(id="candidate_id")
        .agg(decisions=pl.len(), dropped=(~pl.col("kept")).any())
    )
    parents = subject.columns("parents").select(pl.col("parents").explode(empty_as_null=False)).to_series()
    used = parents.struct.field("id").unique().implode()
    rows = counted(subject.sibling(candidates, "id"), decided.select("id", "decisions"), "decisions")
    rows = rows.join(
        decided.select("id", "dropped"), on="id", how="left", maintain_order="left"
    ).with_columns(dropped_but_used=pl.col("dropped").fill_null(False) & pl.col("id").is_in(used))
    return Evidence(
        rows.drop("dropped"),
        (
            Expect("ExpectColumnValuesToBeBetween", column="decisions", min_value=1),
            Expect("ExpectColumnValuesToBeInSet", column="dropped_but_used", value_set=[False]),
        ),
        found=f"have no decision, are not in {candidates}, or were dropped but are in the dataset",
        allowed="each must have a decision, and only kept ones may be used",
        unit=f"rows of {candidates}",
        observed={"decisions": int(decided["decisions"].sum())},
    )


AGAIN = "Materialise filtered_dataset again"


NOT_EMPTY = QualityCheck(
    "not_empty",
    True,
    "There is at least one example.",
    "Loosen the thresholds of `filter`, generate more, or start with a better model",
    _not_empty,
)


NO_EMPTY_TEXT = QualityCheck(
    "no_empty_text", True, "Every example has a prompt and a completion.", AGAIN, _no_empty_text
)


LITTLE_OVERLAP = QualityCheck(
    "little_overlap_with_evaluation",
    False,
    f"No question has {NEAR_SHARE:.0%} of its word {NEAR_WORDS}-grams in the evaluation file.",
    "Check whether these questions are paraphrases of held-out ones",
    _near_evaluation,
)


LENGTH_DRIFT_CHECK = QualityCheck(
    "length_drift",
    False,
    f"The mean length of completions is within {LENGTH_DRIFT:.0%} of the previous iteration.",
    "Read some examples of both iterations: a model trained on its own text may become terse or verbose",
    _length_drift,
)


VOCABULARY_DRIFT_CHECK = QualityCheck(
    "vocabulary_drift",
    False,
    f"The words of completions diverge by at most {VOCABULARY_DRIFT:g} bits from the previous iteration.",
    "Read some examples of both iterations: a model trained on its own text may lose diversity or drift",
    _vocabulary_drift,
)
