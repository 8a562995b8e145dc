"""said → shouted → kept, which is many to one: the loud words by their first letter."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import TEXT, Row, Table, decisions
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec


def _loud(subject: Subject) -> Evidence:
    rows = subject.columns("id", "text")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToMatchRegex", column="text", regex="^[^a-z]+$"),),
        found="are not loud",
        allowed="a shout has no small letter",
    )


LOUD = QualityCheck("loud", True, "Every shout is in capitals.", "Shout again", _loud)

SAID = Table("echo/said", "said", {"word": TEXT}, noun="word", sources={"word": []})
SHOUTED = Table(
    "echo/shouted",
    "shout",
    {"text": TEXT},
    noun="shout",
    sentence=lambda row: f"shouted {row['text']}",
    sources={"parents": [("echo/said", "id")], "text": [("echo/said", "word")]},
    checks=[LOUD],
)
DECISIONS = decisions("echo/decisions")
KEPT = Table(
    "echo/kept",
    "kept",
    {"letter": TEXT, "completion": TEXT},
    noun="group of shouts",
    sources={
        "parents": [("echo/shouted", "id")],
        "letter": [("echo/shouted", "text")],
        "completion": [("echo/shouted", "text")],
    },
)


@stage(SAID, description="The words of the experiment.")
def said(context: StageContext[Any]) -> Result:
    words = context.experiment.words
    activity = context.activity(inputs=[], parameters={"words": words})
    return context.result(context.store(activity, [Draft({"word": word}) for word in words]), ["word"])


def shout(shard: Shard[Any, Row]) -> list[Draft]:
    """Each word in capitals."""
    shard.report.advance(len(shard.items))
    return [Draft({"text": row["word"].upper()}, [Parent(row["id"], "shouted_from")]) for row in shard.items]


@stage(SHOUTED, after=["said"], description="Each word, loud.")
def shouted(context: StageContext[Any]) -> Result:
    manifest, words = context.scan(SAID)
    activity = context.activity(inputs=[manifest], parameters={})
    made, _ = context.map(words, Spec.of(shout), activity, size=2, unit="words")
    return context.result(made, ["text"])


@stage(
    DECISIONS, KEPT, after=["shouted"], description="The loud words that are long enough, by first letter."
)
def kept(context: StageContext[Any]) -> Result:
    manifest, shouts = context.small(SHOUTED)
    least = context.experiment.least_length
    activity = context.activity(inputs=[manifest], parameters={"least_length": least})
    length = pl.col("text").str.len_chars()
    decided = shouts.select(
        candidate_id="id",
        rule=pl.lit("length"),
        kept=length >= least,
        reason=pl.format("{} letters, at least " + str(least), length),
        nearest_id=pl.lit(None, pl.String),
        score=length.cast(pl.Float64),
        threshold=pl.lit(float(least)),
    )
    context.store_decisions(DECISIONS, decided, [manifest], activity.id)
    groups = shouts.filter(length >= least).group_by(letter=pl.col("text").str.head(1), maintain_order=True)
    drafts = [
        Draft(
            {"letter": letter, "completion": " ".join(group["text"])},
            [Parent(id, "kept_from") for id in group["id"]],
        )
        for (letter,), group in groups
    ]
    return context.result(context.store(activity, drafts), ["letter", "completion"])


STAGES = [said, shouted, kept]
