"""The second half of Self-Instruct: from accepted tasks to a dataset of their instances.

accepted_tasks → classified_tasks → instance_generations → task_instances → filtered_dataset
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from selfimprove_dagster.families.tasks.pool import bans
from selfimprove_dagster.families.tasks.rules import not_banned, not_held_out, output_not_empty
from selfimprove_dagster.families.tasks.stages import examples_of_seeds, store_examples
from selfimprove_dagster.filters.rules import apply_filters, could_be_read
from selfimprove_dagster.home.exams import held_out_keys
from selfimprove_dagster.lake.records import Draft, Parent, content_hash
from selfimprove_dagster.methods.self_instruct import instances, prompts, rules
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.methods.self_instruct.shots import Shots
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_ACCEPTED_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    SI_INSTANCE_GENERATIONS,
    SI_SEED_POOL,
    SI_TASK_INSTANCES,
)
from selfimprove_dagster.stage import Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import normalise_question
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec

_CLASSIFIED = 512
"""Tasks a shard."""


@stage(
    SI_CLASSIFIED_TASKS,
    after=["accepted_tasks", "seed_pool"],
    description="Whether each new task has a few labels to choose from: the likelier of Yes and No after "
    "worked examples.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def classified_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    tasks_manifest, tasks = context.read(SI_ACCEPTED_TASKS)
    pool_manifest, pool = context.read(SI_SEED_POOL)
    section = context.experiment.classification
    shots = Shots(pool, section, context.experiment.seed).of("classification")
    shown = [(shot.task.instruction, bool(shot.task.is_classification)) for shot in shots]

    manifest, said = context.work(
        [tasks_manifest, pool_manifest],
        {"classification": section.model_dump()},
        tasks.rows(named=True),
        Spec.of(classify, shown=shown, demonstrations=[vars(shot.parent) for shot in shots if shot.parent]),
        size=_CLASSIFIED,
        unit="tasks",
    )
    rows = context.lake.read_ungated(manifest)
    return context.result(
        manifest,
        preview=["instruction", "is_classification", "yes"],
        metadata={**said, "classification_share": number(rows["is_classification"].mean())},
    )


def classify(
    shard: Shard[SelfInstructExperiment, Row],
    *,
    shown: Sequence[tuple[str, bool]],
    demonstrations: Sequence[Mapping[str, str]],
) -> list[Draft]:
    """Whether each task is a classification task; the prompt shows instructions with their answers."""
    model = shard.model
    options = [model.encode_continuation(answer) for answer in (" Yes", " No")]
    asked = [model.encode(prompts.classification_prompt(row["instruction"], shown)) for row in shard.items]
    found = model.option_probabilities(asked, options)
    shard.report.advance(len(asked))
    return [
        Draft(
            content={
                "task_id": row["id"],
                "instruction": row["instruction"],
                "is_classification": yes > no,
            },
            parents=[Parent(row["id"], "task"), *(Parent(**one) for one in demonstrations)],
            measures={"yes": yes},
        )
        for row, (yes, no) in zip(shard.items, found, strict=True)
    ]


@stage(
    SI_INSTANCE_GENERATIONS,
    after=["classified_tasks", "accepted_tasks", "seed_pool"],
    description="Examples of each task, drawn greedily: inputs with their outputs, or for classification "
    "tasks each label with an input for it.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def instance_generations(context: StageContext[SelfInstructExperiment]) -> Result:
    tasks_manifest, tasks = context.read(SI_CLASSIFIED_TASKS)
    accepted_manifest, _ = context.read(SI_ACCEPTED_TASKS)
    pool_manifest, pool = context.read(SI_SEED_POOL)
    section = context.experiment.instances
    forms = {
        False: ("input_first", prompts.input_first_prompt),
        True: ("output_first", prompts.output_first_prompt),
    }
    shots = {kind: Shots(pool, section, context.experiment.seed, kind) for kind in forms}
    requests = []
    for row in tasks.iter_rows(named=True):
        form, prompt = forms[row["is_classification"]]
        shown = shots[row["is_classification"]].of(row["instruction"])
        requests.append(
            Request(
                key=row["instruction"],
                prompt=prompt(row["instruction"], [shot.task for shot in shown]),
                content={"task_id": row["task_id"], "instruction": row["instruction"], "form": form},
                parents=[
                    Parent(row["task_id"], "task"),
                    Parent(row["id"], "classified"),
                    *(shot.parent for shot in shown if shot.parent),
                ],
            )
        )
    manifest, said = context.complete(
        [tasks_manifest, accepted_manifest, pool_manifest],
        {"instances": section.model_dump()},
        requests,
        size=section.shard,
    )
    return context.result(manifest, preview=["instruction", "form", "text"], metadata=said)


_READERS = {"input_first": instances.parse_input_first, "output_first": instances.parse_output_first}


@stage(
    SI_TASK_INSTANCES,
    after=["instance_generations"],
    description="The instances read out of each completion: input and output.",
)
def task_instances(context: StageContext[SelfInstructExperiment]) -> Result:
    drawn_manifest, drawn = context.read(SI_INSTANCE_GENERATIONS)
    drafts = [
        Draft(
            content={
                "task_id": row["task_id"],
                "instruction": row["instruction"],
                "is_classification": row["form"] == "output_first",
                "input": one.input,
                "output": one.output,
                "problem": one.dropped,
            },
            parents=[Parent(row["id"], "parsed_from")],
            sample_index=place,
        )
        for row in drawn.iter_rows(named=True)
        for place, one in enumerate(_READERS[row["form"]](row["text"], row["finish_reason"]))
    ]
    manifest = context.store(context.activity(inputs=[drawn_manifest], parameters={}), drafts)
    return context.result(
        manifest,
        preview=["instruction", "input", "output", "problem"],
        metadata={"tasks": len(drawn), "instances_per_task": number(len(drafts) / max(len(drawn), 1))},
    )


@stage(
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    after=["task_instances", "accepted_tasks", "seed_pool"],
    description="The training examples: instances of all tasks that the model has added so far, each in one "
    "of several prompt templates. Every instance's decisions stand in self_instruct/decisions.",
)
def filtered_dataset(context: StageContext[SelfInstructExperiment]) -> Result:
    experiment = context.experiment
    context.read(SI_TASK_INSTANCES)  # refused where its checks failed
    inputs, (found, tasks) = context.so_far(SI_TASK_INSTANCES, SI_ACCEPTED_TASKS)
    frame = found.rename({"id": "candidate_id"}).join(
        tasks.select("rouge_l", "perplexity", task_id="id"), on="task_id", how="left", maintain_order="left"
    )
    keys = held_out_keys(experiment)
    held_out = not_held_out(keys, normalise_question)
    banned = bans(experiment)
    readable, unread = apply_filters(frame, [could_be_read, held_out, not_banned(banned)])
    if experiment.filter.switched_off:
        kept, decisions = apply_filters(readable, [output_not_empty])
    else:
        thresholds = rules.InstanceThresholds(most=experiment.instances.most)
        kept, decisions = rules.filter_instances(readable, thresholds, experiment.seed)
    if (most := experiment.filter.most_examples) is not None:
        kept, by_lot = apply_filters(kept, [rules.at_most(most, experiment.seed)])
        decisions = pl.concat([decisions, by_lot])
    seeds: list[tuple[Row, list[Parent]]] = []
    if experiment.filter.seed_instances:
        pool_manifest, seeds = examples_of_seeds(context, SI_SEED_POOL)
        inputs.append(pool_manifest)
    return store_examples(
        context,
        SI_DECISIONS,
        inputs,
        pl.concat([unread, decisions]),
        [
            *seeds,
            *(
                (row, [Parent(row["candidate_id"], "instance"), Parent(row["task_id"], "task")])
                for row in kept.iter_rows(named=True)
            ),
        ],
        measures=("rouge_l", "perplexity"),
        parameters={
            "filter": experiment.filter.model_dump(),
            "most": experiment.instances.most,
            "held_out": content_hash({"keys": sorted(keys)}),
            "banned": sorted(banned),
        },
    )
