"""Define checks of generated completions and of their perplexities."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.filters.rules import FAILED
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, numbers, share

EMPTY_SHARE = 0.01


CUT_OFF_SHARE = 0.2


ROUNDING = 1e-4
"""Tolerance for log-probabilities above 0 and perplexities below 1, as engines use 32 bits or fewer."""


def _no_empty_text(subject: Subject) -> Evidence:
    rows = subject.columns("id", "text", "finish_reason").with_columns(pl.col("text").fill_null(""))
    # Those that failed have no text either, and a check of their own.
    rows = rows.filter(~pl.col("finish_reason").is_in(FAILED)).drop("finish_reason")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToMatchRegex", column="text", regex=r"\S", mostly=1 - EMPTY_SHARE),),
        found="are empty",
        allowed=f"at most {EMPTY_SHARE:.0%} should be",
        unit="completions",
        observed={"empty_share": share(~rows["text"].str.contains(r"\S"))},
    )


def _logprobs_match_tokens(subject: Subject) -> Evidence:
    logprob = pl.element()
    fine = (logprob.is_finite() & (logprob <= ROUNDING)).fill_null(False)
    given, logprobs = pl.col("token_ids").list.len(), pl.col("logprobs").list.len()
    # A provider's model has no token ids, and log-probabilities only if the provider gives them.
    rows = subject.columns("id", "token_ids", "logprobs").select(
        "id",
        tokens=pl.when(given > 0).then(given).otherwise(logprobs),
        logprobs=logprobs,
        wrong_values=pl.col("logprobs").list.eval((~fine).cast(pl.UInt32)).list.sum(),
    )
    return Evidence(
        rows,
        (
            Expect("ExpectColumnPairValuesToBeEqual", column_A="tokens", column_B="logprobs"),
            Expect("ExpectColumnValuesToBeBetween", column="wrong_values", max_value=0),
        ),
        found="do not have one log-probability per token, or have one that is above 0 or not finite",
        allowed="each sampled token must have one log-probability, finite and at most 0",
        unit="completions",
        observed={"tokens": int(rows["tokens"].sum())},
    )


def _finished(subject: Subject) -> Evidence:
    rows = subject.columns("id", "finish_reason", "text")
    return Evidence(
        rows,
        (
            Expect(
                "ExpectColumnValuesToNotBeInSet",
                column="finish_reason",
                value_set=["length"],
                mostly=1 - CUT_OFF_SHARE,
            ),
        ),
        found="were truncated at the token limit",
        allowed=f"at most {CUT_OFF_SHARE:.0%} should be",
        unit="completions",
        observed={"cut_off_share": share(rows["finish_reason"] == "length")},
    )


def _none_failed(subject: Subject) -> Evidence:
    rows = subject.columns("id", "finish_reason")
    failed = rows.filter(pl.col("finish_reason").is_in(FAILED))
    counts = failed.group_by("finish_reason").len().sort("finish_reason")
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts.iter_rows())
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToNotBeInSet", column="finish_reason", value_set=[*FAILED]),),
        found=f"could not be generated ({reasons})",
        allowed="the rest is used, and none should be missing",
        unit="completions",
        observed={"failed_share": share(rows["finish_reason"].is_in(FAILED))},
    )


def _perplexity_range(subject: Subject) -> Evidence:
    perplexity = pl.col("perplexity")
    unknown = perplexity.is_null() & (pl.col("tokens") == 0)  # the generator gave no log-probabilities
    rows = subject.measured("id", "tokens", "perplexity").filter(~unknown)
    rows = rows.with_columns(finite=perplexity.is_finite())
    finite = rows.filter("finite")["perplexity"]
    return Evidence(
        rows,
        (
            Expect("ExpectColumnValuesToBeBetween", column="perplexity", min_value=1 - ROUNDING),
            Expect("ExpectColumnValuesToBeInSet", column="finite", value_set=[True]),
        ),
        found="have a perplexity below 1 or a perplexity that is not finite",
        allowed="a perplexity must be finite and at least 1",
        observed=numbers(mean_perplexity=finite.mean(), highest_perplexity=finite.max()),
    )


NO_EMPTY_COMPLETION = QualityCheck(
    "no_empty_text",
    False,
    f"At most {EMPTY_SHARE:.0%} of the completions are empty.",
    "Check the prompt format and the stop strings",
    _no_empty_text,
)


LOGPROBS_MATCH_TOKENS = QualityCheck(
    "logprobs_match_tokens",
    True,
    "Each sampled token has one log-probability, finite and at most 0.",
    "The engine returns wrong log-probabilities: try another device or number format",
    _logprobs_match_tokens,
)


FINISHED = QualityCheck(
    "finished",
    False,
    f"At most {CUT_OFF_SHARE:.0%} of the completions were truncated at the token limit.",
    "Raise max_tokens, or set a stop string at which completions end",
    _finished,
)


def _rating_range(subject: Subject) -> Evidence:
    return Evidence(
        subject.measured("id", "rating"),
        (Expect("ExpectColumnValuesToBeBetween", column="rating", min_value=1, max_value=10),),
        found="have a rating outside of 1 to 10",
        allowed="a rating is the expected one of 1 to 10",
        unit="ratings",
    )


NONE_FAILED = QualityCheck(
    "none_failed",
    False,
    "Every completion could be generated.",
    "`selfimprove status` names the seeds and the reasons: shorten or remove these seeds, or fix the server",
    _none_failed,
)


COMPLETION_CHECKS = (NO_EMPTY_COMPLETION, LOGPROBS_MATCH_TOKENS, FINISHED, NONE_FAILED)


PERPLEXITY_RANGE = QualityCheck(
    "range",
    True,
    "Every perplexity is finite and at least 1.",
    "Check the log-probabilities of the listed paths",
    _perplexity_range,
)


RATING_RANGE = QualityCheck(
    "range", True, "Every rating lies between 1 and 10.", "Materialise the stage again", _rating_range
)
