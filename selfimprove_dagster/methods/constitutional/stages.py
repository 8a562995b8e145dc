"""Constitutional AI, its supervised half: a model that learns its own revisions. Group `constitutional`.

seed_pool → raw_generations → critiques ⇄ revisions → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.dialogues.revising import Record, Response, revise
from selfimprove_dagster.families.dialogues.stages import drawn_responses
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.methods.constitutional import constitutional
from selfimprove_dagster.methods.constitutional.constitutional import revision_candidates
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
    TABLES,
)
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.shards import Shard, completer, recorded_sampling, sampling_of
from selfimprove_dagster.work.spec import Spec

seed_pool = drawn_pool(
    CAI_SEED_POOL,
    "The prompts of this iteration: red-team prompts, and helpful ones. Those that no earlier iteration used "
    "come first.",
)


raw_generations = drawn_responses(
    CAI_RAW_GENERATIONS,
    CAI_SEED_POOL,
    "The model's first responses, helpful and often harmful.",
)


@stage(
    CAI_CRITIQUES,
    CAI_REVISIONS,
    after=["raw_generations"],
    description=[
        "The model's critiques of its responses, one a round, each by a principle drawn at random.",
        "The model's revisions after each critique; the next round's critique is of the revision.",
    ],
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def revisions(context: StageContext[ConstitutionalExperiment]) -> tuple[Result, Result]:
    beside = context.beside(CAI_CRITIQUES)
    experiment, section = context.experiment, context.experiment.revisions
    constitution = experiment.constitution.load()
    pool_manifest, pool = context.read(CAI_SEED_POOL)
    first_manifest, first = context.read(CAI_RAW_GENERATIONS)
    asked = pool.filter(kind=RED_TEAM).select("prompt", prompt_id="id")
    responses = [
        Response(*row)
        for row in asked.join(first.select("prompt_id", "text", "id"), on="prompt_id", maintain_order="left")
        .select("id", "prompt_id", "prompt", "text")
        .iter_rows()
    ]
    settings = {
        "revisions": section.model_dump(),
        "constitution": {"hash": constitution.hash, "name": constitution.name},
    }
    inputs = [pool_manifest, first_manifest]
    with context.language_model.open(experiment.model, context.generator.path) as model:
        critiques_activity = beside.drawing(model, inputs, settings)
        activity = context.drawing(model, inputs, {**settings, "critiques": critiques_activity.id})
        critiques_manifest, manifest, spent = context.map_together(
            responses,
            Spec.of(criticise_and_revise, sampling=asdict(recorded_sampling(context.table, settings))),
            activity,
            (CAI_CRITIQUES, critiques_activity),
            size=section.shard,
            unit="critiques and revisions",
            each=lambda response: 2 * section.rounds,
            opened=model,
        )
    shown = {**context.drawn_metadata(activity, spent), "constitution": constitution.name}
    by_principle = context.lake.read_ungated(manifest)["principle"].value_counts(sort=True, name="drawn")
    principles = {f"principle_{name}": count for name, count in by_principle.iter_rows()}
    columns = ["round", "principle", "text"]
    return (
        beside.result(critiques_manifest, columns, principles),
        context.result(manifest, columns, shown),
    )


def criticise_and_revise(
    shard: Shard[ConstitutionalExperiment, Response], *, sampling: Mapping[str, Any]
) -> tuple[list[Draft], list[Draft]]:
    """The critiques and the revisions of all rounds of some responses."""
    assert shard.beside is not None
    draw = completer(shard.model, sampling_of(sampling), shard.seeds_from)
    critiques: list[Draft] = []
    revisions: list[Draft] = []
    revise(
        shard.items,
        shard.experiment.constitution.load(),
        shard.experiment.revisions.rounds,
        shard.seeds_from,
        lambda requests: draw(requests, shard.report),
        recorder(CAI_CRITIQUES, shard.beside, critiques),
        recorder(CAI_REVISIONS, shard.activity, revisions),
    )
    return critiques, revisions


def recorder(table: Table, activity: Activity, kept: list[Draft]) -> Record:
    """A function that gives drafts their ids, and keeps the drafts."""

    def record(drafts: Sequence[Draft]) -> pl.DataFrame:
        kept.extend(drafts)
        return build_records(table, drafts, activity)

    return record


@stage(
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    after=["revisions"],
    description="The training examples: red-team prompts with the revisions of one round, mixed with helpful "
    "prompts and their responses. Each rule's word on each candidate stands in constitutional/decisions.",
)
def filtered_dataset(context: StageContext[ConstitutionalExperiment]) -> Result:
    section = context.experiment.filter
    pool_manifest, pool = context.read(CAI_SEED_POOL)
    first_manifest, first = context.read(CAI_RAW_GENERATIONS)
    revisions_manifest, revised = context.read(CAI_REVISIONS)
    candidates = revision_candidates(pool, first, revised, section.human_responses)
    chosen = context.experiment.revisions.rounds if section.round is None else section.round
    kept, decisions = constitutional.filter_revisions(
        candidates, chosen_round=chosen, helpful_share=section.helpful_share, seed=context.experiment.seed
    )
    activity = context.activity(
        inputs=[pool_manifest, first_manifest, revisions_manifest],
        parameters={"filter": section.model_dump(), "round": chosen},
    )
    context.store_decisions(
        CAI_DECISIONS, decisions, [pool_manifest, first_manifest, revisions_manifest], activity.id
    )
    drafts = [
        Draft(
            content={
                "question": row["prompt"],
                "format": row["format"],
                "prompt": dialogue_prompt(row["prompt"]),
                "completion": f" {row['text'].strip()}",
                "prompt_id": row["prompt_id"],
                "round": row["round"],
            },
            parents=[
                Parent(row["prompt_id"], "prompt"),
                *(
                    [Parent(row["candidate_id"], "completion")]
                    if row["candidate_id"] != row["prompt_id"]
                    else []
                ),
            ],
        )
        for row in kept.iter_rows(named=True)
    ]
    manifest = context.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    formats = kept["format"].value_counts(sort=True)
    return context.result(
        manifest,
        preview=["format", "prompt", "completion"],
        metadata={
            "candidates": candidates.height,
            **{f"{name}_examples": count for name, count in formats.iter_rows()},
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


STAGES = [
    seed_pool,
    raw_generations,
    revisions,
    filtered_dataset,
    *training_stages(TABLES, report=dialogue_evaluation_report),
]
