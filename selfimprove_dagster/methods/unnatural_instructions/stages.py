"""Unnatural Instructions: three demonstrations elicit a fourth. Group `unnatural_instructions`.

seed_pool → raw_generations → candidate_tasks → accepted_tasks → task_outputs and paraphrases →
filtered_dataset → (shared stages)
"""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.families.tasks.pool import bans
from selfimprove_dagster.families.tasks.rules import not_banned, not_held_out, output_not_empty
from selfimprove_dagster.families.tasks.stages import pool_metadata, pool_stage, store_examples
from selfimprove_dagster.families.trained.stages import training_stages
from selfimprove_dagster.filters.rules import apply_filters, could_be_read
from selfimprove_dagster.home.exams import held_out_keys
from selfimprove_dagster.lake.records import Draft, Parent, content_hash
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions as method
from selfimprove_dagster.methods.unnatural_instructions.settings import UnnaturalInstructionsExperiment
from selfimprove_dagster.methods.unnatural_instructions.tables import (
    TABLES,
    UI_ACCEPTED_TASKS,
    UI_CANDIDATE_TASKS,
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    UI_PARAPHRASES,
    UI_POOL_DECISIONS,
    UI_RAW_GENERATIONS,
    UI_SEED_POOL,
    UI_TASK_DECISIONS,
    UI_TASK_OUTPUTS,
)
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import (
    ElicitedTask,
    example_key,
)
from selfimprove_dagster.stage import Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import normalise_question
from selfimprove_dagster.work.shards import Request
from selfimprove_dagster.work.spec import Spec

seed_pool = pool_stage(UI_SEED_POOL, UI_POOL_DECISIONS)


def _elicited(row: Row) -> ElicitedTask:
    """A task of the pool; one that an iteration added has its input as its only instance."""
    (instance,) = row["instances"] or ({"input": "", "output": None},)
    return ElicitedTask(
        row["instruction"], instance["input"] or "", row["constraints"] or method.NO_CONSTRAINTS
    )


@stage(
    UI_RAW_GENERATIONS,
    after=["seed_pool"],
    description="Fourth examples: each prompt shows three seed tasks with their constraints, and the model "
    "writes one more.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    section, seed = context.experiment.generation, context.experiment.seed
    manifest, pool = context.read(UI_SEED_POOL)
    seeds = pool.filter(origin="human").rows(named=True)
    requests = []
    for index in range(section.prompts):
        lot = seed_of(seed, "demonstrations", context.iteration, index)
        shown = method.choose_demonstrations(seeds, lot, section.demonstrations)
        requests.append(
            Request(
                key=str(index),
                prompt=method.example_prompt([_elicited(row) for row in shown]),
                content={},
                parents=[Parent(row["id"], "demonstration") for row in shown],
            )
        )
    stored, about = context.complete(
        [manifest],
        {"generation": section.model_dump()},
        requests,
        size=context.experiment.generation.shard,
    )
    return context.result(stored, ["prompt", "text", "finish_reason"], about)


@stage(
    UI_CANDIDATE_TASKS,
    after=["raw_generations"],
    description="The task read out of each completion: instruction, input, constraints.",
)
def candidate_tasks(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, drawn = context.read(UI_RAW_GENERATIONS)
    drafts = []
    for row in drawn.iter_rows(named=True):
        parsed = method.parse_example(row["text"], row["finish_reason"])
        task = parsed.task or ElicitedTask("", "", "")
        drafts.append(
            Draft(
                content={
                    "completion_id": row["id"],
                    "instruction": task.instruction,
                    "input": task.input,
                    "constraints": task.constraints,
                    "problem": parsed.dropped,
                },
                parents=[Parent(row["id"], "parsed_from")],
            )
        )
    stored = context.store(context.activity(inputs=[manifest], parameters={}), drafts)
    problems = sum(draft.content["problem"] is not None for draft in drafts)
    return context.result(
        stored,
        preview=["instruction", "input", "constraints", "problem"],
        metadata={"unreadable": problems, "readable_share": number(1 - problems / max(len(drafts), 1))},
    )


@stage(
    UI_TASK_DECISIONS,
    UI_ACCEPTED_TASKS,
    after=["candidate_tasks", "seed_pool"],
    description="Tasks that have every field, copy no demonstration and were not there before. Each rule's "
    "word on each candidate stands in unnatural_instructions/task_decisions.",
)
def accepted_tasks(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, candidates = context.read(UI_CANDIDATE_TASKS)
    drawn_manifest, drawn = context.read(UI_RAW_GENERATIONS)
    pool_manifest, pool = context.read(UI_SEED_POOL)
    keys = {row["id"]: _key(_elicited(row)) for row in pool.iter_rows(named=True)}
    shown = {
        row["id"]: [keys[edge["id"]] for edge in row["parents"]]
        for row in drawn.select("id", "parents").iter_rows(named=True)
    }
    frame = candidates.rename({"id": "candidate_id"}).with_columns(
        pl.Series("key", [example_key(*pair) for pair in candidates.select("instruction", "input").rows()]),
        pl.Series("demonstrations", [shown[one] for one in candidates["completion_id"]], pl.List(pl.String)),
    )
    kept, decisions = method.filter_examples(frame, {key: task for task, key in keys.items()})
    kept, on_bans = apply_filters(kept, [not_banned(bans(context.experiment))])
    inputs = [manifest, drawn_manifest, pool_manifest]
    activity = context.activity(inputs=inputs, parameters={"banned": sorted(bans(context.experiment))})
    context.store_decisions(UI_TASK_DECISIONS, pl.concat([decisions, on_bans]), inputs[:1], activity.id)
    drafts = [
        Draft(
            content={name: row[name] for name in UI_ACCEPTED_TASKS.content},
            parents=[Parent(row["candidate_id"], "accepted")],
        )
        for row in kept.iter_rows(named=True)
    ]
    stored = context.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    return context.result(
        stored,
        preview=["instruction", "input", "constraints"],
        metadata={
            "candidates": len(candidates),
            "yield": number(stored.rows / max(len(candidates), 1)),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            **pool_metadata(kept["instruction"].to_list()),
        },
    )


def _key(task: ElicitedTask) -> str:
    return example_key(task.instruction, task.input)


@stage(
    UI_TASK_OUTPUTS,
    after=["accepted_tasks"],
    description="The answer to each accepted task, drawn greedily.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def task_outputs(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, tasks = context.read(UI_ACCEPTED_TASKS)
    section = context.experiment.outputs
    requests = [
        Request(
            key=_key(task),
            prompt=method.output_prompt(task),
            content={
                "task_id": row["id"],
                **{name: row[name] for name in ("instruction", "input", "constraints")},
            },
            parents=[Parent(row["id"], "task")],
        )
        for row in tasks.iter_rows(named=True)
        for task in (ElicitedTask(row["instruction"], row["input"], row["constraints"]),)
    ]
    stored, about = context.complete(
        [manifest],
        {"outputs": section.model_dump()},
        requests,
        size=context.experiment.generation.shard,
    )
    return context.result(stored, ["instruction", "input", "text"], about)


@stage(
    UI_PARAPHRASES,
    after=["accepted_tasks"],
    description="Each accepted instruction in other words.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def paraphrases(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, tasks = context.read(UI_ACCEPTED_TASKS)
    section = context.experiment.paraphrases
    requests = [
        Request(
            key=f"{row['id']}/{place}",
            prompt=method.paraphrase_prompt(row["instruction"]),
            content={"task_id": row["id"], "instruction": row["instruction"]},
            parents=[Parent(row["id"], "task")],
        )
        for row in tasks.iter_rows(named=True)
        for place in range(section.most)
    ]

    stored, about = context.complete(
        [manifest],
        {"paraphrases": section.model_dump()},
        requests,
        size=context.experiment.generation.shard,
        read=Spec.of(read_paraphrase),
    )
    return context.result(stored, ["instruction", "paraphrase"], about)


def read_paraphrase(drawn: Generation) -> dict[str, Any]:
    """The paraphrase that a completion holds, or why it holds none."""
    paraphrase, reason = method.parse_paraphrase(drawn.text, drawn.finish_reason)
    return {"paraphrase": paraphrase, "problem": None if paraphrase else reason}


@stage(
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    after=["task_outputs", "paraphrases", "accepted_tasks"],
    description="The training examples: every answered task so far, under its own instruction and under each "
    "paraphrase of it; of examples that say the same the first.",
    version="2",
)
def filtered_dataset(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    for schema in (UI_TASK_OUTPUTS, UI_PARAPHRASES):
        context.read(schema)  # refused where its checks failed
    inputs, (outputs, rephrased, _) = context.so_far(UI_TASK_OUTPUTS, UI_PARAPHRASES, UI_ACCEPTED_TASKS)
    frame = outputs.select(
        "task_id",
        "instruction",
        "input",
        "constraints",
        candidate_id="id",
        output=pl.col("text").str.strip_chars(),
        problem=pl.when(pl.col("finish_reason") == "length").then(pl.lit("cut off at the token limit")),
    )
    keys = held_out_keys(context.experiment)
    held_out = not_held_out(keys, normalise_question)
    banned = bans(context.experiment)
    answered, decisions = apply_filters(
        frame, [could_be_read, held_out, not_banned(banned), output_not_empty]
    )
    other_words, on_words = method.filter_paraphrases(
        rephrased.rename({"id": "candidate_id"}), context.experiment.paraphrases.most
    )
    examples: list[tuple[Row, list[Parent]]] = []
    reworded: list[tuple[Row, list[Parent]]] = []
    by_task: dict[str, list[Row]] = {}
    for row in other_words.iter_rows(named=True):
        by_task.setdefault(row["task_id"], []).append(row)
    for row in answered.iter_rows(named=True):
        parents = [Parent(row["candidate_id"], "output"), Parent(row["task_id"], "task")]
        examples.append((_example(row, row["instruction"], row["candidate_id"]), parents))
        for other in by_task.get(row["task_id"], ()):
            example = _example(row, other["paraphrase"], other["candidate_id"])
            reworded.append((example, [*parents, Parent(other["candidate_id"], "paraphrase")]))
    # A paraphrase can be the instruction of another task.
    examples += reworded
    columns = dict.fromkeys(("candidate_id", "instruction", "input", "output"), pl.String)
    kept, on_copies = apply_filters(
        pl.DataFrame([row for row, _ in examples], schema=columns), [method.first_of_its_words]
    )
    different = {*kept["candidate_id"]}
    return store_examples(
        context,
        UI_DECISIONS,
        inputs,
        pl.concat([decisions, on_words, on_copies]),
        [one for one in examples if one[0]["candidate_id"] in different],
        measures=(),
        parameters={
            "paraphrases": context.experiment.paraphrases.most,
            "held_out": content_hash({"keys": sorted(keys)}),
            "banned": sorted(banned),
        },
    )


def _example(row: Row, instruction: str, lot: str) -> Row:
    """The example under that instruction; constraints that say something stand behind it."""
    said = [instruction, row["constraints"]] if row["constraints"] != method.NO_CONSTRAINTS else [instruction]
    return {
        "instruction": " ".join(said),
        "input": row["input"],
        "output": row["output"],
        "candidate_id": lot,
    }


STAGES = [
    seed_pool,
    raw_generations,
    candidate_tasks,
    accepted_tasks,
    task_outputs,
    paraphrases,
    filtered_dataset,
    *training_stages(TABLES),
]
