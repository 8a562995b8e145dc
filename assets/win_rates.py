"""win_rates: held-out responses, their improvements and what people chose, set against each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import dagster as dg
import polars as pl

from assets.declared import stage_asset
from assets.stage import Stage
from resources import LanguageModelResource
from selfimprove_dagster import pit_tables as t
from selfimprove_dagster.dialogue_files import read_held_out_prompts
from selfimprove_dagster.experiment import PitExperiment
from selfimprove_dagster.generation import in_shards
from selfimprove_dagster.home import Home
from selfimprove_dagster.progress import ProgressReport
from selfimprove_dagster.records import Draft, Parent, content_hash
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.win_rate_exam import chosen_responses, preferred_by_truth
from selfimprove_dagster.win_rates import (
    ITSELF,
    TRUTH,
    Contest,
    contests,
    outcome,
    preferred_by,
    win_rates,
)

_Shard = tuple[str, Sequence[Contest]]
"""A judge, and some of what it decides."""


@stage_asset(
    t.PIT_WIN_RATES,
    deps=[t.PIT_IMPROVEMENT_ROUNDS],
    description="Wins and losses on held-out prompts: original against what people chose, PIT, Self-Refine "
    "and Reflexion against the original, PIT against Self-Refine; by the truth, by the champion itself in "
    "both orders, and by every engine that the experiment names as a judge.",
    kinds={"parquet", "pytorch"},
    holds_model=True,
)
def win_rates_asset(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, t.PIT_WIN_RATES, PitExperiment)
    experiment, section, champion = stage.experiment, stage.experiment.win_rates, stage.champion
    rounds_manifest, rounds = stage.read(t.PIT_IMPROVEMENT_ROUNDS)
    prompts, _ = read_held_out_prompts(experiment.evaluation)
    asked = contests(rounds, section.round, chosen_responses(prompts))
    judges = {TRUTH: None, ITSELF: experiment.model, **{one.path: one for one in section.judges}}
    shards: list[_Shard] = [
        (judge, asked[start : start + section.shard])
        for judge in judges
        for start in range(0, len(asked), section.shard)
    ]
    constitution = experiment.constitution.load()
    activity = stage.activity(
        inputs=[rounds_manifest],
        parameters={
            "win_rates": section.model_dump(exclude={"shard"}),
            "constitution": constitution.hash,
            "questions": content_hash({"all": [vars(prompt) for prompt in prompts]}),
            "champion": champion.identity,
        },
        about={"model_path": champion.path, "champion": champion.name},
    )
    with ExitStack() as opened, stage.lake.writer(stage.schema, activity) as writer:
        model, open_for = None, ""

        def work(items: Sequence[_Shard], report: ProgressReport) -> list[Draft]:
            nonlocal model, open_for
            ((judge, met),) = items
            settings = judges[judge]
            if settings is None:
                report.advance(len(met))
                return [
                    _draft(judge, *each) for each in zip(met, preferred_by_truth(met, prompts), strict=True)
                ]
            if open_for != judge:
                opened.close()
                path = champion.path if judge == ITSELF else None
                model, open_for = (
                    opened.enter_context(language_model.open(settings, path, scores=True)),
                    judge,
                )
            assert model is not None
            seeds_from = (experiment.seed, stage.iteration, judge)
            said = preferred_by(model, met, constitution, section.principles, seeds_from, report.advance)
            return [_draft(judge, *each, model.model_id) for each in zip(met, said, strict=True)]

        spent = in_shards(
            writer,
            shards,
            work,
            size=1,
            unit="contests",
            each=lambda shard: len(shard[1]),
            log=stage.log,
            allowance=stage.allowance,
        )
        manifest = writer.commit({"seconds": stage.seconds, **vars(spent)})
    return stage.result(
        manifest,
        preview=["first", "second", "judge", "outcome", "question"],
        metadata={
            "champion": champion.name,
            **win_rate_table(stage.lake.read_ungated(manifest)),
            "lineage": stage.lineage_page,
        },
    )


def win_rate_table(rows: pl.DataFrame) -> dict[str, Any]:
    """The table of the contests as Dagster shows it."""
    table = [
        {
            "": f"{one['first']} against {one['second']}".replace("_", "-"),
            "judge": one["judge"],
            "wins": one["wins"],
            "losses": one["losses"],
            "ties": one["ties"],
            "Δ": f"{one['delta']:+.1%} [{one['interval'][0]:+.1%}, {one['interval'][1]:+.1%}]",
        }
        for one in win_rates(rows)
    ]
    return {"win_rates": dg.MetadataValue.md(markdown_table(table))}


def _draft(judge: str, contest: Contest, preferred: float, model_id: str | None = None) -> Draft:
    return Draft(
        content={
            "first": contest.first,
            "second": contest.second,
            "judge": judge,
            "question": contest.question,
            "source_file": contest.place[0],
            "source_line": contest.place[1],
            "first_id": contest.ids[0],
            "second_id": contest.ids[1],
            "first_text": contest.texts[0],
            "second_text": contest.texts[1],
            "outcome": outcome(preferred),
        },
        parents=[
            *(Parent(one, "compared") for one in dict.fromkeys(contest.ids) if one is not None),
            *([Parent(model_id, "judged_by")] if model_id else []),
        ],
        measures={"preferred": preferred},
    )
