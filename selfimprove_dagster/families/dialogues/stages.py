"""Stages that several methods share where a model responds to people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.lake.records import Parent
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec


def drawn_responses(
    schema: Table,
    pool: Table,
    description: str,
    samples: int = 1,
) -> Stage:
    """`samples` responses to each prompt of a pool, drawn as the experiment's `responses` say."""

    @stage(
        schema,
        after=[pool.stage],
        description=description,
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def responses(context: StageContext[Any]) -> Result:
        pool_manifest, prompts = context.scan(pool)
        section = context.experiment.responses
        manifest, shown = context.complete(
            [pool_manifest],
            {"responses": section.model_dump()},
            prompts.select("id", "prompt"),
            Spec.of(ask_for_responses, samples=samples),
            size=section.shard,
            each=samples,
        )
        return context.result(manifest, preview=["prompt", "sample_index", "text"], metadata=shown)

    return responses


def ask_for_responses(shard: Shard[Any, Row], *, samples: int) -> Iterator[Request]:
    """Requests for `samples` responses to each prompt (`id`, `prompt`)."""
    for row in shard.items:
        prompt = row["prompt"]
        yield Request(
            prompt,
            shard.prompts.ask("response", **spoken(prompt)),
            {"prompt_id": row["id"]},
            [Parent(row["id"], "prompt")],
            samples=samples,
        )
