"""The second half of Self-Instruct: from accepted tasks to a dataset of their instances.

accepted_tasks → classified_tasks → instance_generations → task_instances → example_perplexities and
example_ratings → filtered_dataset
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import polars as pl

from selfimprove_dagster.families.scored.stages import perplexity_stage, rating_stage
from selfimprove_dagster.families.tasks.pool import as_bans, bans
from selfimprove_dagster.families.tasks.stages import example_draft, store_examples
from selfimprove_dagster.families.tasks.tasks import Instance
from selfimprove_dagster.families.trained.filtered import Candidates
from selfimprove_dagster.filters.whole import apply_verdicts, in_parts, with_verdicts
from selfimprove_dagster.home.exams import held_out_keys
from selfimprove_dagster.lake.records import Draft, Parent, content_hash
from selfimprove_dagster.language_model.options import Unscored, scored_options
from selfimprove_dagster.method import Ask
from selfimprove_dagster.methods.self_instruct import instances, prompts
from selfimprove_dagster.methods.self_instruct.dataset import (
    InstanceRules,
    instance_candidates,
    instances_of_seeds,
)
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.methods.self_instruct.shots import SHOT, Shots, demonstrations_of, shipped, task_of
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_ACCEPTED_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_DECISIONS,
    SI_EXAMPLE_PERPLEXITIES,
    SI_EXAMPLE_RATINGS,
    SI_FILTERED_DATASET,
    SI_INSTANCE_GENERATIONS,
    SI_SEED_POOL,
    SI_TASK_INSTANCES,
)
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec

_CLASSIFIED = 512
"""Tasks per shard."""


@stage(
    SI_CLASSIFIED_TASKS,
    after=["accepted_tasks", "seed_pool"],
    description="Whether each new task has a few labels to choose from: the more likely of Yes and No after "
    "worked examples.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def classified_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    tasks_manifest, tasks = context.scan(SI_ACCEPTED_TASKS)
    pool_manifest, pool = context.scan(SI_SEED_POOL)
    section = context.experiment.classification
    (shots,) = Shots(pool, section, context.experiment.seed).of([("classification", None)])
    shown = [(shot["instruction"], bool(shot["is_classification"])) for shot in shots]
    manifest, said = context.work(
        [tasks_manifest, pool_manifest],
        {"classification": section.model_dump()},
        tasks.select("id", "instruction"),
        Spec.of(classify, shown=shown, demonstrations=[asdict(one) for one in demonstrations_of(shots)]),
        size=_CLASSIFIED,
        unit="tasks",
    )
    measured = context.measure(manifest, classification_share=pl.col("is_classification").mean())
    return context.result(
        manifest, preview=["instruction", "is_classification", "yes"], metadata={**said, **measured}
    )


def classify(
    shard: Shard[SelfInstructExperiment, Row],
    *,
    shown: Sequence[tuple[str, bool]],
    demonstrations: Sequence[Mapping[str, str]],
) -> list[Draft]:
    """Whether each task is a classification task; the prompt shows instructions with their answers.

    One of which this cannot be asked counts as none, with a `problem`.
    """
    model, ask = shard.model, partial(shard.prompts.ask, "classification")
    answers = [shard.prompts.completion("classification", answer) for answer in ("Yes", "No")]
    shots = [{"instruction": text, "answer": "Yes" if answer else "No"} for text, answer in shown]
    asked = model.encode_prompts([ask(instruction=row["instruction"], shots=shots) for row in shard.items])
    found = scored_options(model, asked, answers)
    shard.report.advance(len(asked))
    return [
        Draft(
            content={
                "task_id": row["id"],
                "instruction": row["instruction"],
                "is_classification": not isinstance(likely, Unscored) and likely[0] > likely[1],
            },
            parents=[Parent(row["id"], "task"), *(Parent(**one) for one in demonstrations)],
            measures={"yes": None, "problem": likely.problem}
            if isinstance(likely, Unscored)
            else {"yes": likely[0], "problem": None},
        )
        for row, likely in zip(shard.items, found, strict=True)
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
    tasks_manifest, tasks = context.scan(SI_CLASSIFIED_TASKS)
    accepted_manifest, _ = context.scan(SI_ACCEPTED_TASKS)
    pool_manifest, pool = context.scan(SI_SEED_POOL)
    section = context.experiment.instances
    manifest, said = context.complete(
        [tasks_manifest, accepted_manifest, pool_manifest],
        {"instances": section.model_dump()},
        with_shots(
            tasks.select("id", "task_id", "instruction", "is_classification"),
            Shots(pool, section, context.experiment.seed),
        ),
        Spec.of(ask_for_instances),
        size=section.shard,
    )
    return context.result(manifest, preview=["instruction", "form", "text"], metadata=said)


def with_shots(tasks: pl.LazyFrame, shots: Shots) -> pl.LazyFrame:
    """The tasks (`instruction`, `is_classification`), each with its worked examples in the column `shots`."""
    key = ["instruction", "is_classification"]
    prompts = tasks.select(key).unique().collect().rows()
    shown = dict(zip(prompts, shots.of(prompts), strict=True))

    def of(rows: pl.Series) -> pl.Series:
        chosen = [shown[row["instruction"], row["is_classification"]] for row in rows]
        return pl.Series(chosen, dtype=pl.List(pl.Struct(SHOT)))

    column = pl.struct(key).map_batches(of, return_dtype=pl.List(pl.Struct(SHOT)), is_elementwise=True)
    return tasks.with_columns(shots=column)


def ask_for_instances(shard: Shard[SelfInstructExperiment, Row]) -> Iterator[Request]:
    """A request per task (`id`, `task_id`, `instruction`, `is_classification`, `shots`)."""
    for row in shard.items:
        form, write = _FORMS[row["is_classification"]]
        shots = _as_shown(row["shots"], write)
        yield Request(
            key=row["instruction"],
            prompt=shard.prompts.ask(form, instruction=row["instruction"], shots=shots),
            content={"task_id": row["task_id"], "instruction": row["instruction"], "form": form},
            parents=[
                Parent(row["task_id"], "task"),
                Parent(row["id"], "classified"),
                *demonstrations_of(row["shots"]),
            ],
        )


def asks(experiment: SelfInstructExperiment, asked: Prompts) -> Iterator[Ask]:
    """The prompts for instances with the worked examples that ship, before any task."""
    section = experiment.instances
    for kind, (form, write) in _FORMS.items() if section.ships else ():
        shots = _as_shown(shipped(kind)[: section.shots], write)
        yield Ask(
            "instances.max_tokens",
            asked.ask(form, instruction="", shots=shots),
            section.max_tokens,
            asked.stops(form),
            [shot["examples"] for shot in shots],
        )


def _as_shown(shots: Sequence[Row], write: Callable[[Sequence[Instance]], str]) -> list[dict[str, str]]:
    """Worked examples (`SHOT`) as the prompts for instances show them."""
    tasks = [task_of(shot) for shot in shots]
    return [{"instruction": task.instruction, "examples": write(task.instances)} for task in tasks]


_FORMS = {
    False: ("input_first", prompts.input_first),
    True: ("output_first", prompts.output_first),
}


@stage(
    SI_TASK_INSTANCES,
    after=["instance_generations"],
    description="The instances parsed from each completion: input and output.",
)
def task_instances(context: StageContext[SelfInstructExperiment]) -> Result:
    drawn_manifest, drawn = context.scan(SI_INSTANCE_GENERATIONS)
    manifest, _ = context.map(
        drawn.select("id", "task_id", "instruction", "form", "text", "finish_reason", "problem"),
        Spec.of(read_instances),
        context.activity(inputs=[drawn_manifest], parameters={}),
    )
    tasks = context.lake.live_rows(drawn_manifest)
    return context.result(
        manifest,
        preview=["instruction", "input", "output", "problem"],
        metadata={"tasks": tasks, "instances_per_task": number(manifest.rows / max(tasks, 1))},
    )


_READERS = {"input_first": instances.parse_input_first, "output_first": instances.parse_output_first}


def read_instances(shard: Shard[SelfInstructExperiment, Row]) -> list[Draft]:
    """The instances of each completion (`id`, `task_id`, `instruction`, `form`, `text`, `finish_reason`, `problem`)."""
    return [
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
        for row in shard.items
        for place, one in enumerate(_read(row))
    ]


def _read(row: Row) -> list[instances.ParsedInstance]:
    if row["problem"]:
        return [instances.ParsedInstance("", "", 0, 0, row["problem"])]
    return _READERS[row["form"]](row["text"], row["finish_reason"])


def candidates(context: StageContext[SelfInstructExperiment]) -> Candidates:
    """Return the instances of all tasks so far, and those by people, of which the dataset is made."""
    experiment = context.experiment
    context.scan(SI_TASK_INSTANCES)  # refused where its checks failed
    inputs, (found, tasks) = context.so_far(SI_TASK_INSTANCES, SI_ACCEPTED_TASKS)
    keys, banned = held_out_keys(experiment), bans(experiment)
    instances = instance_candidates(found, tasks)
    limited = InstanceRules(experiment, keys, banned).within_limit(in_parts(instances, "task_id"))
    items = [with_verdicts(instances, limited)]
    if experiment.filter.seed_instances:
        pool_manifest, pool = context.scan(SI_SEED_POOL)
        inputs.append(pool_manifest)
        items.insert(0, instances_of_seeds(pool))
    return Candidates(
        inputs,
        pl.concat(items, how="diagonal"),
        Spec.of(choose, held_out=sorted(keys), banned={key: vars(ban) for key, ban in banned.items()}),
        together="task_id",
    )


_AFTER = ["task_instances", "accepted_tasks", "seed_pool"]

example_perplexities = perplexity_stage(SI_EXAMPLE_PERPLEXITIES, candidates, _AFTER)

example_ratings = rating_stage(SI_EXAMPLE_RATINGS, candidates, _AFTER)


@stage(
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    after=[*_AFTER, "example_perplexities", "example_ratings"],
    description="The training examples: instances of all tasks that the model has added so far, each in one "
    "of several prompt templates. The decisions on every instance are in self_instruct/decisions.",
    version="2",
)
def filtered_dataset(context: StageContext[SelfInstructExperiment]) -> Result:
    experiment = context.experiment
    return store_examples(
        context,
        SI_DECISIONS,
        candidates(context),
        {
            "filter": experiment.filter.model_dump(),
            "most": experiment.instances.most,
            "held_out": content_hash({"keys": sorted(held_out_keys(experiment))}),
            "banned": sorted(bans(experiment)),
        },
        SI_EXAMPLE_PERPLEXITIES,
        SI_EXAMPLE_RATINGS,
    )


def choose(
    shard: Shard[SelfInstructExperiment, Row],
    *,
    held_out: Sequence[str],
    banned: Mapping[str, Mapping[str, Any]],
) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on instances, and the examples of those that are kept and of those by people."""
    experiment, rows = shard.experiment, shard.frame
    rule = InstanceRules(experiment, frozenset(held_out), as_bans(banned))
    within, decisions = rule.within_a_task(rows.filter(~pl.col("is_seed")))
    kept, on_limit = apply_verdicts(within)
    chosen = [
        *((row, [Parent(row["task_id"], "task")]) for row in rows.filter("is_seed").iter_rows(named=True)),
        *(
            (row, [Parent(row["candidate_id"], "instance"), Parent(row["task_id"], "task")])
            for row in kept.iter_rows(named=True)
        ),
    ]
    return decision_drafts(pl.concat([decisions, on_limit]), SI_FILTERED_DATASET), [
        example_draft(shard.prompts, row, parents, experiment.seed, ("rouge_l", "perplexity"))
        for row, parents in chosen
    ]
