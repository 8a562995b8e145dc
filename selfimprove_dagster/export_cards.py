"""What a dataset's card says of its method: the paper, the sources, how text was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.recorded_sampling import recorded_sampling
from selfimprove_dagster.text import code_span
from selfimprove_dagster.tool_tables import TF_RAW_GENERATIONS, TF_SEED_POOL, TF_TOOL_RESULTS


@dataclass(frozen=True)
class CardWords:
    """`sources` has `source_file, licence` a row of what people gave, which `noun` calls; `drawn` is the
    partition of the model's texts, `sampling` how they were drawn, `decisions` the tables of the filters."""

    citation: str
    truth: str
    sources: pl.DataFrame
    noun: str
    of_sources: str
    drawn: Manifest
    sampling: str
    decisions: tuple[str, ...]


def _lmsi(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(tables.RAW_GENERATIONS.name, dataset.partition)
    sampling = drawn.activity.parameters
    paths = f"{sampling['sampling']['paths']} paths a question, {drawn.rows:,} paths in all"
    return CardWords(
        citation='Huang et al., "Large Language Models Can Self-Improve", 2210.11610',
        truth="No true answer was used.",
        sources=lake.read_ungated(lake.manifest(tables.SEED_POOL.name, dataset.partition)),
        noun="questions",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling['temperature']},\n{paths}",
        decisions=("decisions",),
    )


def _of_tasks(method: str, citation: str) -> Callable[[Lake, Manifest], CardWords]:
    def words(lake: Lake, dataset: Manifest) -> CardWords:
        pool = lake.read_ungated(lake.manifest(tables.of(method, "seed_pool").name, dataset.partition))
        drawn = lake.manifest(tables.of(method, "raw_generations").name, dataset.partition)
        sampling = recorded_sampling(drawn.table, drawn.activity.parameters)
        people = pool.filter(origin="human")
        accepted = lake.manifest(tables.of(method, "accepted_tasks").name, dataset.partition)
        machine = len(pool) - len(people) + lake.live_rows(accepted)
        own = lake.read_columns(dataset, ["parents"])["parents"].list.len() == 1
        truth = "Instructions, inputs and outputs are the model's own."
        if own.any():
            truth = (
                f"Of {int(own.sum()):,} of them people wrote instruction, input and output, with the seed "
                "tasks; the others are the model's own."
            )
        return CardWords(
            citation=citation,
            truth=truth,
            sources=people,
            noun="tasks",
            of_sources=f"Tasks by people, which the model was shown; it added {machine:,} of its own.\n\n",
            drawn=drawn,
            sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n{drawn.rows:,} prompts "
            "in this iteration; answers were drawn greedily",
            decisions=("task_decisions", "decisions"),
        )

    return words


def _of_tools(lake: Lake, dataset: Manifest) -> CardWords:
    pool = lake.read_ungated(lake.manifest(TF_SEED_POOL.name, dataset.partition))
    drawn = lake.manifest(TF_RAW_GENERATIONS.name, dataset.partition)
    sampling = recorded_sampling(drawn.table, drawn.activity.parameters)
    calls = lake.read_columns(dataset, ["calls"]).explode("calls").unnest("calls")
    counts = calls["tool"].value_counts(sort=True).sort("count", "tool", descending=[True, False])
    versions = lake.manifest(TF_TOOL_RESULTS.name, dataset.partition).activity.parameters["tools"]
    told = ", ".join(
        f"{count:,} of {code_span(tool)} (version {code_span(versions[tool])})"
        for tool, count in counts.iter_rows()
    )
    return CardWords(
        citation='Schick et al., "Toolformer: Language Models Can Teach Themselves to Use Tools", 2302.04761',
        truth="People wrote the texts; the model chose where tools are called and with what, and the results "
        f"are the tools' own. They hold {len(calls):,} calls: {told}. No true answer was used.",
        sources=pool,
        noun="texts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n{drawn.rows:,} calls in all",
        decisions=("decisions",),
    )


CARDS: Mapping[str, Callable[[Lake, Manifest], CardWords]] = {
    "lmsi": _lmsi,
    "self_instruct": _of_tasks(
        "self_instruct",
        'Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions", 2212.10560',
    ),
    "unnatural_instructions": _of_tasks(
        "unnatural_instructions",
        'Honovich et al., "Unnatural Instructions: Tuning Language Models with (Almost) No Human Labor", '
        "2212.09689",
    ),
    "toolformer": _of_tools,
}
"""By method."""
