"""Checks on votes: that they are complete, that they follow from the paths, that paths agree at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted, numbers, share

TIE_SHARE = 0.2


LEAST_EXTRACTED, USUALLY_EXTRACTED = 0.05, 0.5


LEAST_AGREEMENT = 0.2


def _one_vote_a_question(subject: Subject) -> Evidence:
    voted = subject.columns("question_id").group_by(id="question_id").agg(votes=pl.len())
    return Evidence(
        counted(subject.sibling("seed_pool", "id", "question"), voted, "votes"),
        (Expect("ExpectColumnValuesToBeBetween", column="votes", min_value=1, max_value=1),),
        found="have no vote, several, or are not in the seed pool",
        allowed="each must have one",
        unit="questions",
    )


def _vote_share_range(subject: Subject) -> Evidence:
    # A question on which nobody voted has no share; any other must have one.
    silent = (pl.col("n_valid") == 0) & pl.col("vote_share").is_null()
    rows = subject.columns("id", "question", "n_valid", "vote_share").with_columns(
        pl.when(silent).then(0.0).otherwise("vote_share").alias("vote_share")
    )
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeBetween", column="vote_share", min_value=0, max_value=1),),
        found="have a vote share outside of 0 to 1",
        allowed="it is a share of the valid votes",
        unit="votes",
    )


def _extraction_rate(least: float, subject: Subject) -> Evidence:
    rows = subject.columns("n_valid", "n_paths")
    valid, paths = int(rows["n_valid"].sum()), int(rows["n_paths"].sum())
    rate = valid / paths if paths else None
    return Evidence.of_number(
        "extraction_rate",
        rate,
        least=least,
        statement=f"an answer could be read from {valid:,} of {paths:,} paths"
        + ("" if rate is None else f", {rate:.1%}"),
        allowed=f"at least {least:.0%} must state one" if least == LEAST_EXTRACTED else f"{least:.0%} should",
        evaluated=paths,
    )


def _extraction_possible(subject: Subject) -> Evidence:
    return _extraction_rate(LEAST_EXTRACTED, subject)


def _extraction_usual(subject: Subject) -> Evidence:
    return _extraction_rate(USUALLY_EXTRACTED, subject)


def _vote_agreement(subject: Subject) -> Evidence:
    rows = subject.columns("id", "vote_share").with_columns(
        pl.col("vote_share").fill_nan(None).fill_null(0.0)
    )
    mean: float | None = rows.select(pl.col("vote_share").mean()).item()
    return Evidence(
        rows,
        (Expect("ExpectColumnMeanToBeBetween", column="vote_share", min_value=LEAST_AGREEMENT),),
        statement="there are no votes" if mean is None else f"the mean vote share is {mean:.3f}",
        allowed=f"at least {LEAST_AGREEMENT:g} shows that paths agree on more than chance",
        observed=numbers(mean_vote_share=mean),
    )


def _ties(subject: Subject) -> Evidence:
    rows = subject.columns("id", "question", "voted_answer", "tie")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeInSet", column="tie", value_set=[False], mostly=1 - TIE_SHARE),),
        found="are ties",
        allowed=f"at most {TIE_SHARE:.0%} should be",
        unit="votes",
        observed={"tie_share": share(rows["tie"])},
    )


def _votes_recount(subject: Subject) -> Evidence:
    columns = (
        "id",
        "question",
        "rule",
        "voted_answer",
        "votes",
        "paths",
        "tie",
        "n_paths",
        "n_valid",
        "vote_share",
    )
    rows = subject.columns(*columns)
    problems = [recount(row) or "none" for row in rows.iter_rows(named=True)]
    return Evidence(
        rows.select("id", "question", "voted_answer").with_columns(
            pl.Series("problem", problems, dtype=pl.String)
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="problem", value_set=["none"]),),
        found="do not follow from the answers of their paths",
        allowed="counting the answers again must give the same vote",
        unit="votes",
    )


def recount(vote: Mapping[str, Any]) -> str | None:
    """What a row of voted_answers has wrong when its paths' answers are counted again; None when nothing."""
    answers = [path["answer"] for path in vote["paths"]]
    counts = Counter(answer for answer in answers if answer is not None)
    stated = {entry["answer"]: entry["count"] for entry in vote["votes"]}
    if stated != dict(counts):
        return f"counts are {dict(counts)}, not {stated}"
    if vote["n_paths"] != len(answers):
        return f"there are {len(answers)} paths, not {vote['n_paths']}"
    valid = sum(counts.values())
    if vote["n_valid"] != valid:
        return f"there are {valid} valid votes, not {vote['n_valid']}"
    voted = vote["voted_answer"]
    if not valid:
        return None if voted is None else f"nobody voted for {voted}"
    most = max(counts.values())
    if voted not in counts:
        return f"nobody voted for {voted}"
    if vote["rule"] == "majority" and counts[voted] != most:
        return f"{voted} has {counts[voted]} votes, another answer {most}"
    if vote["tie"] != (list(counts.values()).count(most) > 1):
        return f"tie is {vote['tie']}"
    share = vote["vote_share"]
    if share is None or abs(share - counts[voted] / valid) > 1e-9:
        return f"the vote share is {counts[voted] / valid:.4f}, not {share}"
    return None


VOTED_ANSWERS_CHECKS = (
    QualityCheck(
        "one_vote_a_question",
        True,
        "Each question of the seed pool has one vote.",
        "Materialise voted_answers again",
        _one_vote_a_question,
    ),
    QualityCheck(
        "vote_share_range",
        True,
        "Every vote share lies between 0 and 1.",
        "Materialise voted_answers again",
        _vote_share_range,
    ),
    QualityCheck(
        "extraction_rate",
        True,
        f"An answer can be read from at least {LEAST_EXTRACTED:.0%} of the paths.",
        "The model does not state its answers in a form that is understood: look at raw_generations",
        _extraction_possible,
    ),
    QualityCheck(
        "extraction_mostly",
        False,
        f"An answer can be read from at least {USUALLY_EXTRACTED:.0%} of the paths.",
        "Look at the paths that cast no vote: the prompt, the token limit or the model may be at fault",
        _extraction_usual,
    ),
    QualityCheck(
        "vote_agreement",
        False,
        f"The mean vote share is at least {LEAST_AGREEMENT:g}.",
        "The model guesses: lower the temperature, or raise filter.minimum_vote_share",
        _vote_agreement,
    ),
    QualityCheck(
        "ties",
        False,
        f"At most {TIE_SHARE:.0%} of the votes are ties.",
        "Draw more paths a question, or raise filter.minimum_vote_share",
        _ties,
    ),
    QualityCheck(
        "votes_recount",
        True,
        "Counting the answers of the paths again gives the same vote.",
        "Materialise voted_answers again",
        _votes_recount,
    ),
)


EMPTY_SHARE = 0.01


CUT_OFF_SHARE = 0.2


ROUNDING = 1e-4
"""Log-probabilities may exceed 0 by this much, perplexities fall below 1: engines use 32 bits and less."""


# ---- raw_generations -----------------------------------------------------------------------------------


def _no_empty_text(subject: Subject) -> Evidence:
    rows = subject.columns("id", "text").with_columns(pl.col("text").fill_null(""))
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToMatchRegex", column="text", regex=r"\S", mostly=1 - EMPTY_SHARE),),
        found="are empty",
        allowed=f"at most {EMPTY_SHARE:.0%} should be",
        unit="completions",
        observed={"empty_share": share(~rows["text"].str.contains(r"\S"))},
    )


def _paths_per_question(subject: Subject) -> Evidence:
    sampling = subject.lmsi.sampling
    least = min(sampling.adaptive.step, sampling.paths) if sampling.adaptive else sampling.paths
    allowed = f"exactly {least}" if least == sampling.paths else f"between {least} and {sampling.paths}"
    drawn = subject.columns("question_id").group_by(id="question_id").agg(paths=pl.len())
    asked = subject.sibling("seed_pool", "id", "question")
    return Evidence(
        counted(asked, drawn, "paths"),
        (Expect("ExpectColumnValuesToBeBetween", column="paths", min_value=least, max_value=sampling.paths),),
        found="have more or fewer paths, or are not in the seed pool",
        allowed=f"each question of the seed pool must have {allowed}",
        unit="questions",
    )


def _logprobs_match_tokens(subject: Subject) -> Evidence:
    logprob = pl.element()
    fine = (logprob.is_finite() & (logprob <= ROUNDING)).fill_null(False)
    rows = subject.columns("id", "token_ids", "logprobs").select(
        "id",
        tokens=pl.col("token_ids").list.len(),
        logprobs=pl.col("logprobs").list.len(),
        wrong_values=pl.col("logprobs").list.eval((~fine).cast(pl.UInt32)).list.sum(),
    )
    return Evidence(
        rows,
        (
            Expect("ExpectColumnPairValuesToBeEqual", column_A="tokens", column_B="logprobs"),
            Expect("ExpectColumnValuesToBeBetween", column="wrong_values", max_value=0),
        ),
        found="have log-probabilities that are not one a token, above 0 or not finite",
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
        found="were cut off at the token limit",
        allowed=f"at most {CUT_OFF_SHARE:.0%} should be",
        unit="completions",
        observed={"cut_off_share": share(rows["finish_reason"] == "length")},
    )


# ---- perplexity_scores ---------------------------------------------------------------------------------


def _one_score_a_path(subject: Subject) -> Evidence:
    scored = subject.columns("path_id").group_by(id="path_id").agg(scores=pl.len())
    return Evidence(
        counted(subject.sibling("raw_generations", "id"), scored, "scores"),
        (Expect("ExpectColumnValuesToBeBetween", column="scores", min_value=1, max_value=1),),
        found="have no score, several, or are not in raw_generations",
        allowed="each must have one",
        unit="paths",
    )


def _perplexity_range(subject: Subject) -> Evidence:
    rows = subject.columns("id", "perplexity").with_columns(finite=pl.col("perplexity").is_finite())
    finite = rows.filter("finite")["perplexity"]
    return Evidence(
        rows,
        (
            Expect("ExpectColumnValuesToBeBetween", column="perplexity", min_value=1 - ROUNDING),
            Expect("ExpectColumnValuesToBeInSet", column="finite", value_set=[True]),
        ),
        found="have a perplexity below 1 or one that is no finite number",
        allowed="a perplexity is finite and at least 1",
        observed=numbers(mean_perplexity=finite.mean(), highest_perplexity=finite.max()),
    )


NO_EMPTY_TEXT = QualityCheck(
    "no_empty_text",
    False,
    f"At most {EMPTY_SHARE:.0%} of the completions are empty.",
    "Look at the prompt format and the stop strings",
    _no_empty_text,
)


LOGPROBS_MATCH_TOKENS = QualityCheck(
    "logprobs_match_tokens",
    True,
    "Each sampled token has one log-probability, finite and at most 0.",
    "The engine gives wrong log-probabilities: try another device or number format",
    _logprobs_match_tokens,
)


FINISHED = QualityCheck(
    "finished",
    False,
    f"At most {CUT_OFF_SHARE:.0%} of the completions were cut off at the token limit.",
    "Raise max_tokens, or give a stop string at which paths end",
    _finished,
)


RAW_GENERATIONS_CHECKS = (
    NO_EMPTY_TEXT,
    QualityCheck(
        "paths_per_question",
        True,
        "Each question of the seed pool has as many paths as the experiment asks for.",
        "Materialise raw_generations again after its seed pool",
        _paths_per_question,
    ),
    LOGPROBS_MATCH_TOKENS,
    FINISHED,
)


PERPLEXITY_RANGE = QualityCheck(
    "range",
    True,
    "Every perplexity is finite and at least 1.",
    "Look at the log-probabilities of the paths that the table names",
    _perplexity_range,
)


PERPLEXITY_SCORES_CHECKS = (
    QualityCheck(
        "one_score_a_path",
        True,
        "Each path has one score.",
        "Materialise perplexity_scores again",
        _one_score_a_path,
    ),
    PERPLEXITY_RANGE,
)
