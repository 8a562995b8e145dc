"""What a dataset's card says of its method: the paper, the sources, how text was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import registry, tables
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.methods.constitutional.tables import CAI_REVISIONS, CAI_SEED_POOL
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL
from selfimprove_dagster.methods.rlaif.tables import RLAIF_COMPARISONS, RLAIF_RESPONSE_PAIRS, RLAIF_SEED_POOL
from selfimprove_dagster.methods.toolformer.tables import TF_RAW_GENERATIONS, TF_SEED_POOL, TF_TOOL_RESULTS
from selfimprove_dagster.text import code_span
from selfimprove_dagster.work.shards import recorded_sampling


@dataclass(frozen=True)
class CardWords:
    """`sources` has `source_file, licence` a row of what people gave, which `noun` calls; `drawn` is the
    partition of the model's texts (None where people wrote them), `sampling` how they were drawn,
    `decisions` the tables of the filters; `made_by` says who wrote and chose, `columns` what to train on."""

    citation: str
    truth: str
    sources: pl.DataFrame
    noun: str
    of_sources: str
    drawn: Manifest | None
    sampling: str
    decisions: tuple[str, ...]
    made_by: str = "a language model wrote and chose itself"
    columns: str = "`prompt` and `completion` are what to train on"


def _lmsi(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(RAW_GENERATIONS.name, dataset.partition)
    sampling = drawn.activity.parameters
    paths = f"{sampling['sampling']['paths']} paths a question, {drawn.rows:,} paths in all"
    return CardWords(
        citation='Huang et al., "Large Language Models Can Self-Improve", 2210.11610',
        truth="No true answer was used.",
        sources=lake.read_ungated(lake.manifest(SEED_POOL.name, dataset.partition)),
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
        sampling = recorded_sampling(registry.table(drawn.table), drawn.activity.parameters)
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
    sampling = recorded_sampling(registry.table(drawn.table), drawn.activity.parameters)
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


_OF_PAIRS = (
    "`chosen` is preferred to `rejected` as a response to `prompt`, with `probability` by the judgement of "
    "`labelled_by`: what DPO trains on"
)


def _constitutional(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(CAI_REVISIONS.name, dataset.partition)
    sampling = recorded_sampling(registry.table(drawn.table), drawn.activity.parameters)
    by_format = lake.read_columns(dataset, ["format"])["format"].value_counts().sort("format")
    counts = ", ".join(f"{count:,} of format {code_span(form)}" for form, count in by_format.iter_rows())
    return CardWords(
        citation='Bai et al., "Constitutional AI: Harmlessness from AI Feedback", 2212.08073',
        truth=f"They are {counts}; people wrote the prompts, and the model criticised and revised its own "
        "responses by the principles of a constitution. No true answer was used.",
        sources=lake.read_ungated(lake.manifest(CAI_SEED_POOL.name, dataset.partition)),
        noun="prompts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n"
        f"{drawn.rows:,} revisions in all",
        decisions=("decisions",),
    )


def _rlaif(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(RLAIF_RESPONSE_PAIRS.name, dataset.partition)
    sampling = recorded_sampling(registry.table(drawn.table), drawn.activity.parameters)
    judge = lake.manifest(RLAIF_COMPARISONS.name, dataset.partition)
    return CardWords(
        citation='Lee et al., "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI '
        'Feedback", 2309.00267',
        truth=f"The labels are of a model: {code_span(judge.activity.model_id or 'unknown')} was asked "
        f"{judge.rows:,} times which response is the better. No person and no true answer judged.",
        sources=lake.read_ungated(lake.manifest(RLAIF_SEED_POOL.name, dataset.partition)),
        noun="prompts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n"
        f"{drawn.rows:,} responses in all",
        decisions=("decisions",),
        made_by="are pairs of responses that a language model wrote and judged",
        columns=_OF_PAIRS,
    )


def _of_comparisons(method: str, citation: str) -> Callable[[Lake, Manifest], CardWords]:
    def words(lake: Lake, dataset: Manifest) -> CardWords:
        by = [*lake.read_ungated(dataset)["labelled_by"].unique().sort()]
        people = by in ([], ["people"])
        return CardWords(
            citation=citation,
            truth="The responses and the labels are those of the files."
            if people
            else f"The responses and the labels are those of {', '.join(map(code_span, by))}.",
            sources=lake.read_ungated(lake.manifest(f"{method}/seed_pool", dataset.partition)),
            noun="comparisons",
            of_sources="",
            drawn=None,
            sampling="",
            decisions=("decisions",),
            made_by=f"are pairs of responses between which {'people' if people else ', '.join(by)} chose",
            columns=_OF_PAIRS,
        )

    return words


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
    "constitutional": _constitutional,
    "rlaif": _rlaif,
    "rlhf": _of_comparisons(
        "rlhf",
        'Ouyang et al., "Training language models to follow instructions with human feedback", 2203.02155',
    ),
    "pit": _of_comparisons(
        "pit",
        'Wang et al., "Enabling Language Models to Implicitly Learn Self-Improvement", 2310.00898',
    ),
}
"""By method."""
