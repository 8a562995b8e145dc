"""The words of explanations of candidate answers, and the filters run again with other settings."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.filtering.running import (
    RECORDED,
    RecordedSteps,
    decisions_on,
    steps_again,
    thresholds,
    with_thresholds,
)
from selfimprove_dagster.filters.whole import in_parts
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Explain
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.methods.curate import curate
from selfimprove_dagster.methods.curate.tables import (
    CANDIDATE_ANSWERS,
    DECISIONS,
    PERPLEXITY_SCORES,
    RATINGS,
    VOTED_ANSWERS,
)
from selfimprove_dagster.table import Row


def _score(row: Row) -> float | None:
    """Return the number of a row of scores."""
    return next((row[name] for name in ("perplexity", "rating", "vote_share") if name in row), None)


def filter_again(lake: Lake, dataset: Manifest, section: RecordedSteps) -> pl.DataFrame:
    """Return every decision on the candidates of an iteration, with other settings of its filters.

    The rules that come before them (readable, not held out, not banned, not empty) have no settings, so their recorded
    decisions stay. Raises LakeError if the tables that the filters read were made again since.
    """
    tables = (CANDIDATE_ANSWERS, PERPLEXITY_SCORES, RATINGS, VOTED_ANSWERS)
    rows = curate.judged(*read_again(lake, dataset, *(table.name for table in tables)))
    steps = steps_again(dataset, section)
    recorded = lake.read_whole(lake.manifest(DECISIONS.name, dataset.partition))
    before = recorded.filter(~pl.col("rule").is_in([step.rule for step in steps]))
    dropped = before.filter(~pl.col("kept")).select("candidate_id")
    left = rows.join(dropped, on="candidate_id", how="anti", maintain_order="left")
    now = decisions_on(in_parts(left.lazy(), "question_id"), steps)
    return pl.concat([before.select(now.columns), now])


EXPLAIN = Explain(
    noun="answer",
    asked="prompt",
    filters=[["candidate_answers"]],
    beside=["perplexity_scores", "ratings", "voted_answers"],
    score=_score,
)
WHAT_IF = Refilter(
    kind=RecordedSteps,
    filter_again=filter_again,
    section=RECORDED,
    thresholds=thresholds,
    fields=with_thresholds,
    noun="answer",
)
