"""Self-Instruct: a pool of tasks that grows by what the model adds to it. Group `self_instruct`.

seed_pool → raw_generations → candidate_tasks → perplexity_scores → similarity_scores → accepted_tasks →
classified_tasks → instance_generations → task_instances → example_perplexities and example_ratings →
filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.families.tasks.files import BannedInstruction
from selfimprove_dagster.families.tasks.pool import as_bans, bans
from selfimprove_dagster.families.tasks.stages import (
    pool_metadata,
    pool_stage,
    score_instructions,
    shown_tasks,
)
from selfimprove_dagster.families.trained.stages import training_stages
from selfimprove_dagster.filters.novelty import Verdict
from selfimprove_dagster.filters.whole import in_parts
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.self_instruct import parsing, prompts
from selfimprove_dagster.methods.self_instruct.admission import (
    Admission,
    admit,
    apply_novelty,
    apply_rules,
    novelty_parameters,
    scored_candidates,
    similarities,
)
from selfimprove_dagster.methods.self_instruct.growth import growth
from selfimprove_dagster.methods.self_instruct.instance_stages import (
    classified_tasks,
    example_perplexities,
    example_ratings,
    filtered_dataset,
    instance_generations,
    task_instances,
)
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment, TaskFilterSection
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
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec

seed_pool = pool_stage(SI_SEED_POOL, SI_POOL_DECISIONS)


@stage(
    SI_RAW_GENERATIONS,
    after=["seed_pool"],
    description="Lists of tasks that the model continued: each prompt shows eight tasks of the pool, six "
    "by people and two of the model's own.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[SelfInstructExperiment]) -> Result:
    section = context.experiment.generation
    pool_manifest, pool = context.scan(SI_SEED_POOL)
    manifest, shown = context.complete(
        [pool_manifest],
        {"generation": section.determinants},
        _prompts(context, pool),
        Spec.of(ask_for_tasks),
        size=section.shard,
    )
    return context.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **shown,
            "prompts": section.prompts,
            **context.measure(manifest, cut_off_share=(pl.col("finish_reason") == "length").mean()),
        },
    )


def _prompts(context: StageContext[SelfInstructExperiment], pool: pl.LazyFrame) -> pl.LazyFrame:
    """One row per prompt, with the tasks (`id`, `instruction`) that it shows, chosen by their numbers alone."""
    section = context.experiment.generation
    sides = [pool.filter(origin=origin).select("id", "instruction") for origin in ("human", "machine")]
    human, machine = pl.concat([side.select(pl.len()) for side in sides]).collect()["len"].to_list()
    chosen = [
        prompts.choose_demonstrations(
            range(human),
            range(human, human + machine),
            seed_of(context.experiment.seed, "demonstrations", context.iteration, index),
            section.human,
            section.machine,
        )
        for index in range(section.prompts)
    ]
    return shown_tasks(pl.concat(sides), chosen)


def ask_for_tasks(shard: Shard[SelfInstructExperiment, Row]) -> Iterator[Request]:
    """A request per prompt (`prompt`, `tasks`): the list of its tasks, to go on with."""
    last = shard.experiment.generation.tasks - 1
    for row in shard.items:
        shown = [prompts.listed(task["instruction"]) for task in row["tasks"]]
        yield Request(
            key=str(row["prompt"]),
            prompt=shard.prompts.ask("generation", instructions=shown, last=last),
            content={"first_number": len(shown) + 1},
            parents=[Parent(task["id"], "demonstration") for task in row["tasks"]],
        )


@stage(
    SI_CANDIDATE_TASKS,
    after=["raw_generations"],
    description="The tasks parsed from each list, with their positions in its text. A better parser is "
    "applied to all lists without sampling them again.",
)
def candidate_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    drawn_manifest, drawn = context.scan(SI_RAW_GENERATIONS)
    manifest, _ = context.map(
        drawn.select("id", "text", "finish_reason", "first_number", "problem"),
        Spec.of(read_tasks, answers=context.generator_prompts.prompting.chat),
        context.activity(inputs=[drawn_manifest], parameters={}),
    )
    problem = pl.col("problem")
    kinds = problem.drop_nulls().str.split(": ").list.first()
    problems = context.lake.scan_ungated(manifest).select(kinds).group_by("problem").len()
    return context.result(
        manifest,
        preview=["instruction", "problem"],
        metadata={
            "lists": context.lake.live_rows(drawn_manifest),
            **context.measure(manifest, tasks=problem.is_null().sum()),
            **{f"not_a_task_{reason}": count for reason, count in problems.collect().iter_rows()},
        },
    )


def read_tasks(shard: Shard[SelfInstructExperiment, Row], *, answers: bool) -> list[Draft]:
    """The tasks of each list (`id`, `text`, `finish_reason`, `first_number`, `problem`).

    `answers`: the lists are answers in conversations.
    """

    def read(row: Row) -> list[parsing.ParsedTask]:
        if row["problem"]:
            return [parsing.ParsedTask("", 0, 0, row["problem"])]
        return parsing.parse_tasks(row["text"], row["finish_reason"], row["first_number"], answers=answers)

    return [
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
        for row in shard.items
        for place, task in enumerate(read(row))
    ]


perplexity_scores = score_instructions(
    SI_PERPLEXITY_SCORES, SI_CANDIDATE_TASKS, "generation", instructions=[], last=1
)


@stage(
    SI_SIMILARITY_SCORES,
    after=["candidate_tasks", "perplexity_scores", "seed_pool"],
    description="ROUGE-L of each candidate that passes the other rules to the whole pool, in order: one that "
    "is near to a task of the pool is dropped, any other joins the pool at once. The ten nearest are kept.",
)
def similarity_scores(context: StageContext[SelfInstructExperiment]) -> Result:
    """Novelty is judged against a pool that grows with each candidate, so the instructions of both are held."""
    section = context.experiment.filter
    candidates_manifest, candidates = context.scan(SI_CANDIDATE_TASKS)
    scores_manifest, scores = context.scan(SI_PERPLEXITY_SCORES)
    pool_manifest, pool = context.scan(SI_SEED_POOL)
    ruled = _ruled(scored_candidates(candidates, scores), section, bans(context.experiment))
    with ProgressReport(context.table.name, len(ruled), "tasks", context.log) as report:
        admission = admit(pool.select("id", "instruction").collect(), ruled, section, report.advance)
    before = context.lake.live_rows(pool_manifest)
    manifest, _ = context.map(
        similarities(admission, before).lazy(),
        Spec.of(record_similarities),
        context.activity(
            inputs=[candidates_manifest, scores_manifest, pool_manifest],
            parameters=novelty_parameters(section),
        ),
    )
    measured = context.measure(
        manifest, pool_after=before + pl.col("kept").sum(), mean_highest_rouge_l=_HIGHEST.mean()
    )
    return context.result(
        manifest,
        preview=["candidate_id", "kept", "neighbours"],
        metadata={"pool_before": before, **measured},
    )


_HIGHEST = pl.col("neighbours").list.first().struct.field("rouge_l")


def _ruled(
    scored: pl.LazyFrame, section: TaskFilterSection, banned: Mapping[str, BannedInstruction]
) -> pl.DataFrame:
    """The candidates (`candidate_id, instruction`) that pass every rule but novelty."""
    kept = (apply_rules(part, section, banned)[0] for part in in_parts(scored, "candidate_id"))
    columns = {"candidate_id": pl.String, "instruction": pl.String}
    return pl.concat([pl.DataFrame(schema=columns), *(part.select(*columns) for part in kept)])


def record_similarities(shard: Shard[SelfInstructExperiment, Row]) -> pl.DataFrame:
    """The verdicts of `similarities` as rows."""
    return shard.frame.with_columns(parents_of(candidate_id="scored"))


@stage(
    SI_TASK_DECISIONS,
    SI_ACCEPTED_TASKS,
    after=["similarity_scores"],
    description="The candidates that pass every rule: they join the pool of the next iteration. The "
    "decision of each rule on each candidate is in self_instruct/task_decisions.",
    grows=growth,
)
def accepted_tasks(context: StageContext[SelfInstructExperiment]) -> Result:
    candidates_manifest, candidates = context.scan(SI_CANDIDATE_TASKS)
    scores_manifest, scores = context.scan(SI_PERPLEXITY_SCORES)
    similarities_manifest, compared = context.scan(SI_SIMILARITY_SCORES)
    verdicts = compared.select("candidate_id", "kept", "neighbours", similarity_id="id")
    activity = context.activity(
        inputs=[candidates_manifest, scores_manifest, similarities_manifest],
        parameters={"filter": context.experiment.filter.model_dump()},
    )
    decisions, manifest, _ = context.map_together(
        scored_candidates(candidates, scores).join(
            verdicts, on="candidate_id", how="left", maintain_order="left"
        ),
        Spec.of(accept, banned={key: vars(ban) for key, ban in bans(context.experiment).items()}),
        activity,
        (SI_TASK_DECISIONS, context.deciding(SI_TASK_DECISIONS, [candidates_manifest], activity.id)),
    )
    tried = context.measure(decisions, candidates=pl.col("candidate_id").n_unique())
    return context.result(
        manifest,
        preview=["instruction", "rouge_l", "perplexity"],
        metadata={
            **tried,
            "yield": number(manifest.rows / max(tried["candidates"], 1)),
            **context.dropped(decisions),
            **pool_metadata(context, manifest),
        },
    )


def accept(
    shard: Shard[SelfInstructExperiment, Row], *, banned: Mapping[str, Mapping[str, Any]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions on candidates, each with its scores, and those that join the pool."""
    section = shard.experiment.filter
    ruled, decisions = apply_rules(shard.frame, section, as_bans(banned))
    kept, on_novelty = apply_novelty(ruled, _recorded(ruled), section)
    accepted = kept.select(
        *("instruction", "candidate_id", "perplexity"),
        rouge_l=_HIGHEST.fill_null(0.0),
        parents=parents_of(candidate_id="accepted", similarity_id="scored"),
    )
    return decision_drafts(pl.concat([decisions, on_novelty]), SI_ACCEPTED_TASKS), accepted


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
    example_perplexities,
    example_ratings,
    filtered_dataset,
    *training_stages(TABLES),
]
