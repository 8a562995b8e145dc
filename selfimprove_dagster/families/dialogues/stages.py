"""Stages that several methods share where a model responds to people."""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.lake.records import Parent
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.shards import Request


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
        pool_manifest, prompts = context.read(pool)
        requests = [
            Request(
                prompt, dialogue_prompt(prompt), {"prompt_id": id}, [Parent(id, "prompt")], samples=samples
            )
            for id, prompt in prompts.select("id", "prompt").iter_rows()
        ]
        section = context.experiment.responses
        manifest, shown = context.complete(
            [pool_manifest],
            {"responses": section.model_dump()},
            requests,
            size=section.shard,
        )
        return context.result(manifest, preview=["prompt", "sample_index", "text"], metadata=shown)

    return responses
