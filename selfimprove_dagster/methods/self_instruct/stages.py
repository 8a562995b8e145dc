"""Self-Instruct: a pool of tasks that grows by what the model adds to it. Group `self_instruct`.

seed_pool → raw_generations → candidate_tasks → perplexity_scores → similarity_scores → accepted_tasks →
classified_tasks → instance_generations → task_instances → filtered_dataset → (shared stages)
"""

from __future__ import annotations

import dagster as dg
import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.assets.factory import number, stage_asset
from selfimprove_dagster.families.tasks.pool import bans
from selfimprove_dagster.families.tasks.stages import pool_metadata, pool_stage, score_instructions
from selfimprove_dagster.families.trained.stages import training_stages
from selfimprove_dagster.filters.novelty import Verdict
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.self_instruct import parsing, prompts
from selfimprove_dagster.methods.self_instruct.admission import (
    Admission,
    admit,
    apply_novelty,
    apply_rules,
    novelty_threshold,
)
from selfimprove_dagster.methods.self_instruct.instance_stages import (
    classified_tasks,
    filtered_dataset,
    instance_generations,
    task_instances,
)
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_ACCEPTED_TASKS,
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_POOL_DECISIONS,
    SI_RAW_GENERATIONS,
    SI_SEED_POOL,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
)
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.stage import Stage, store_decisions
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import Request

seed_pool = pool_stage(SI_SEED_POOL, SI_POOL_DECISIONS, SelfInstructExperiment)


@stage_asset(
    SI_RAW_GENERATIONS,
    deps=[SI_SEED_POOL],
    description="Lists of tasks that the model went on with: each prompt shows eight tasks of the pool, six "
    "by people and two of the model's own.",
    kinds={"parquet", "pytorch"},
    holds_model=True,
)
def raw_generations(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, SI_RAW_GENERATIONS, SelfInstructExperiment)
    section = stage.experiment.generation
    pool_manifest, pool = stage.read(SI_SEED_POOL)
    requests = _generation_requests(stage, pool)
    manifest, shown = stage.complete(
        language_model,
        [pool_manifest],
        {"generation": section.model_dump()},
        requests,
        size=section.shard,
    )
    drawn = stage.lake.read_ungated(manifest)
    return stage.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **shown,
            "prompts": len(requests),
            "cut_off_share": number((drawn["finish_reason"] == "length").mean()),
        },
    )


def _generation_requests(stage: Stage[SelfInstructExperiment], pool: pl.DataFrame) -> list[Request]:
    section = stage.experiment.generation
    human, machine = (
        pool.filter(origin=origin).select("id", "instruction").rows() for origin in ("human", "machine")
    )
    requests = []
    for index in range(section.prompts):
        lot = seed_of(stage.experiment.seed, "demonstrations", stage.iteration, index)
        shown = prompts.choose_demonstrations(human, machine, lot, section.human, section.machine)
        requests.append(
            Request(
                key=str(index),
                prompt=prompts.generation_prompt([instruction for _, instruction in shown]),
                content={"first_number": len(shown) + 1},
                parents=[Parent(task, "demonstration") for task, _ in shown],
            )
        )
    return requests


@stage_asset(
    SI_CANDIDATE_TASKS,
    deps=[SI_RAW_GENERATIONS],
    description="The tasks read out of each list, with their place in its text. A better reading is applied "
    "to all lists without drawing them again.",
)
def candidate_tasks(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, SI_CANDIDATE_TASKS, SelfInstructExperiment)
    drawn_manifest, drawn = stage.read(SI_RAW_GENERATIONS)
    drafts = [
        Draft(
            content={
                "completion_id": row["id"],
                "instruction": task.instruction,
                "start": task.start,
                "end": task.end,
                "problem": task.dropped,
            },
            parents=[Parent(row["id"], "parsed_from")],
            sample_index=place,
        )
        for row in drawn.iter_rows(named=True)
        for place, task in enumerate(
            parsing.parse_tasks(row["text"], row["finish_reason"], row["first_number"])
        )
    ]
    manifest = stage.store(stage.activity(inputs=[drawn_manifest], parameters={}), drafts)
    problems = pl.Series([draft.content["problem"] for draft in drafts], dtype=pl.String)
    return stage.result(
        manifest,
        preview=["instruction", "problem"],
        metadata={
            "lists": len(drawn),
            "tasks": int(problems.is_null().sum()),
            **{
                f"not_a_task_{reason}": count for reason, count in problems.drop_nulls().value_counts().rows()
            },
        },
    )


perplexity_scores = score_instructions(
    SI_PERPLEXITY_SCORES, SI_CANDIDATE_TASKS, SelfInstructExperiment, prompts.generation_prompt([])
)


@stage_asset(
    SI_SIMILARITY_SCORES,
    deps=[SI_CANDIDATE_TASKS, SI_PERPLEXITY_SCORES, SI_SEED_POOL],
    description="ROUGE-L of each candidate that passes the other rules to the whole pool, in order: one that "
    "is near to a task of the pool is out, any other joins the pool at once. The ten nearest are kept.",
)
def similarity_scores(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, SI_SIMILARITY_SCORES, SelfInstructExperiment)
    inputs, candidates, _ = _ruled(stage)
    pool_manifest, pool = stage.read(SI_SEED_POOL)
    section = stage.experiment.filter
    with ProgressReport(stage.schema.name, len(candidates), "tasks", stage.log) as report:
        admission = admit(pool, candidates, section, report.advance)
    members = len(pool)
    drafts = []
    for candidate, verdict in admission.verdicts.items():
        near = [{"id": admission.ids[index], "rouge_l": score} for index, score in verdict.neighbours]
        drafts.append(
            Draft(
                content={
                    "candidate_id": candidate,
                    "kept": verdict.kept,
                    "pool": members,
                    "neighbours": near,
                },
                parents=[Parent(candidate, "scored")],
            )
        )
        members += verdict.kept
    activity = stage.activity(
        inputs=[*inputs, pool_manifest], parameters={"maximum_rouge_l": novelty_threshold(section)}
    )
    manifest = stage.store(activity, drafts)
    highest = [found.neighbours[0][1] for found in admission.verdicts.values() if found.neighbours]
    return stage.result(
        manifest,
        preview=["candidate_id", "kept", "neighbours"],
        metadata={
            "pool_before": len(pool),
            "pool_after": members,
            "mean_highest_rouge_l": number(pl.Series(highest, dtype=pl.Float64).mean()),
        },
    )


def _ruled(stage: Stage[SelfInstructExperiment]) -> tuple[list[Manifest], pl.DataFrame, pl.DataFrame]:
    """What was read, the candidates that pass every rule but novelty, and the decisions on all."""
    candidates_manifest, candidates = stage.read(SI_CANDIDATE_TASKS)
    scores_manifest, scores = stage.read(SI_PERPLEXITY_SCORES)
    kept, decisions = apply_rules(candidates, scores, stage.experiment.filter, bans(stage.experiment))
    return [candidates_manifest, scores_manifest], kept, decisions


@stage_asset(
    SI_ACCEPTED_TASKS,
    deps=[SI_SIMILARITY_SCORES],
    description="The candidates that pass every rule: they join the pool of the next iteration. Each rule's "
    "word on each candidate stands in self_instruct/task_decisions.",
)
def accepted_tasks(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, SI_ACCEPTED_TASKS, SelfInstructExperiment)
    inputs, candidates, decisions = _ruled(stage)
    scores_manifest, scores = stage.read(SI_SIMILARITY_SCORES)
    frame = candidates.join(
        scores.select("candidate_id", "kept", "neighbours", similarity_id="id"),
        on="candidate_id",
        maintain_order="left",
    )
    kept, on_novelty = apply_novelty(frame, _recorded(frame), stage.experiment.filter)
    decisions = pl.concat([decisions, on_novelty])
    inputs = [*inputs, scores_manifest]
    activity = stage.activity(inputs=inputs, parameters={"filter": stage.experiment.filter.model_dump()})
    store_decisions(stage, SI_TASK_DECISIONS, decisions, inputs[:1], activity.id)
    drafts = [
        Draft(
            content={"instruction": row["instruction"], "candidate_id": row["candidate_id"]},
            parents=[Parent(row["candidate_id"], "accepted"), Parent(row["similarity_id"], "scored")],
            measures={"rouge_l": _highest(row), "perplexity": row["perplexity"]},
        )
        for row in kept.iter_rows(named=True)
    ]
    manifest = stage.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    tried = decisions["candidate_id"].n_unique()
    return stage.result(
        manifest,
        preview=["instruction", "rouge_l", "perplexity"],
        metadata={
            "candidates": tried,
            "yield": number(manifest.rows / max(tried, 1)),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            **pool_metadata([draft.content["instruction"] for draft in drafts]),
        },
    )


def _recorded(scored: pl.DataFrame) -> Admission:
    """The verdicts of `similarity_scores`, each with its nearest members."""
    ids: dict[str, int] = {}
    verdicts = {
        row["candidate_id"]: Verdict(
            row["kept"],
            tuple((ids.setdefault(near["id"], len(ids)), near["rouge_l"]) for near in row["neighbours"]),
        )
        for row in scored.iter_rows(named=True)
    }
    return Admission(verdicts, list(ids))


def _highest(row: Row) -> float:
    return float(row["neighbours"][0]["rouge_l"]) if row["neighbours"] else 0.0


self_instruct_assets = [
    seed_pool,
    raw_generations,
    candidate_tasks,
    perplexity_scores,
    similarity_scores,
    accepted_tasks,
    classified_tasks,
    instance_generations,
    task_instances,
    filtered_dataset,
    *training_stages("self_instruct", tables.of("self_instruct", "filtered_dataset")),
]
