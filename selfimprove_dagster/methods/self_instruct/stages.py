"""Self-Instruct: a pool of tasks that grows by what the model adds to it. Group `self_instruct`.

seed_pool → raw_generations → candidate_tasks → perplexity_scores → similarity_scores → accepted_tasks →
classified_tasks → instance_generations → task_instances → filtered_dataset → (shared stages)
"""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.tasks.pool import bans
from selfimprove_dagster.families.tasks.stages import pool_metadata, pool_stage, score_instructions
from selfimprove_dagster.families.trained.stages import training_stages
from selfimprove_dagster.filters.novelty import Verdict
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
    TABLES,
)
from selfimprove_dagster.stage import Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import Request

seed_pool = pool_stage(SI_SEED_POOL, SI_POOL_DECISIONS)


@stage(
    SI_RAW_GENERATIONS,
    after=["seed_pool"],
    description="Lists of tasks that the model went on with: each prompt shows eight tasks of the pool, six "
    "by people and two of the model's own.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[SelfInstructExperiment]) -> Result:
    section = context.experiment.generation
    pool_manifest, pool = context.read(SI_SEED_POOL)
    requests = _generation_requests(context, pool)
    manifest, shown = context.complete(
        [pool_manifest],
        {"generation": section.model_dump()},
        requests,
        size=section.shard,
    )
    drawn = context.lake.read_ungated(manifest)
    return context.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **shown,
            "prompts": len(requests),
            "cut_off_share": number((drawn["finish_reason"] == "length").mean()),
        },
    )


def _generation_requests(context: StageContext[SelfInstructExperiment], pool: pl.DataFrame) -> list[Request]:
    section = context.experiment.generation
    human, machine = (
        pool.filter(origin=origin).select("id", "instruction").rows() for origin in ("human", "machine")
    )
    requests = []
    for index in range(section.prompts):
        lot = seed_of(context.experiment.seed, "demonstrations", context.iteration, index)
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


@stage(
    SI_CANDIDATE_TASKS,
    after=["raw_generations"],
    description="The tasks read out of each list, with their place in its text. A better reading is applied "
    "to all lists without drawing them again.",
)
def candidate_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    drawn_manifest, drawn = context.read(SI_RAW_GENERATIONS)
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
    manifest = context.store(context.activity(inputs=[drawn_manifest], parameters={}), drafts)
    problems = pl.Series([draft.content["problem"] for draft in drafts], dtype=pl.String)
    return context.result(
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
    SI_PERPLEXITY_SCORES, SI_CANDIDATE_TASKS, prompts.generation_prompt([])
)


@stage(
    SI_SIMILARITY_SCORES,
    after=["candidate_tasks", "perplexity_scores", "seed_pool"],
    description="ROUGE-L of each candidate that passes the other rules to the whole pool, in order: one that "
    "is near to a task of the pool is out, any other joins the pool at once. The ten nearest are kept.",
)
def similarity_scores(context: StageContext[SelfInstructExperiment]) -> Result:
    inputs, candidates, _ = _ruled(context)
    pool_manifest, pool = context.read(SI_SEED_POOL)
    section = context.experiment.filter
    with ProgressReport(context.table.name, len(candidates), "tasks", context.log) as report:
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
    activity = context.activity(
        inputs=[*inputs, pool_manifest], parameters={"maximum_rouge_l": novelty_threshold(section)}
    )
    manifest = context.store(activity, drafts)
    highest = [found.neighbours[0][1] for found in admission.verdicts.values() if found.neighbours]
    return context.result(
        manifest,
        preview=["candidate_id", "kept", "neighbours"],
        metadata={
            "pool_before": len(pool),
            "pool_after": members,
            "mean_highest_rouge_l": number(pl.Series(highest, dtype=pl.Float64).mean()),
        },
    )


def _ruled(
    context: StageContext[SelfInstructExperiment],
) -> tuple[list[Manifest], pl.DataFrame, pl.DataFrame]:
    """What was read, the candidates that pass every rule but novelty, and the decisions on all."""
    candidates_manifest, candidates = context.read(SI_CANDIDATE_TASKS)
    scores_manifest, scores = context.read(SI_PERPLEXITY_SCORES)
    kept, decisions = apply_rules(candidates, scores, context.experiment.filter, bans(context.experiment))
    return [candidates_manifest, scores_manifest], kept, decisions


@stage(
    SI_TASK_DECISIONS,
    SI_ACCEPTED_TASKS,
    after=["similarity_scores"],
    description="The candidates that pass every rule: they join the pool of the next iteration. Each rule's "
    "word on each candidate stands in self_instruct/task_decisions.",
)
def accepted_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    inputs, candidates, decisions = _ruled(context)
    scores_manifest, scores = context.read(SI_SIMILARITY_SCORES)
    frame = candidates.join(
        scores.select("candidate_id", "kept", "neighbours", similarity_id="id"),
        on="candidate_id",
        maintain_order="left",
    )
    kept, on_novelty = apply_novelty(frame, _recorded(frame), context.experiment.filter)
    decisions = pl.concat([decisions, on_novelty])
    inputs = [*inputs, scores_manifest]
    activity = context.activity(inputs=inputs, parameters={"filter": context.experiment.filter.model_dump()})
    context.store_decisions(SI_TASK_DECISIONS, decisions, inputs[:1], activity.id)
    drafts = [
        Draft(
            content={"instruction": row["instruction"], "candidate_id": row["candidate_id"]},
            parents=[Parent(row["candidate_id"], "accepted"), Parent(row["similarity_id"], "scored")],
            measures={"rouge_l": _highest(row), "perplexity": row["perplexity"]},
        )
        for row in kept.iter_rows(named=True)
    ]
    manifest = context.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    tried = decisions["candidate_id"].n_unique()
    return context.result(
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


STAGES = [
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
    *training_stages(TABLES),
]
