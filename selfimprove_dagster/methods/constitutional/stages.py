"""Constitutional AI, its supervised half: a model that learns its own revisions. Group `constitutional`.

seed_pool → raw_generations → critiques ⇄ revisions → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl

from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.trained.stages import drawn_pool, drawn_responses, training_stages
from selfimprove_dagster.lake.records import Draft, Parent, build_records
from selfimprove_dagster.method import stage
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
from selfimprove_dagster.recorded_sampling import recorded_sampling
from selfimprove_dagster.stage import Result, StageContext
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import completer, in_shards

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
    seeds_from = (experiment.seed, context.iteration)
    with context.language_model.open(experiment.model, context.generator.path) as model:
        critiques_activity = beside.drawing(model, inputs, settings)
        activity = context.drawing(model, inputs, {**settings, "critiques": critiques_activity.id})
        draw = completer(model, recorded_sampling(context.table.name, settings), seeds_from)
        with (
            context.lake.writer(beside.table, critiques_activity) as critique_writer,
            context.lake.writer(context.table, activity) as writer,
        ):

            def work(shard: Sequence[tuple[int, Response]], report: ProgressReport) -> list[Draft]:
                drawn: list[Draft] = []

                def record_revisions(drafts: Sequence[Draft]) -> pl.DataFrame:
                    drawn.extend(drafts)
                    return build_records(context.table, drafts, activity)

                written, _ = revise(
                    [response for _, response in shard],
                    constitution,
                    section.rounds,
                    seeds_from,
                    lambda requests: draw(requests, report),
                    partial(build_records, beside.table, activity=critiques_activity),
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
                log=context.log,
                allowance=context.allowance,
            )
            critiques_manifest = critique_writer.commit({"seconds": 0.0})
            manifest = writer.commit({"seconds": context.seconds, **vars(spent)})
    shown = {**context.drawn_metadata(activity, spent), "constitution": constitution.name}
    by_principle = context.lake.read_ungated(manifest)["principle"].value_counts(sort=True, name="drawn")
    principles = {f"principle_{name}": count for name, count in by_principle.iter_rows()}
    columns = ["round", "principle", "text"]
    return (
        beside.result(critiques_manifest, columns, principles),
        context.result(manifest, columns, shown),
    )


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
    *training_stages("constitutional", CAI_FILTERED_DATASET, report=dialogue_evaluation_report),
]
