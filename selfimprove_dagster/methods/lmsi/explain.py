"""The words of explanations of paths and votes, and the filter of paths run again."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.experiment.sections import AnswersSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Explain, Story
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.settings import FilterSection
from selfimprove_dagster.methods.lmsi.tables import PERPLEXITY_SCORES, RAW_GENERATIONS, VOTED_ANSWERS
from selfimprove_dagster.table import Row


def _answer(story: Story, path: Row) -> str | None:
    """The answer that a path gave in the vote."""
    ballots = (ballot for row in story.beside[path["id"]] if "votes" in row for ballot in row["paths"])
    return next((ballot["answer"] for ballot in ballots if ballot["id"] == path["id"]), None)


def _in_short(story: Story, path: Row) -> str:
    example = next(iter(story.examples(path)), None)
    if example is None:
        return ""
    share = example["vote_share"]
    rules = len(story.decisions([path["id"]]))
    return (
        f"it answers {example['answer']} as the vote does"
        + ("" if share is None else f" (share {share:.3g})")
        + f" and passed {rules} rule{'' if rules == 1 else 's'}"
    )


def _score(row: Row) -> float | None:
    return next((row[name] for name in ("perplexity", "rating", "vote_share") if name in row), None)


def filter_again(lake: Lake, dataset: Manifest, section: FilterSection) -> pl.DataFrame:
    """Every decision of the dataset's filter under other thresholds, with the seed of its activity.

    Raises LakeError where the tables were made again since.
    """
    frames = read_again(lake, dataset, RAW_GENERATIONS.name, PERPLEXITY_SCORES.name, VOTED_ANSWERS.name)
    thresholds = lmsi.FilterThresholds(**section.model_dump())
    activity = dataset.activity
    conventions = AnswersSection(**activity.parameters.get("answers", {})).conventions()
    _, decisions = lmsi.filter_paths(lmsi.candidates(*frames), thresholds, activity.seed, conventions)
    return decisions


EXPLAIN = Explain(
    noun="path",
    filters=[["raw_generations"]],
    beside=["perplexity_scores", "voted_answers", "example_ratings"],
    answer=_answer,
    in_short=_in_short,
    score=_score,
)
WHAT_IF = Refilter(
    kind=FilterSection,
    filter_again=filter_again,
    aliases={"confidence": "minimum_vote_share"},
    noun="path",
)
