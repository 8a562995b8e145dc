"""What the methods share whose model writes tasks: the pool, scores, examples, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.families.tasks.pool import bans, pool
from selfimprove_dagster.families.tasks.statistics import length_histogram, verb_noun_counts
from selfimprove_dagster.families.tasks.tables import POOL_TASKS
from selfimprove_dagster.families.tasks.tasks import Instance, template_by_lot, training_text
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Markdown, Picture, Result, StageContext, number, stage
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
        "earlier iterations. A task that was banned or replaced is out, with the decision in "
        f"{decisions.name}.",
    )
    def seed_pool(context: StageContext[Any]) -> Result:
        _, accepted, rejected = seeds.import_file(context.lake, context.experiment)
        found = pool(context.lake, context.experiment, context.iteration)
        activity = context.activity(
            inputs=found.inputs,
            parameters={"banned": sorted(bans(context.experiment))},
        )
        context.store_decisions(decisions, found.decisions, found.inputs, activity.id)
        drafts = [
            Draft(
                content={name: row[name] for name in POOL_TASKS},
                parents=[Parent(row["id"], "seed" if row["origin"] == "human" else "accepted")],
            )
            for row in found.tasks.iter_rows(named=True)
        ]
        manifest = context.store(activity, drafts)
        return context.result(
            manifest,
            preview=["origin", "instruction", "source_file", "source_line"],
            metadata={
                "imported_from_seed_file": accepted,
                "rejected_lines": rejected,
                "by_people": int((found.tasks["origin"] == "human").sum()),
                "by_the_model": int((found.tasks["origin"] == "machine").sum()),
                "pool_by_iteration": Picture(_growth_chart(context, manifest)),
                **pool_metadata(found.tasks["instruction"].to_list()),
            },
        )

    return seed_pool


def _growth_chart(context: StageContext[Any], newest: Manifest) -> bytes:
    from selfimprove_dagster.plots import line_chart

    earlier = [
        manifest
        for manifest in context.lake.manifests(context.table.name, context.experiment.name)
        if manifest.iteration < context.iteration
    ]
    points = [(float(one.iteration), float(context.lake.live_rows(one))) for one in (*earlier, newest)]
    return line_chart({"tasks": points}, x="iteration", y="tasks in the pool", title=context.experiment.name)


def pool_metadata(instructions: Sequence[str]) -> dict[str, Any]:
    """How varied instructions are: verbs with their objects, lengths, distinct 4-grams."""
    from selfimprove_dagster.plots import bar_chart

    pairs = verb_noun_counts(instructions)
    lengths = {f"{least}–{most}": count for least, most, count in length_histogram(instructions)}
    return {
        "distinct_verbs": len({verb for verb, _ in pairs}),
        "distinct_4grams": number(distinct_ngram_share(list(instructions))),
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


def score_instructions(schema: Table, candidates: Table, context_text: str) -> Stage:
    """perplexity_scores: how probable the model finds each candidate after `context_text`."""

    @stage(
        schema,
        after=[candidates.stage],
        description="How probable the model finds each candidate instruction, all of them after the same "
        "words, so that the numbers compare: mean log-probability and perplexity.",
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def perplexity_scores(context: StageContext[Any]) -> Result:
        manifest, rows = context.read(candidates)
        usable = rows.filter(pl.col("problem").is_null()).select("id", "instruction").rows()

        committed, about = context.work(
            [manifest],
            {"context": context_text},
            usable,
            Spec.of(score_instruction, after=context_text),
            size=_SCORED,
            unit="tasks",
        )
        scores = context.lake.read_ungated(committed)["perplexity"]
        return context.result(
            committed,
            preview=["candidate_id", "tokens", "perplexity"],
            metadata={
                **about,
                "median_perplexity": number(scores.median()),
                "95th_percentile_perplexity": number(scores.quantile(0.95)),
            },
        )

    return perplexity_scores


def score_instruction(shard: Shard[Any, tuple[str, str]], *, after: str) -> list[Draft]:
    """How probable the model finds each instruction, given with its candidate's id, after the text `after`."""
    model = shard.model
    said = model.encode_continuations([f" {instruction}" for _, instruction in shard.items])
    found = pl.DataFrame({"logprobs": model.score([model.encode(after)] * len(said), said)})
    scores = found.select(**perplexity_of(pl.col("logprobs")))
    shard.report.advance(len(said))
    return [
        Draft(
            content={"candidate_id": candidate, "tokens": row["tokens"]},
            parents=[Parent(candidate, "scored")],
            measures={"mean_logprob": row["mean_logprob"], "perplexity": row["perplexity"]},
        )
        for (candidate, _), row in zip(shard.items, scores.iter_rows(named=True), strict=True)
    ]


def examples_of_seeds(
    context: StageContext[Any], schema: Table
) -> tuple[Manifest, list[tuple[Row, list[Parent]]]]:
    """The instances that people gave with their tasks, as examples; and the pool that they are read from."""
    manifest, tasks = context.read(schema)
    return manifest, [
        (
            {"instruction": row["instruction"], **instance, "candidate_id": f"{row['id']}/{place}"},
            [Parent(row["id"], "task")],
        )
        for row in tasks.filter(origin="human").iter_rows(named=True)
        for place, instance in enumerate(row["instances"] or ())
    ]


def store_examples(
    context: StageContext[Any],
    decisions_schema: Table,
    inputs: Sequence[Manifest],
    decisions: pl.DataFrame,
    examples: Iterable[tuple[Row, list[Parent]]],
    *,
    measures: Sequence[str],
    parameters: dict[str, Any],
) -> Result:
    """Commit the decisions, then the examples: each instance in a template that it draws by lot."""
    activity = context.activity(inputs=inputs, parameters=parameters)
    context.store_decisions(decisions_schema, decisions, inputs, activity.id)
    drafts = []
    for row, parents in examples:
        template = template_by_lot(row["candidate_id"], context.experiment.seed)
        prompt, completion = training_text(
            row["instruction"], Instance(row["input"], row["output"]), template
        )
        drafts.append(
            Draft(
                content={
                    "question": f"{row['instruction']}\n{row['input']}".strip(),
                    "format": f"template_{template}",
                    "prompt": prompt,
                    "completion": completion,
                    "instruction": row["instruction"],
                    "input": row["input"],
                    "answer": row["output"],
                },
                parents=parents,
                measures={name: row.get(name) for name in measures},
            )
        )
    manifest = context.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    return context.result(
        manifest,
        preview=["prompt", "completion"],
        metadata={
            "candidates": decisions["candidate_id"].n_unique(),
            "tasks": len({draft.content["instruction"] for draft in drafts}),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )
