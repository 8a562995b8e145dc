"""said → shouted → kept, which is many to one: the long shouts by their first letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import new
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import DRAWN, TEXT, Draw, Row, Table, completions, decisions
from selfimprove_dagster.work.shards import Request, Shard
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

SAID = completions(
    "echo/said",
    "said",
    {"word": TEXT},
    noun="saying",
    sources=new("word", *DRAWN, "logprobs"),
    draw=Draw("saying"),
)
SHOUTED = Table(
    "echo/shouted",
    "shout",
    {"text": TEXT},
    noun="shout",
    sentence=lambda row: f"shouted {row['text']}",
    sources={"parents": [("echo/said", "id")], "text": [("echo/said", "word"), ("echo/said", "text")]},
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


def ask(shard: Shard[Any, str]) -> Iterator[Request]:
    """Each word is a prompt."""
    return (Request(word, word, {"word": word}, []) for word in shard.items)


@stage(SAID, description="What the model says after each word.", uses=["language_model"])
def said(context: StageContext[Any]) -> Result:
    words, saying = context.experiment.words, context.experiment.saying.model_dump()
    settings = {"words": words, "saying": saying}
    made, metadata = context.complete([], settings, words, Spec.of(ask), size=2)
    return context.result(made, ["word", "text"], metadata)


def shout(shard: Shard[Any, Row]) -> list[Draft]:
    """Each word and what was said after it, in capitals."""
    shard.report.advance(len(shard.items))
    return [
        Draft({"text": f"{row['word']}{row['text']}".strip().upper()}, [Parent(row["id"], "shouted_from")])
        for row in shard.items
    ]


@stage(SHOUTED, after=["said"], description="What was said, loud.")
def shouted(context: StageContext[Any]) -> Result:
    manifest, sayings = context.scan(SAID)
    activity = context.activity(inputs=[manifest], parameters={})
    made, _ = context.map(sayings, Spec.of(shout), activity, size=2, unit="sayings")
    return context.result(made, ["text"])


@stage(DECISIONS, KEPT, after=["shouted"], description="The shouts that are long enough, by first letter.")
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
