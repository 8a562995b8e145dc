"""Constitutional AI, its supervised half: a model that learns its own revisions. Group `constitutional`.

seed_pool → raw_generations → critiques ⇄ revisions → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import dagster as dg
import polars as pl

from selfimprove_dagster.assets.factory import alternating_stages, preview_records, stage_asset
from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.trained.stages import drawn_pool, drawn_responses, training_stages
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import Draft, Parent, build_records
from selfimprove_dagster.methods.constitutional import constitutional
from selfimprove_dagster.methods.constitutional.constitutional import revision_candidates
from selfimprove_dagster.methods.constitutional.revising import Response, revise
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.stage import Stage, store_decisions
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import completer, in_shards, recorded_sampling

seed_pool = drawn_pool(
    CAI_SEED_POOL,
    ConstitutionalExperiment,
    "The prompts of this iteration: red-team prompts, and helpful ones. Those that no earlier iteration used "
    "come first.",
)


raw_generations = drawn_responses(
    CAI_RAW_GENERATIONS,
    CAI_SEED_POOL,
    ConstitutionalExperiment,
    "The model's first responses, helpful and often harmful.",
)


@alternating_stages(
    [CAI_CRITIQUES, CAI_REVISIONS],
    deps=[CAI_RAW_GENERATIONS],
    descriptions=[
        "The model's critiques of its responses, one a round, each by a principle drawn at random.",
        "The model's revisions after each critique; the next round's critique is of the revision.",
    ],
    kinds={"parquet", "pytorch"},
)
def revisions(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
) -> tuple[dg.MaterializeResult, dg.MaterializeResult]:
    stage = Stage.begin(context, home, CAI_REVISIONS, ConstitutionalExperiment)
    beside = stage.beside(CAI_CRITIQUES)
    experiment, section = stage.experiment, stage.experiment.revisions
    constitution = experiment.constitution.load()
    pool_manifest, pool = stage.read(CAI_SEED_POOL)
    first_manifest, first = stage.read(CAI_RAW_GENERATIONS)
    asked = pool.filter(kind=RED_TEAM).select("prompt", prompt_id="id")
    responses = [
        (number, Response(*row))
        for number, row in enumerate(
            asked.join(first.select("prompt_id", "text", "id"), on="prompt_id", maintain_order="left")
            .select("id", "prompt_id", "prompt", "text")
            .iter_rows()
        )
    ]
    settings = {
        "revisions": section.model_dump(),
        "constitution": {"hash": constitution.hash, "name": constitution.name},
    }
    inputs = [pool_manifest, first_manifest]
    seeds_from = (experiment.seed, stage.iteration)
    with language_model.open(experiment.model, stage.generator.path) as model:
        critiques_activity = beside.drawing(model, inputs, settings)
        activity = stage.drawing(model, inputs, {**settings, "critiques": critiques_activity.id})
        draw = completer(model, recorded_sampling(stage.schema, settings), seeds_from)
        with (
            stage.lake.writer(beside.schema, critiques_activity) as critique_writer,
            stage.lake.writer(stage.schema, activity) as writer,
        ):

            def work(shard: Sequence[tuple[int, Response]], report: ProgressReport) -> list[Draft]:
                drawn: list[Draft] = []

                def record_revisions(drafts: Sequence[Draft]) -> pl.DataFrame:
                    drawn.extend(drafts)
                    return build_records(stage.schema, drafts, activity)

                written, _ = revise(
                    [response for _, response in shard],
                    constitution,
                    section.rounds,
                    seeds_from,
                    lambda requests: draw(requests, report),
                    partial(build_records, beside.schema, activity=critiques_activity),
                    record_revisions,
                )
                # Before the revisions that name them, which are what says that the shard is done.
                critique_writer.write_shard(
                    shard[0][0] // section.shard if shard else 0, written, overwrite=True
                )
                return drawn

            spent = in_shards(
                writer,
                responses,
                work,
                size=section.shard,
                unit="critiques and revisions",
                each=lambda item: 2 * section.rounds,
                log=stage.log,
                allowance=stage.allowance,
            )
            critiques_manifest = critique_writer.commit({"seconds": 0.0})
            manifest = writer.commit({"seconds": stage.seconds, **vars(spent)})
    shown = {**stage.drawn_metadata(activity, spent), "constitution": constitution.name}
    by_principle = stage.lake.read_ungated(manifest)["principle"].value_counts(sort=True, name="drawn")
    principles = {f"principle_{name}": count for name, count in by_principle.iter_rows()}
    columns = ["round", "principle", "text"]
    return (
        beside.result(critiques_manifest, columns, principles),
        stage.result(manifest, columns, shown),
    )


@stage_asset(
    CAI_FILTERED_DATASET,
    deps=[CAI_REVISIONS],
    description="The training examples: red-team prompts with the revisions of one round, mixed with helpful "
    "prompts and their responses. Each rule's word on each candidate stands in constitutional/decisions.",
)
def filtered_dataset(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, CAI_FILTERED_DATASET, ConstitutionalExperiment)
    section = stage.experiment.filter
    pool_manifest, pool = stage.read(CAI_SEED_POOL)
    first_manifest, first = stage.read(CAI_RAW_GENERATIONS)
    revisions_manifest, revised = stage.read(CAI_REVISIONS)
    candidates = revision_candidates(pool, first, revised, section.human_responses)
    chosen = stage.experiment.revisions.rounds if section.round is None else section.round
    kept, decisions = constitutional.filter_revisions(
        candidates, chosen_round=chosen, helpful_share=section.helpful_share, seed=stage.experiment.seed
    )
    activity = stage.activity(
        inputs=[pool_manifest, first_manifest, revisions_manifest],
        parameters={"filter": section.model_dump(), "round": chosen},
    )
    store_decisions(
        stage, CAI_DECISIONS, decisions, [pool_manifest, first_manifest, revisions_manifest], activity.id
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
    manifest = stage.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    formats = kept["format"].value_counts(sort=True)
    return stage.result(
        manifest,
        preview=["format", "prompt", "completion"],
        metadata={
            "candidates": candidates.height,
            **{f"{name}_examples": count for name, count in formats.iter_rows()},
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": stage.lineage_page,
            "preview_records": dg.MetadataValue.md(preview_records(stage.lake, manifest)),
        },
    )


constitutional_assets = [
    seed_pool,
    raw_generations,
    revisions,
    filtered_dataset,
    *training_stages("constitutional", CAI_FILTERED_DATASET, report=dialogue_evaluation_report),
]
