"""What people are asked: the preferences of which the judge is least certain. Group `rlaif`."""

from __future__ import annotations

import dagster as dg
import polars as pl

from assets.declared import stage_asset
from assets.shown import number
from assets.stage import Stage
from selfimprove_dagster.experiment import RlaifExperiment
from selfimprove_dagster.home import Home
from selfimprove_dagster.judge_tables import RLAIF_AI_PREFERENCES
from selfimprove_dagster.methods.reviewing import least_certain, of_preferences
from selfimprove_dagster.records import Draft, Parent
from selfimprove_dagster.review_tables import RLAIF_REVIEW_QUEUE


@stage_asset(
    RLAIF_REVIEW_QUEUE,
    deps=[RLAIF_AI_PREFERENCES],
    description="The pairs of which the judge is least certain, for people to look at: near one half, or "
    "another answer in the other order. `selfimprove review` and the page /review/<experiment> ask them.",
)
def review_queue(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, RLAIF_REVIEW_QUEUE, RlaifExperiment)
    manifest, preferences = stage.read(RLAIF_AI_PREFERENCES)
    count = stage.experiment.review.count
    queue = least_certain(of_preferences(preferences), count)
    queue = queue.with_columns(pl.lit(RLAIF_AI_PREFERENCES.name).alias("table"))
    drafts = [
        Draft(
            {name: row[name] for name in RLAIF_REVIEW_QUEUE.content},
            [Parent(row["item_id"], "reviewed")],
            {name: row[name] for name in RLAIF_REVIEW_QUEUE.measures},
        )
        for row in queue.iter_rows(named=True)
    ]
    activity = stage.activity(inputs=[manifest], parameters={"count": count})
    return stage.result(
        stage.store(activity, drafts),
        preview=["prompt", "option_a", "option_b", "uncertainty"],
        metadata={
            "least_uncertainty": number(queue["uncertainty"].min()),
            "mean_uncertainty": number(queue["uncertainty"].mean()),
        },
    )
