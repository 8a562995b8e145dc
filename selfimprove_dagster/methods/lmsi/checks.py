"""Checks of LMSI's tables: questions, reasoning paths, votes, examples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.families.voting.counting import COUNTED, recount
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.quality.completions import (
    FINISHED,
    LOGPROBS_MATCH_TOKENS,
    NO_EMPTY_COMPLETION,
    NONE_FAILED,
    PERPLEXITY_RANGE,
)
from selfimprove_dagster.quality.dataset import (
    AGAIN,
    LENGTH_DRIFT_CHECK,
    LITTLE_OVERLAP,
    NO_EMPTY_TEXT,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
    decisions_complete,
)
from selfimprove_dagster.quality.outcomes import (
    ALL_QUESTIONS_ANSWERED,
    CHAMPION_AND_CHALLENGER,
    NOT_TRAINED_ON,
    not_trained_on,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted, numbers, share, with_key

TIE_SHARE = 0.2


LEAST_EXTRACTED, USUALLY_EXTRACTED = 0.05, 0.5


LEAST_AGREEMENT = 0.2


def _experiment(subject: Subject) -> LmsiExperiment:
    assert isinstance(subject.experiment, LmsiExperiment)
    return subject.experiment


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
    silent = ((pl.col("n_valid") == 0) | pl.col("weights").is_not_null()) & pl.col("vote_share").is_null()
    rows = subject.columns("id", "question", "n_valid", "vote_share", "weights").with_columns(
        pl.when(silent).then(0.0).otherwise("vote_share").alias("vote_share")
    )
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeBetween", column="vote_share", min_value=0, max_value=1),),
        found="have a vote share outside of 0 to 1",
        allowed="it is a share of all paths",
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
    rows = subject.columns("id", "question", "rule", *COUNTED)
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
        "Sample more paths per question, or raise filter.minimum_vote_share",
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


# ---- raw_generations -----------------------------------------------------------------------------------


def _paths_per_question(subject: Subject) -> Evidence:
    sampling = _experiment(subject).sampling
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


RAW_GENERATIONS_CHECKS = (
    NO_EMPTY_COMPLETION,
    QualityCheck(
        "paths_per_question",
        True,
        "Each question of the seed pool has as many paths as the experiment asks for.",
        "Materialise raw_generations again after its seed pool",
        _paths_per_question,
    ),
    LOGPROBS_MATCH_TOKENS,
    NONE_FAILED,
    FINISHED,
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


# ---- seed_pool --------------------------------------------------------------------------------------


def _no_empty_text(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "question", "source_file", "source_line"),
        (Expect("ExpectColumnValuesToMatchRegex", column="question", regex=r"\S"),),
        found="are empty",
        allowed="every question must have text",
        unit="questions",
    )


def _no_duplicate_questions(subject: Subject) -> Evidence:
    rows = with_key(subject.columns("id", "question", "source_file", "source_line"))
    return Evidence(
        rows.select("id", "question", "source_file", "source_line", "key"),
        (Expect("ExpectColumnValuesToBeUnique", column="key"),),
        found="are asked more than once, case and white space aside",
        allowed="every question should be asked once",
        unit="questions",
        observed={"distinct_questions": rows["key"].n_unique()},
    )


def _not_in_pretraining(subject: Subject) -> Evidence | NotApplicable:
    if Path(subject.experiment.model.path) != embedded.BASE_MODEL:
        return NotApplicable("known only of the embedded base model, which this experiment does not use")
    from selfimprove_dagster.embedded import question_hash

    if not embedded.PRETRAINING_QUESTIONS.is_file():
        raise SelfImproveError(
            f"{embedded.PRETRAINING_QUESTIONS} is missing; install the package again or run the recipe"
        )
    known = pl.read_parquet(embedded.PRETRAINING_QUESTIONS, columns=["question_hash"])
    asked = pl.concat(
        [
            subject.columns("id", "question").with_columns(used_for=pl.lit("training")),
            subject.evaluation_questions.select("id", "question").with_columns(used_for=pl.lit("evaluation")),
        ]
    )
    hashes = pl.Series([question_hash(text or "") for text in asked["question"]], dtype=pl.UInt64)
    seen = hashes.is_in(known["question_hash"].cast(pl.UInt64).implode())
    return Evidence(
        asked.with_columns(seen.alias("in_pretraining")),
        (Expect("ExpectColumnValuesToBeInSet", column="in_pretraining", value_set=[False]),),
        found="were in the base model's training data",
        allowed="neither seeds nor evaluation questions may be",
        unit="questions of seed pool and evaluation file",
        observed={"pretraining_questions": known.height},
    )


SEED_POOL_CHECKS = (
    QualityCheck(
        "no_empty_text",
        True,
        "Every question has text.",
        "Fix the lines of the seed file that the table names",
        _no_empty_text,
    ),
    QualityCheck(
        "no_duplicate_questions",
        False,
        "No question is asked twice, case and white space aside.",
        "Take the copies out of the seed file: a question counts as often as it is asked",
        _no_duplicate_questions,
    ),
    NO_OVERLAP,
    QualityCheck(
        "not_in_pretraining",
        True,
        "The embedded base model was trained on none of the questions of seed pool and evaluation file.",
        "Make the pools again with the embedded model's recipe",
        _not_in_pretraining,
    ),
)


# ---- filtered_dataset -------------------------------------------------------------------------------


def _share_kept(subject: Subject) -> Evidence:
    examples = subject.columns("id").height
    paths = subject.sibling("raw_generations", "id").height
    least = subject.experiment.budget.minimum_yield
    return Evidence.of_number(
        "share_kept",
        examples / paths if paths else None,
        least=least,
        most=1,
        statement=f"{examples:,} examples came of {paths:,} paths",
        allowed=f"between {least:.2%} (budget.minimum_yield) and 100% should be kept",
        evaluated=paths,
    )


def _no_duplicates(subject: Subject) -> Evidence | NotApplicable:
    rows = subject.columns("id", "prompt", "completion")
    if not _experiment(subject).filter.drop_duplicates:
        copies = rows.height - rows.select("prompt", "completion").n_unique()
        return NotApplicable(
            f"{copies:,} examples of {rows.height:,} are copies, which filter.drop_duplicates: false allows"
        )
    return Evidence(
        rows,
        (Expect("ExpectCompoundColumnsToBeUnique", column_list=["prompt", "completion"]),),
        found="have prompt and completion of another",
        allowed="each must occur once",
        unit="examples",
    )


def _answers_agree_with_vote(subject: Subject) -> Evidence:
    votes = subject.sibling("voted_answers", "question_id", "voted_answer").unique(
        "question_id", keep="first"
    )
    rows = subject.columns("id", "question_id", "question", "answer")
    return Evidence(
        rows.join(votes, on="question_id", how="left", maintain_order="left"),
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="answer", column_B="voted_answer"),),
        found="have another answer than the vote on their question",
        allowed="each must have the voted one",
        unit="examples",
    )


def _above_thresholds(subject: Subject) -> Evidence:
    section = _experiment(subject).filter
    votes = subject.sibling("voted_answers", "question_id", "n_valid", "tie", "votes", "voted_answer")
    votes = votes.unique("question_id", keep="first").rename({"n_valid": "valid_votes"})
    counted = votes.select("question_id", "voted_answer", "votes").explode("votes").unnest("votes")
    won = counted.filter(pl.col("answer") == pl.col("voted_answer"))
    votes = votes.drop("votes", "voted_answer").join(
        won.select("question_id", winning_votes="count"), on="question_id", how="left"
    )
    rows = (
        subject.columns("id", "question_id", "vote_share", "perplexity")
        .join(votes, on="question_id", how="left", maintain_order="left")
        .with_columns(
            examples_of_question=pl.len().over("question_id"),
        )
    )
    expected = [
        Expect("ExpectColumnValuesToBeBetween", column="vote_share", min_value=section.minimum_vote_share),
        Expect("ExpectColumnValuesToBeBetween", column="valid_votes", min_value=section.minimum_votes),
    ]
    rules = [f"vote share ≥ {section.minimum_vote_share:g}", f"valid votes ≥ {section.minimum_votes}"]
    if (winning := section.minimum_winning_votes) > 1:
        expected.append(Expect("ExpectColumnValuesToBeBetween", column="winning_votes", min_value=winning))
        rules.append(f"votes for the answer ≥ {winning}")
    if section.drop_ties:
        expected.append(Expect("ExpectColumnValuesToBeInSet", column="tie", value_set=[False]))
        rules.append("no tie")
    if (highest := section.maximum_perplexity) is not None:
        expected.append(Expect("ExpectColumnValuesToBeBetween", column="perplexity", max_value=highest))
        rules.append(f"perplexity ≤ {highest:g}")
    if (most := section.maximum_paths) is not None:
        expected.append(
            Expect("ExpectColumnValuesToBeBetween", column="examples_of_question", max_value=most)
        )
        rules.append(f"at most {most} a question")
    return Evidence(
        rows,
        tuple(expected),
        found="break a threshold of the experiment",
        allowed=", ".join(rules),
        unit="examples",
    )


FILTERED_DATASET_CHECKS = (
    NOT_EMPTY,
    QualityCheck(
        "share_kept",
        False,
        "The share of paths that became examples is at least the experiment's least yield.",
        "See lmsi/decisions for what dropped the others",
        _share_kept,
    ),
    QualityCheck(
        "no_duplicates", True, "No two examples have the same prompt and completion.", AGAIN, _no_duplicates
    ),
    NO_EMPTY_TEXT,
    QualityCheck(
        "answers_agree_with_vote",
        True,
        "Every example's answer is the voted answer of its question.",
        AGAIN,
        _answers_agree_with_vote,
    ),
    NO_OVERLAP,
    LITTLE_OVERLAP,
    QualityCheck(
        "above_thresholds",
        True,
        "Every example keeps the thresholds of the experiment's `filter`.",
        "The experiment file was changed since: materialise filtered_dataset again",
        _above_thresholds,
    ),
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_complete",
        True,
        "Every path has a decision, and no dropped path is in the dataset.",
        AGAIN,
        decisions_complete,
    ),
)


# ---- evaluation ----------------------------------------------------------------------------------------


EVALUATION_CHECKS = (
    ALL_QUESTIONS_ANSWERED,
    CHAMPION_AND_CHALLENGER,
    replace(
        NOT_TRAINED_ON,
        description="No evaluation question was trained on, in this or an earlier iteration, or is a "
        "demonstration.",
        gather=partial(not_trained_on, shown=("seeds/demonstrations",)),
    ),
)
