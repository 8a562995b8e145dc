"""What the methods share whose model writes tasks: the pool, scores, examples, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.families.scored.stages import scores_of
from selfimprove_dagster.families.tasks.pool import bans, pool
from selfimprove_dagster.families.tasks.prompts import sampled_template
from selfimprove_dagster.families.tasks.statistics import length_histogram, verb_noun_counts
from selfimprove_dagster.families.tasks.tables import POOL_TASKS
from selfimprove_dagster.families.tasks.tasks import Instance
from selfimprove_dagster.families.trained.filtered import Candidates, filter_parameters, map_filtered
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.language_model.base import no_scores
from selfimprove_dagster.method import Stage
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.stage import (
    Markdown,
    Picture,
    Result,
    StageContext,
    decision_drafts,
    number,
    stage,
)
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import markdown_table, plain
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

_SCORED = 512
"""Candidates a shard."""


_SHOWN = 20


def pool_stage(schema: Table, decisions: Table) -> Stage:
    """seed_pool: all tasks that an iteration may show."""

    @stage(
        decisions,
        schema,
        description="The pool: tasks by people, each with file and line, and those that the model added in "
        "earlier iterations. A task that was banned or replaced is dropped, with the decision in "
        f"{decisions.name}.",
    )
    def seed_pool(context: StageContext[Any]) -> Result:
        _, accepted, rejected = seeds.import_file(context.lake, context.experiment)
        found = pool(context.lake, context.experiment, context.iteration)
        activity = context.activity(
            inputs=found.inputs,
            parameters={"banned": sorted(bans(context.experiment)), **seeds.leaving_out(context.experiment)},
        )
        _, manifest, _ = context.map_together(
            found.judged,
            Spec.of(pooled),
            activity,
            (decisions, context.deciding(decisions, found.inputs, activity.id)),
        )
        origin = pl.col("origin")
        return context.result(
            manifest,
            preview=["origin", "instruction", "source_file", "source_line"],
            metadata={
                "imported_from_seed_file": accepted,
                "rejected_lines": rejected,
                **context.measure(
                    manifest, by_people=(origin == "human").sum(), by_the_model=(origin == "machine").sum()
                ),
                "pool_by_iteration": Picture(_growth_chart(context, manifest)),
                **pool_metadata(context, manifest),
            },
        )

    return seed_pool


def pooled(shard: Shard[Any, Row]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions on the tasks of `TaskPool.judged`, and those that stay."""
    judged = shard.frame
    nothing = pl.lit(None, pl.Float64)
    decided = judged.select(
        "rule", "kept", "reason", "nearest_id", candidate_id="id", score=nothing, threshold=nothing
    )
    role = pl.when(pl.col("origin") == "human").then(pl.lit("seed")).otherwise(pl.lit("accepted"))
    stay = judged.filter("kept").select(*POOL_TASKS, parents=pl.concat_list(pl.struct("id", role=role)))
    return decision_drafts(decided, registry.table(shard.activity.table)), stay


def _growth_chart(context: StageContext[Any], newest: Manifest) -> bytes:
    from selfimprove_dagster.plots import line_chart

    earlier = [
        manifest
        for manifest in context.lake.manifests(context.table.name, context.experiment.name)
        if manifest.iteration < context.iteration
    ]
    points = [(float(one.iteration), float(context.lake.live_rows(one))) for one in (*earlier, newest)]
    return line_chart({"tasks": points}, x="iteration", y="tasks in the pool", title=context.experiment.name)


def pool_metadata(context: StageContext[Any], manifest: Manifest) -> dict[str, Any]:
    """How varied the instructions of a partition are: verbs with their objects, lengths, distinct 4-grams."""
    from selfimprove_dagster.plots import bar_chart

    def instructions() -> Iterator[str]:
        for rows in context.batches(manifest, "instruction"):
            yield from rows["instruction"]

    pairs = verb_noun_counts(instructions())
    lengths = {f"{least}–{most}": count for least, most, count in length_histogram(instructions())}
    return {
        "distinct_verbs": len({verb for verb, _ in pairs}),
        "distinct_4grams": number(distinct_ngram_share(instructions())),
        "verbs_and_objects": Markdown(
            markdown_table(
                [
                    {"verb": plain(verb, 40), "object": plain(noun, 40), "tasks": count}
                    for (verb, noun), count in pairs.most_common(_SHOWN)
                ]
            )
        ),
        "lengths": Picture(
            bar_chart(lengths, x="words of an instruction", y="tasks", title="Length of instructions")
        ),
    }


def score_instructions(schema: Table, candidates: Table, prompt: str, **fields: Any) -> Stage:
    """perplexity_scores: how probable the model finds each candidate after the prompt with these fields."""

    @stage(
        schema,
        after=[candidates.stage],
        description="The model's mean log-probability and perplexity of each candidate instruction, all "
        "after the same words, so that the numbers are comparable.",
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def perplexity_scores(context: StageContext[Any]) -> Result:
        manifest, rows = context.scan(candidates)
        asked = context.prompts.ask(prompt, **fields)
        committed, about = context.work(
            [manifest],
            {"context": asked},
            rows.filter(pl.col("problem").is_null()).select("id", "instruction"),
            Spec.of(score_instruction, prompt=prompt, asked=asked),
            size=_SCORED,
            unit="tasks",
            by=context.scorer,
        )
        perplexity = pl.col("perplexity")
        measured = context.measure(
            committed,
            median_perplexity=perplexity.median(),
            **{"95th_percentile_perplexity": perplexity.quantile(0.95)},
        )
        return context.result(
            committed, preview=["candidate_id", "tokens", "perplexity"], metadata={**about, **measured}
        )

    return perplexity_scores


def score_instruction(shard: Shard[Any, Row], *, prompt: str, asked: str) -> pl.DataFrame:
    """How probable the model finds the `instruction` of each candidate (`id`) when it is `asked` by the prompt.

    One that is too long to be scored has a `problem`.
    """
    model, rows, prompts = shard.model, shard.frame, shard.prompts
    said = model.encode_continuations([prompts.completion(prompt, one) for one in rows["instruction"]])
    (context,) = model.encode_prompts([asked])
    logprobs = model.score([context] * len(said), said)
    shard.report.advance(len(said))
    problems = [
        no_scores(model, len(context) + len(ids)) if any(map(isnan, found)) else None
        for ids, found in zip(said, logprobs, strict=True)
    ]
    scores = rows.select(candidate_id="id").with_columns(
        pl.Series("logprobs", logprobs, dtype=pl.List(pl.Float64)),
        pl.Series("problem", problems, dtype=pl.String),
    )
    return scores.select(
        "candidate_id",
        **perplexity_of(pl.col("logprobs")),
        problem="problem",
        parents=parents_of(candidate_id="scored"),
    )


def example_draft(
    prompts: Prompts, row: Row, parents: Sequence[Parent], seed: int, measures: Sequence[str] = ()
) -> Draft:
    """The example that an instance makes, in a template chosen at random.

    `row` has `instruction`, `input`, `output` and the `measures`.
    """
    template = sampled_template(row["instruction"], Instance(row["input"], row["output"]), seed)
    return Draft(
        content={
            "question": f"{row['instruction']}\n{row['input']}".strip(),
            "format": template,
            "prompt": prompts.ask(template, instruction=row["instruction"], input=row["input"]),
            "completion": prompts.completion(template, row["output"].strip()),
            "instruction": row["instruction"],
            "input": row["input"],
            "answer": row["output"],
        },
        parents=parents,
        measures={name: row[name] for name in measures},
    )


def store_examples(
    context: StageContext[Any],
    decisions_schema: Table,
    found: Candidates,
    parameters: dict[str, Any],
    perplexities: Table,
    ratings: Table,
) -> Result:
    """Commit the decisions on candidates, and the examples that are made of those which every filter keeps.

    `perplexities` and `ratings` are the tables of their scores.
    """
    scored, scores = scores_of(context, perplexities, ratings)
    inputs = [*found.inputs, *scored]
    filters = filter_parameters(context.experiment)
    activity = context.activity(
        inputs=inputs, parameters=parameters | filters["parameters"], about=filters["about"]
    )
    decisions, manifest = map_filtered(
        context,
        found.items,
        found.choose,
        activity,
        (decisions_schema, context.deciding(decisions_schema, inputs, activity.id)),
        together=found.together,
        scores=scores,
    )
    return context.result(
        manifest,
        preview=["prompt", "completion"],
        metadata={
            **context.measure(decisions, candidates=pl.col("candidate_id").n_unique()),
            **context.measure(manifest, tasks=pl.col("instruction").n_unique()),
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


def shown_tasks(pool: pl.LazyFrame, chosen: Sequence[Sequence[int]]) -> pl.LazyFrame:
    """One row per prompt: its number `prompt`, and `tasks`, the tasks that it shows, in their order.

    `chosen` has the numbers of each prompt's tasks, which are the rows of `pool`.
    """
    numbers = pl.LazyFrame(
        {"prompt": range(len(chosen)), "number": chosen},
        schema={"prompt": pl.UInt32, "number": pl.List(pl.UInt32)},
    )
    task = pl.struct(pl.exclude("prompt", "number", "place"))
    return (
        numbers.explode("number")
        .with_row_index("place")
        .join(pool.with_row_index("number"), on="number", maintain_order="left")
        .group_by("prompt")
        .agg(tasks=task.sort_by("place"))
        .sort("prompt")
    )
