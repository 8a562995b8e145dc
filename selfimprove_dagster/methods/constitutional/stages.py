"""Constitutional AI, its supervised half: a model that learns its own revisions. Group `constitutional`.

seed_pool → raw_generations → critiques ⇄ revisions → example_perplexities and
example_ratings → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from selfimprove_dagster.drawing import recorded_sampling
from selfimprove_dagster.families.dialogues.files import RED_TEAM
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.dialogues.revising import Draw, Record, Response, revise
from selfimprove_dagster.families.dialogues.stages import drawn_responses
from selfimprove_dagster.families.scored.stages import perplexity_stage, rating_stage, scores_of
from selfimprove_dagster.families.trained.filtered import Candidates, filter_parameters, map_filtered
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.methods.constitutional import constitutional
from selfimprove_dagster.methods.constitutional.constitutional import HELPFUL, REVISION
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_EXAMPLE_PERPLEXITIES,
    CAI_EXAMPLE_RATINGS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
    TABLES,
)
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Shard, completer, sampling_of
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
    pool_manifest, pool = context.scan(CAI_SEED_POOL)
    first_manifest, first = context.scan(CAI_RAW_GENERATIONS)
    asked = pool.filter(kind=RED_TEAM).select("prompt", prompt_id="id")
    settings = {
        "revisions": section.model_dump(),
        "constitution": {"hash": constitution.hash, "name": constitution.name},
    }
    sampling = {
        table.stage: asdict(recorded_sampling(table, settings, context.prompts))
        for table in (CAI_CRITIQUES, CAI_REVISIONS)
    }
    inputs = [pool_manifest, first_manifest]
    with context.language_model.open(experiment.model, context.generator.path) as model:
        critiques_activity = beside.drawing(model, inputs, settings)
        activity = context.drawing(model, inputs, {**settings, "critiques": critiques_activity.id})
        critiques_manifest, manifest, spent = context.map_together(
            first.select("id", "prompt_id", "text").join(asked, on="prompt_id", maintain_order="left"),
            Spec.of(criticise_and_revise, sampling=sampling),
            activity,
            (CAI_CRITIQUES, critiques_activity),
            size=section.shard,
            unit="critiques and revisions",
            each=2 * section.rounds,
            opened=model,
        )
    shown = {**context.drawn_metadata(activity, spent), "constitution": constitution.name}
    drawn = Counter(name for rows in context.batches(manifest, "principle") for name in rows["principle"])
    principles = {f"principle_{name}": count for name, count in drawn.most_common()}
    columns = ["round", "principle", "text"]
    return (
        beside.result(critiques_manifest, columns, principles),
        context.result(manifest, columns, shown),
    )


def criticise_and_revise(
    shard: Shard[ConstitutionalExperiment, Row], *, sampling: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Draft], list[Draft]]:
    """The critiques and the revisions of all rounds of some responses (`id`, `prompt_id`, `prompt`, `text`).

    `sampling` is that of each of the two tables, by its stage.
    """
    assert shard.beside is not None

    def drawing(table: Table) -> Draw:
        draw = completer(shard.model, sampling_of(sampling[table.stage]), shard.seeds_from)
        return lambda requests: draw(requests, shard.report)

    critiques: list[Draft] = []
    revisions: list[Draft] = []
    revise(
        [Response(**row) for row in shard.items],
        shard.experiment.constitution.load(),
        shard.experiment.revisions.rounds,
        shard.seeds_from,
        shard.prompts,
        drawing(CAI_CRITIQUES),
        drawing(CAI_REVISIONS),
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


def choose(
    shard: Shard[ConstitutionalExperiment, Row], *, chosen_round: int, revisions: int
) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on candidates, and the examples that are made of those which every rule keeps."""
    kept, decisions = constitutional.decide_on_revisions(
        shard.frame,
        chosen_round=chosen_round,
        helpful_share=shard.experiment.filter.helpful_share,
        revisions=revisions,
    )
    drafts = [
        Draft(
            content={
                "question": row["prompt"],
                "format": row["format"],
                "prompt": shard.prompts.ask("response", **spoken(row["prompt"])),
                "completion": shard.prompts.completion("response", row["text"].strip()),
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
    return decision_drafts(decisions, CAI_FILTERED_DATASET), drafts


def candidates(context: StageContext[ConstitutionalExperiment]) -> Candidates:
    """Return the revisions and responses that the dataset is made of."""
    section, chosen = context.experiment.filter, chosen_round(context.experiment)
    pool_manifest, pool = context.scan(CAI_SEED_POOL)
    first_manifest, first = context.scan(CAI_RAW_GENERATIONS)
    revisions_manifest, revised = context.scan(CAI_REVISIONS)
    found = constitutional.revision_candidates(pool, first, revised, section.human_responses)
    ranks = constitutional.rank(found, chosen_round=chosen, seed=context.experiment.seed)
    return Candidates(
        inputs=[pool_manifest, first_manifest, revisions_manifest],
        items=constitutional.with_ranks(found, ranks),
        choose=Spec.of(choose, chosen_round=chosen, revisions=constitutional.revisions_in(ranks)),
    )


def chosen_round(experiment: ConstitutionalExperiment) -> int:
    """Return the round whose revisions are trained on."""
    return experiment.revisions.rounds if experiment.filter.round is None else experiment.filter.round


example_perplexities = perplexity_stage(CAI_EXAMPLE_PERPLEXITIES, candidates, after=["revisions"])

example_ratings = rating_stage(CAI_EXAMPLE_RATINGS, candidates, after=["revisions"])


@stage(
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    after=["revisions", "example_perplexities", "example_ratings"],
    description="The training examples: red-team prompts with the revisions of one round, mixed with helpful "
    "prompts and their responses. The decisions on each candidate are in constitutional/decisions.",
)
def filtered_dataset(context: StageContext[ConstitutionalExperiment]) -> Result:
    found = candidates(context)
    scored, scores = scores_of(context, CAI_EXAMPLE_PERPLEXITIES, CAI_EXAMPLE_RATINGS)
    inputs = [*found.inputs, *scored]
    filters = filter_parameters(context.experiment)
    activity = context.activity(
        inputs=inputs,
        parameters={
            "filter": context.experiment.filter.model_dump(),
            "round": chosen_round(context.experiment),
            **filters["parameters"],
        },
        about=filters["about"],
    )
    decisions, manifest = map_filtered(
        context,
        found.items,
        found.choose,
        activity,
        (CAI_DECISIONS, context.deciding(CAI_DECISIONS, inputs, activity.id)),
        scores=scores,
    )
    form = pl.col("format")
    return context.result(
        manifest,
        preview=["format", "prompt", "completion"],
        metadata={
            **context.measure(decisions, candidates=pl.col("candidate_id").n_unique()),
            **context.measure(
                manifest,
                revision_examples=(form == REVISION).sum(),
                helpful_examples=(form == HELPFUL).sum(),
            ),
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


STAGES = [
    seed_pool,
    raw_generations,
    revisions,
    example_perplexities,
    example_ratings,
    filtered_dataset,
    *training_stages(TABLES, report=dialogue_evaluation_report),
]
