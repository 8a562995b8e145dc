"""Unnatural Instructions: three demonstrations elicit a fourth. Group `unnatural_instructions`.

seed_pool → raw_generations → candidate_tasks → accepted_tasks → task_outputs and paraphrases →
example_perplexities and example_ratings → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.families.scored.stages import perplexity_stage, rating_stage
from selfimprove_dagster.families.tasks.pool import as_bans, bans
from selfimprove_dagster.families.tasks.rules import not_banned
from selfimprove_dagster.families.tasks.stages import (
    example_draft,
    pool_metadata,
    pool_stage,
    shown_tasks,
    store_examples,
)
from selfimprove_dagster.families.tasks.tables import ELICITED
from selfimprove_dagster.families.trained.filtered import Candidates
from selfimprove_dagster.families.trained.stages import training_stages
from selfimprove_dagster.filters.rules import apply_filters
from selfimprove_dagster.filters.whole import in_parts
from selfimprove_dagster.home.exams import held_out_keys
from selfimprove_dagster.lake.records import Draft, Parent, content_hash, parents_of
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions as method
from selfimprove_dagster.methods.unnatural_instructions.dataset import (
    ExampleRules,
    apply_same_words,
    outputs_with_paraphrases,
    with_same_words,
)
from selfimprove_dagster.methods.unnatural_instructions.settings import UnnaturalInstructionsExperiment
from selfimprove_dagster.methods.unnatural_instructions.tables import (
    TABLES,
    UI_ACCEPTED_TASKS,
    UI_CANDIDATE_TASKS,
    UI_DECISIONS,
    UI_EXAMPLE_PERPLEXITIES,
    UI_EXAMPLE_RATINGS,
    UI_FILTERED_DATASET,
    UI_PARAPHRASES,
    UI_POOL_DECISIONS,
    UI_RAW_GENERATIONS,
    UI_SEED_POOL,
    UI_TASK_DECISIONS,
    UI_TASK_OUTPUTS,
)
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import ElicitedTask
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import one_line
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec

seed_pool = pool_stage(UI_SEED_POOL, UI_POOL_DECISIONS)


def _elicited(task: Row) -> ElicitedTask:
    return ElicitedTask(task["instruction"], task["input"], task["constraints"] or method.NO_CONSTRAINTS)


_GIVEN = pl.col("instances").list.first().struct.field("input").fill_null("")
"""The input of a task of the pool; one that an iteration added has it as its only instance."""


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
    manifest, pool = context.scan(UI_SEED_POOL)
    seeds = pool.filter(origin="human").select("id", "instruction", "constraints", input=_GIVEN)
    count = int(seeds.select(pl.len()).collect().item())
    chosen = [
        method.choose_demonstrations(
            range(count), seed_of(seed, "demonstrations", context.iteration, index), section.demonstrations
        )
        for index in range(section.prompts)
    ]
    stored, about = context.complete(
        [manifest],
        {"generation": section.determinants},
        shown_tasks(seeds, chosen),
        Spec.of(ask_for_examples),
        size=section.shard,
    )
    return context.result(stored, ["prompt", "text", "finish_reason"], about)


def ask_for_examples(shard: Shard[UnnaturalInstructionsExperiment, Row]) -> Iterator[Request]:
    """A request per prompt (`prompt`, `tasks`): its tasks, to which the model adds one."""
    for row in shard.items:
        yield Request(
            key=str(row["prompt"]),
            prompt=shard.prompts.ask("example", demonstrations=[_elicited(task) for task in row["tasks"]]),
            content={},
            parents=[Parent(task["id"], "demonstration") for task in row["tasks"]],
        )


@stage(
    UI_CANDIDATE_TASKS,
    after=["raw_generations"],
    description="The task parsed from each completion: instruction, input, constraints.",
)
def candidate_tasks(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, drawn = context.scan(UI_RAW_GENERATIONS)
    stored, _ = context.map(
        drawn.select("id", "text", "finish_reason", "problem"),
        Spec.of(read_tasks),
        context.activity(inputs=[manifest], parameters={}),
    )
    found = context.measure(stored, unreadable=pl.col("problem").is_not_null().sum())
    return context.result(
        stored,
        preview=["instruction", "input", "constraints", "problem"],
        metadata={**found, "readable_share": number(1 - found["unreadable"] / max(stored.rows, 1))},
    )


def read_tasks(shard: Shard[UnnaturalInstructionsExperiment, Row]) -> Iterator[Draft]:
    """The task of each completion (`id`, `text`, `finish_reason`, `problem`)."""
    for row in shard.items:
        parsed = method.parse_example(row["text"], row["finish_reason"])
        task = parsed.task or ElicitedTask("", "", "")
        yield Draft(
            content={
                "completion_id": row["id"],
                "instruction": task.instruction,
                "input": task.input,
                "constraints": task.constraints,
                "problem": row["problem"] or parsed.dropped,
            },
            parents=[Parent(row["id"], "parsed_from")],
        )


@stage(
    UI_TASK_DECISIONS,
    UI_ACCEPTED_TASKS,
    after=["candidate_tasks", "seed_pool"],
    description="Tasks that have every field, copy no demonstration and are new. The decision of each rule "
    "on each candidate is in unnatural_instructions/task_decisions.",
)
def accepted_tasks(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, candidates = context.scan(UI_CANDIDATE_TASKS)
    drawn_manifest, drawn = context.scan(UI_RAW_GENERATIONS)
    pool_manifest, pool = context.scan(UI_SEED_POOL)
    banned = bans(context.experiment)
    inputs = [manifest, drawn_manifest, pool_manifest]
    activity = context.activity(inputs=inputs, parameters={"banned": sorted(banned)})
    decisions, stored, _ = context.map_together(
        method.with_first(candidates, drawn, pool.select("id", "instruction", input=_GIVEN)),
        Spec.of(accept, banned={key: vars(ban) for key, ban in banned.items()}),
        activity,
        (UI_TASK_DECISIONS, context.deciding(UI_TASK_DECISIONS, inputs[:1], activity.id)),
    )
    tried = context.lake.live_rows(manifest)
    return context.result(
        stored,
        preview=["instruction", "input", "constraints"],
        metadata={
            "candidates": tried,
            "yield": number(stored.rows / max(tried, 1)),
            **context.dropped(decisions),
            **pool_metadata(context, stored),
        },
    )


def accept(
    shard: Shard[UnnaturalInstructionsExperiment, Row], *, banned: Mapping[str, Mapping[str, Any]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions on the candidates of `with_first`, and those that are answered."""
    candidates = shard.frame
    known = dict(candidates.drop_nulls("first").select("key", "first").iter_rows())
    kept, decisions = method.filter_examples(candidates, known)
    kept, on_bans = apply_filters(kept, [not_banned(as_bans(banned))])
    accepted = kept.select(*UI_ACCEPTED_TASKS.content, parents_of(candidate_id="accepted"))
    return decision_drafts(pl.concat([decisions, on_bans]), UI_ACCEPTED_TASKS), accepted


@stage(
    UI_TASK_OUTPUTS,
    after=["accepted_tasks"],
    description="The answer to each accepted task, drawn greedily.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def task_outputs(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, tasks = context.scan(UI_ACCEPTED_TASKS)
    stored, about = context.complete(
        [manifest],
        {"outputs": context.experiment.outputs.model_dump()},
        tasks.select("id", *ELICITED),
        Spec.of(ask_for_output),
        size=context.experiment.generation.shard,
    )
    return context.result(stored, ["instruction", "input", "text"], about)


def ask_for_output(shard: Shard[UnnaturalInstructionsExperiment, Row]) -> Iterator[Request]:
    """A request per task (`id`, `instruction`, `input`, `constraints`)."""
    for row in shard.items:
        task = ElicitedTask(*(row[name] for name in ELICITED))
        yield Request(
            key=method.example_key(task.instruction, task.input),
            prompt=shard.prompts.ask(
                "output",
                instruction=task.instruction,
                input=task.input,
                constraints=task.constraints or method.NO_CONSTRAINTS,
            ),
            content={"task_id": row["id"], **{name: row[name] for name in ELICITED}},
            parents=[Parent(row["id"], "task")],
        )


@stage(
    UI_PARAPHRASES,
    after=["accepted_tasks"],
    description="Paraphrases of each accepted instruction.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
    version="2",
)
def paraphrases(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    manifest, tasks = context.scan(UI_ACCEPTED_TASKS)
    section = context.experiment.paraphrases
    stored, about = context.complete(
        [manifest],
        {"paraphrases": section.model_dump()},
        tasks.select("id", "instruction", "input"),
        Spec.of(ask_for_paraphrases),
        size=max(context.experiment.generation.shard // max(section.most, 1), 1),
        each=section.most,
        read=Spec.of(read_paraphrase),
    )
    return context.result(stored, ["instruction", "paraphrase"], about)


def ask_for_paraphrases(shard: Shard[UnnaturalInstructionsExperiment, Row]) -> Iterator[Request]:
    """The requests for each task (`id`, `instruction`, `input`): as many as it may have paraphrases."""
    for row in shard.items:
        instruction = one_line(row["instruction"])
        for place in range(shard.experiment.paraphrases.most):
            yield Request(
                key=f"{method.example_key(row['instruction'], row['input'])}/{place}",
                prompt=shard.prompts.ask(
                    "paraphrase", instruction=instruction, shots=method.PARAPHRASE_SHOTS
                ),
                content={"task_id": row["id"], "instruction": row["instruction"]},
                parents=[Parent(row["id"], "task")],
            )


def read_paraphrase(drawn: Generation) -> dict[str, Any]:
    """The paraphrase that a completion holds, or why it holds none."""
    paraphrase, reason = method.parse_paraphrase(drawn.text, drawn.finish_reason)
    return {"paraphrase": paraphrase, "problem": None if paraphrase else drawn.problem or reason}


def candidates(context: StageContext[UnnaturalInstructionsExperiment]) -> Candidates:
    """Return the outputs and paraphrases so far of which the dataset is made."""
    for schema in (UI_TASK_OUTPUTS, UI_PARAPHRASES):
        context.scan(schema)  # refused where its checks failed
    inputs, (outputs, rephrased, _) = context.so_far(UI_TASK_OUTPUTS, UI_PARAPHRASES, UI_ACCEPTED_TASKS)
    keys, banned = held_out_keys(context.experiment), bans(context.experiment)
    rules = ExampleRules(context.experiment.paraphrases.most, keys, banned)
    rows = outputs_with_paraphrases(outputs, rephrased)
    return Candidates(
        inputs,
        with_same_words(rows, rules.first_of_their_words(in_parts(rows, "task_id"))),
        Spec.of(choose, held_out=sorted(keys), banned={key: vars(ban) for key, ban in banned.items()}),
        together="task_id",
    )


_AFTER = ["task_outputs", "paraphrases", "accepted_tasks"]

example_perplexities = perplexity_stage(UI_EXAMPLE_PERPLEXITIES, candidates, _AFTER)

example_ratings = rating_stage(UI_EXAMPLE_RATINGS, candidates, _AFTER)


@stage(
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    after=[*_AFTER, "example_perplexities", "example_ratings"],
    description="The training examples: every answered task so far, under its own instruction and under each "
    "paraphrase of it; of equal examples, the first.",
    version="3",
)
def filtered_dataset(context: StageContext[UnnaturalInstructionsExperiment]) -> Result:
    experiment = context.experiment
    return store_examples(
        context,
        UI_DECISIONS,
        candidates(context),
        {
            "paraphrases": experiment.paraphrases.most,
            "held_out": content_hash({"keys": sorted(held_out_keys(experiment))}),
            "banned": sorted(bans(experiment)),
        },
        UI_EXAMPLE_PERPLEXITIES,
        UI_EXAMPLE_RATINGS,
    )


def choose(
    shard: Shard[UnnaturalInstructionsExperiment, Row],
    *,
    held_out: Sequence[str],
    banned: Mapping[str, Mapping[str, Any]],
) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on outputs and paraphrases (rows of `with_same_words`), and the examples."""
    experiment = shard.experiment
    rules = ExampleRules(experiment.paraphrases.most, frozenset(held_out), as_bans(banned))
    examples, decisions = rules.within_a_task(shard.frame)
    kept, on_copies = apply_same_words(examples, shard.frame)
    roles = {"output_id": "output", "task_id": "task", "paraphrase_id": "paraphrase"}
    return decision_drafts(pl.concat([decisions, on_copies]), UI_FILTERED_DATASET), [
        example_draft(
            shard.prompts,
            row,
            [Parent(row[name], role) for name, role in roles.items() if row[name]],
            experiment.seed,
        )
        for row in kept.iter_rows(named=True)
    ]


STAGES = [
    seed_pool,
    raw_generations,
    candidate_tasks,
    accepted_tasks,
    task_outputs,
    paraphrases,
    example_perplexities,
    example_ratings,
    filtered_dataset,
    *training_stages(TABLES),
]
