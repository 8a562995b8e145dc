"""Toolformer: texts annotated with the calls of tools that make them easier to predict. Group `toolformer`.

seed_pool ┬→ call_positions → raw_generations ─┬→ tool_results → perplexity_scores → filtered_dataset
          └→ search_index ─────────────────────┘   → (shared stages)

A chat model is asked in a conversation for a text with calls. What it then reads, writes and learns is text: losses are
those of plain texts, it is trained on texts with calls, and in the exam it goes on with beginnings of texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Any

import polars as pl

from selfimprove_dagster.drawing import recorded_sampling
from selfimprove_dagster.families.trained.filtered import filter_parameters, map_filtered
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.filters.whole import apply_verdicts, in_parts, with_verdicts
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.loss import Losses, choose_positions
from selfimprove_dagster.methods.toolformer.rules import (
    counts_at,
    filter_over_texts,
    filter_within_texts,
    training_texts,
)
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.statistics import best_and_worst, call_use, plain_losses
from selfimprove_dagster.methods.toolformer.tool_use import (
    Annotated,
    call_prompts,
    position_probabilities,
    score_calls,
)
from selfimprove_dagster.methods.toolformer.toolboxes import (
    call_candidates,
    call_thresholds,
    experiment_tools,
    search_folder,
)
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.stage import Markdown, Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import markdown_table, plain
from selfimprove_dagster.tools.base import Context, ToolError
from selfimprove_dagster.tools.calls import Call, PlacedCall, read_call, write_call
from selfimprove_dagster.tools.prompts import annotating
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.wiki_search import WikiSearch
from selfimprove_dagster.tools.writing import opening_token
from selfimprove_dagster.work.shards import Request, Shard, completer, sampling_of
from selfimprove_dagster.work.spec import Spec

_LONGEST = 160
UNSCORED = "too_long: the text, or a call before it, is longer than the model reads"


def call_metadata(candidates: pl.LazyFrame) -> dict[str, Any]:
    """The paper's table of examples by tool and threshold, and each tool's best and worst calls."""
    counts = counts_at(candidates)
    table = [
        {"tool": tool, **{f"τ_f {row['threshold']:g}": row["examples"] for row in part.iter_rows(named=True)}}
        for (tool,), part in counts.group_by("tool", maintain_order=True)
    ]
    calls = [
        {
            "tool": plain(tool, 40),
            "": which,
            "call": plain(write_call(Call(row["tool"], row["arguments"], row["result"])), _LONGEST),
            "L⁻ − L⁺": round(row["loss_reduction"], 3),
        }
        for tool, best, worst in best_and_worst(candidates)
        for which, rows in (("best", best), ("worst", worst))
        for row in rows.iter_rows(named=True)
    ]
    return {
        "examples_by_threshold": Markdown(markdown_table(table)),
        "best_and_worst_calls": Markdown(markdown_table(calls)),
    }


def tool_evaluation(context: StageContext[Any], manifest: Manifest) -> dict[str, Any]:
    """How often calls were made, could be read and helped; the loss on plain texts; and `call_metadata`."""
    place, measured = ("source_file", "source_line"), ("correct", "calls", "nats", "tokens")
    rows = context.lake.read_columns(manifest, ["role", "mode", *place, *measured])
    _, results = context.scan(t.TF_TOOL_RESULTS)
    _, scores = context.scan(t.TF_PERPLEXITY_SCORES)
    shown: dict[str, Any] = {}
    for role in ("champion", "challenger"):
        use = call_use(rows, role)
        shown |= {f"{role}_{name}": number(value) for name, value in vars(use).items()}
    for role, loss in plain_losses(rows).items():
        shown |= {
            f"{role}_plain_nats_per_token": number(loss),
            f"{role}_plain_perplexity": number(math.exp(loss)),
        }
    return {**shown, **call_metadata(call_candidates(results, scores))}


CALL_FIELDS = ("tool", "position", "arguments", "result")


def with_prompts(rows: pl.LazyFrame, tools: Toolbox, prompts: Prompts) -> pl.LazyFrame:
    """The rows (`tool`, `text`), each with the prompt that asks the tool's calls of the text."""

    def of(batch: pl.DataFrame) -> pl.DataFrame:
        asked = [
            prompts.ask("annotation", **annotating(tools[tool], text))
            for tool, text in batch.select("tool", "text").iter_rows()
        ]
        return batch.with_columns(pl.Series("prompt", asked, dtype=pl.String))

    schema = pl.Schema({**rows.collect_schema(), "prompt": pl.String()})
    return rows.map_batches(of, schema=schema, streamable=True)


_RESULTS = 512
"""Calls a shard of tool_results."""


seed_pool = drawn_pool(
    t.TF_SEED_POOL,
    "The plain texts of this iteration, each with its date and the file and line that it came from. Texts "
    "that no earlier iteration used come first.",
)


@stage(
    t.TF_SEARCH_INDEX,
    after=["seed_pool"],
    description="The BM25 index behind WikiSearch, built once for each state of the corpus.",
)
def search_index(context: StageContext[ToolformerExperiment]) -> Result:
    section = context.experiment.tools
    drafts = []
    if WikiSearch.name in section.names:
        search = WikiSearch(section.corpus_file, search_folder(context.home))
        content = {"tool": search.name, "corpus": section.corpus_file.name, "tool_version": search.version}
        drafts.append(Draft(content, measures={"passages": search.passages}))
    manifest = context.store(context.activity(inputs=[], parameters={}), drafts)
    return context.result(manifest, preview=["tool", "corpus", "passages"])


@stage(
    t.TF_CALL_POSITIONS,
    after=["seed_pool"],
    description="The probability that a call opens, at every position of each text and for each tool, from "
    "one forward pass. Calls are sampled at the most likely positions.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
    sampled_by="id",
)
def call_positions(context: StageContext[ToolformerExperiment]) -> Result:
    section = context.experiment.annotation
    pool_manifest, pool = context.scan(t.TF_SEED_POOL)
    with experiment_tools(context.experiment, context.home) as tools:
        names = pl.concat_list(map(pl.lit, tools))
        manifest, shown = context.work(
            [pool_manifest],
            {"annotation": section.model_dump(include={"tools", "other_tools"}), "tools": sorted(tools)},
            with_prompts(pool.select("id", "text", tool=names).explode("tool"), tools, context.prompts),
            Spec.of(find_positions),
            size=section.shard * len(tools),
            unit="texts times tools",
        )
    rows = context.lake.scan_ungated(manifest)
    by_tool = rows.group_by("tool").agg(pl.col("chosen").list.len().sum()).sort("tool").collect()
    return context.result(
        manifest,
        preview=["tool", "chosen", "probabilities"],
        metadata={**shown, **{f"positions_{tool}": count for tool, count in by_tool.iter_rows()}},
    )


def find_positions(shard: Shard[ToolformerExperiment, Row]) -> list[Draft]:
    """Where calls may open in each text, for each tool (`id`, `text`, `tool`, `prompt`)."""
    texts = [_annotated(shard, row) for row in shard.items]
    found = position_probabilities(shard.model, texts, opening_token(shard.model))
    shard.report.advance(len(texts))
    drafts = []
    for row, at in zip(shard.items, found, strict=True):
        if at.problem is not None:
            nothing = {"text_id": row["id"], "tool": row["tool"], "positions": [], "chosen": []}
            measures = {"probabilities": [], "problem": at.problem}
            drafts.append(Draft(nothing, [Parent(row["id"], "text")], measures))
            continue
        sampling = shard.experiment.annotation.of(row["tool"])
        chosen = choose_positions(at.probabilities, sampling.positions, sampling.threshold)
        content = {
            "text_id": row["id"],
            "tool": row["tool"],
            "positions": at.positions,
            "chosen": [at.positions[index] for index in chosen],
        }
        drafts.append(
            Draft(content, [Parent(row["id"], "text")], {"probabilities": at.probabilities, "problem": None})
        )
    return drafts


@stage(
    t.TF_RAW_GENERATIONS,
    after=["call_positions"],
    description="Calls sampled at the chosen positions of each text, from the opening bracket to the end of "
    "their input.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
    sampled_by="text_id",
)
def raw_generations(context: StageContext[ToolformerExperiment]) -> Result:
    section = context.experiment.annotation
    pool_manifest, pool = context.scan(t.TF_SEED_POOL)
    positions_manifest, positions = context.scan(t.TF_CALL_POSITIONS)
    settings = {"annotation": section.model_dump()}
    places = positions.select("id", "text_id", "tool", position="chosen").explode("position")
    texts = pool.select("text", text_id="id")
    with experiment_tools(context.experiment, context.home) as tools:
        manifest, shown = context.work(
            [pool_manifest, positions_manifest],
            settings,
            with_prompts(
                places.drop_nulls("position").join(texts, on="text_id", maintain_order="left"),
                tools,
                context.prompts,
            ),
            Spec.of(
                sample_calls,
                sampling=asdict(recorded_sampling(t.TF_RAW_GENERATIONS, settings, context.prompts)),
            ),
            size=section.shard,
            unit="calls",
            each=lambda row: section.of(row["tool"]).calls,
        )
    return context.result(manifest, preview=["tool", "position", "text"], metadata=shown)


def sample_calls(shard: Shard[ToolformerExperiment, Row], *, sampling: Mapping[str, Any]) -> list[Draft]:
    """The calls sampled at each place (`id`, `text_id`, `tool`, `position`, `text`, `prompt`)."""
    model = shard.model
    asked = [(_annotated(shard, row), row["position"]) for row in shard.items]
    begun = call_prompts(model, asked, opening_token(model))
    requests = [
        Request(
            key=f"{row['tool']} {row['position']} {row['text']}",
            prompt=prompt,
            content={name: row[name] for name in ("text_id", "tool", "position")},
            parents=[Parent(row["text_id"], "text"), Parent(row["id"], "position")],
            token_ids=ids,
            samples=shard.experiment.annotation.of(row["tool"]).calls,
        )
        for row, (prompt, ids) in zip(shard.items, begun, strict=True)
    ]
    return completer(model, sampling_of(sampling), shard.seeds_from)(requests, shard.report)


def _annotated(shard: Shard[ToolformerExperiment, Row], row: Row) -> Annotated:
    """The `text` of a row as it follows the `prompt` that asks for its calls."""
    return Annotated(row["prompt"], row["text"], shard.prompts.completion("annotation", row["text"]))


@stage(
    t.TF_TOOL_RESULTS,
    after=["raw_generations", "search_index"],
    description="The call in each completion and the result of the tool, or the problem: the call could not "
    "be parsed, was refused, failed, took too long, or gave no result.",
    uses=["language_model"],
    sampled_by="text_id",
)
def tool_results(context: StageContext[ToolformerExperiment]) -> Result:
    pool_manifest, pool = context.scan(t.TF_SEED_POOL)
    drawn_manifest, drawn = context.scan(t.TF_RAW_GENERATIONS)
    index_manifest, _ = context.scan(t.TF_SEARCH_INDEX)
    calls = drawn.select("id", "text_id", "tool", "position", "text", "problem").join(
        pool.select(text_id="id", day="date"), on="text_id", how="left", maintain_order="left"
    )
    with experiment_tools(context.experiment, context.home, context.open_model) as tools:
        activity = context.activity(
            inputs=[pool_manifest, drawn_manifest, index_manifest],
            parameters={"tools": {name: tool.version for name, tool in tools.items()}},
        )
        manifest, _ = context.map(
            calls, Spec.of(call_tools), activity, size=_RESULTS, unit="calls", opened=tools
        )
    rows = context.lake.scan_ungated(manifest)
    made = rows.group_by("tool").agg(pl.col("result").is_not_null().mean()).sort("tool").collect()
    return context.result(
        manifest,
        preview=["tool", "arguments", "result", "problem"],
        metadata={f"with_result_{tool}": number(share) for tool, share in made.iter_rows()},
    )


def call_tools(shard: Shard[ToolformerExperiment, Row]) -> list[Draft]:
    """What the tools say to the call of each completion; `day` is when its text was written."""
    tools: Toolbox = shard.opened
    calls = [row["problem"] or read_call(row["text"], {row["tool"]}) for row in shard.items]
    wanted = [
        (call.tool, call.arguments, Context(date.fromisoformat(row["day"]) if row["day"] else None))
        for row, call in zip(shard.items, calls, strict=True)
        if isinstance(call, Call)
    ]
    results = iter(tools.call_all(wanted))
    shard.report.advance(len(calls))
    return [
        _made(row, tools, call, next(results) if isinstance(call, Call) else None)
        for row, call in zip(shard.items, calls, strict=True)
    ]


def _made(row: Row, tools: Toolbox, call: Call | str, result: str | ToolError | None) -> Draft:
    problem = call if isinstance(call, str) else result.reason if isinstance(result, ToolError) else None
    return Draft(
        content={
            "generation_id": row["id"],
            **{name: row[name] for name in ("text_id", "tool", "position")},
            "tool_version": tools[row["tool"]].version,
            "arguments": call.arguments if isinstance(call, Call) else None,
            "result": result if isinstance(result, str) else None,
            "problem": problem,
        },
        parents=[Parent(row["id"], "parsed_from")],
    )


@stage(
    t.TF_PERPLEXITY_SCORES,
    after=["tool_results"],
    description="The loss of the text after each call's position, weighted over five tokens: without the "
    "call, with it, and with its result as well, as a prefix of the whole text. All thresholds are applied "
    "to these losses.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def perplexity_scores(context: StageContext[ToolformerExperiment]) -> Result:
    pool_manifest, pool = context.scan(t.TF_SEED_POOL)
    results_manifest, results = context.scan(t.TF_TOOL_RESULTS)
    least, experiment = context.experiment.filter.lowest, context.experiment
    usable = results.filter(pl.col("problem").is_null()).select("id", "text_id", *CALL_FIELDS)
    # So many texts a shard: the last digits of a loss depend on what is scored together, and decisions hash it.
    number = usable.select("text_id").unique(maintain_order=True).with_row_index("shard")
    shards = number.with_columns(pl.col("shard") // experiment.annotation.shard)
    calls = usable.join(shards, on="text_id", maintain_order="left").join(
        pool.select("text", text_id="id"), on="text_id", maintain_order="left"
    )
    with context.language_model.open(experiment.model, context.generator.path, experiment.scores) as model:
        activity = context.drawing(model, [pool_manifest, results_manifest], {"least_reduction": least})
        manifest, spent = context.map(
            calls,
            Spec.of(score_shard, least_reduction=least),
            activity,
            size=1,
            unit="calls",
            together="shard",
            opened=model,
        )
    candidates = call_candidates(results, context.lake.scan_ungated(manifest))
    return context.result(
        manifest,
        preview=["candidate_id", "loss_no_call", "loss_call", "loss_call_with_result"],
        metadata={**context.drawn_metadata(activity, spent), **call_metadata(candidates)},
    )


def score_shard(shard: Shard[ToolformerExperiment, Row], *, least_reduction: float) -> list[Draft]:
    """The losses of the calls (`id`, `text_id`, `text`, `CALL_FIELDS`), of equal ones at a place the first."""
    place = ["text_id", "position", "tool", "arguments"]
    rows = shard.frame.unique(place, keep="first", maintain_order=True).rows(named=True)
    texts = list(dict.fromkeys((row["text_id"], row["text"]) for row in rows))
    numbers = {text_id: number for number, (text_id, _) in enumerate(texts)}
    placed = [
        (
            numbers[row["text_id"]],
            PlacedCall(row["position"], Call(row["tool"], row["arguments"], row["result"])),
        )
        for row in rows
    ]
    losses = score_calls(shard.model, [text for _, text in texts], placed, least_reduction=least_reduction)
    shard.report.advance(len(shard.items))
    return [
        Draft(
            content={"candidate_id": row["id"]},
            parents=[Parent(row["id"], "scored")],
            measures=_scored(loss),
        )
        for row, loss in zip(rows, losses, strict=True)
    ]


def _scored(losses: Losses) -> dict[str, Any]:
    """Return the losses by the name of their column; all are None with a problem if one could not be scored."""
    values: dict[str, float | None] = {f"loss_{name}": value for name, value in vars(losses).items()}
    if any(math.isnan(one) for one in values.values() if one is not None):
        return {**dict.fromkeys(values), "problem": UNSCORED}
    return {**values, "problem": None}


@stage(
    t.TF_DECISIONS,
    t.TF_FILTERED_DATASET,
    after=["perplexity_scores"],
    description="The texts with the calls that reduce the loss enough. The decision of each rule on each "
    "call is in toolformer/decisions.",
    version="2",
)
def filtered_dataset(context: StageContext[ToolformerExperiment]) -> Result:
    pool_manifest, pool = context.scan(t.TF_SEED_POOL)
    results_manifest, results = context.scan(t.TF_TOOL_RESULTS)
    scores_manifest, scores = context.scan(t.TF_PERPLEXITY_SCORES)
    section, seed = context.experiment.filter, context.experiment.seed
    candidates = call_candidates(results, scores, pool)
    on_all = filter_over_texts(in_parts(candidates, "text_id"), call_thresholds(section), seed)
    texts = pool.select("text", text_id="id")
    filters = filter_parameters(context.experiment)
    activity = context.activity(
        inputs=[pool_manifest, results_manifest, scores_manifest],
        parameters={"filter": section.model_dump(), "seed": seed, **filters["parameters"]},
        about=filters["about"],
    )
    decisions, manifest = map_filtered(
        context,
        with_verdicts(candidates, on_all).join(texts, on="text_id", how="left", maintain_order="left"),
        Spec.of(annotate),
        activity,
        (t.TF_DECISIONS, context.deciding(t.TF_DECISIONS, [results_manifest], activity.id)),
        together="text_id",
        decided="each",
    )
    tool = pl.col("calls").explode(empty_as_null=False).struct.field("tool")
    kept = context.lake.scan_ungated(manifest).select(tool=tool).collect()["tool"]
    return context.result(
        manifest,
        preview=["completion", "loss_reduction"],
        metadata={
            "calls_tried": context.lake.live_rows(results_manifest),
            "calls_kept": len(kept),
            **{f"kept_{name}": count for name, count in kept.value_counts(sort=True).iter_rows()},
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


def annotate(shard: Shard[ToolformerExperiment, Row]) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on calls, each with its text, and the texts with the calls that every rule keeps."""
    candidates, thresholds = shard.frame, call_thresholds(shard.experiment.filter)
    within, decisions = filter_within_texts(candidates, thresholds)
    kept, on_all = apply_verdicts(within)
    texts = dict(candidates.select("text_id", "text").unique().iter_rows())
    found = {row["candidate_id"]: row for row in kept.iter_rows(named=True)}
    drafts = []
    for row in training_texts(kept, texts).iter_rows(named=True):
        calls = [found[candidate] for candidate in row["candidate_ids"]]
        # Calls that were not chosen by it may not be scored to the end.
        saved = [call["loss_reduction"] for call in calls]
        most = max((nats for nats in saved if nats is not None), default=None)
        drafts.append(
            Draft(
                content={
                    "question": texts[row["text_id"]],
                    "format": "interleaved",
                    "prompt": "",
                    "completion": row["text"],
                    "text_id": row["text_id"],
                    "calls": [
                        {"id": call["candidate_id"], **{name: call[name] for name in CALL_FIELDS}}
                        for call in calls
                    ],
                },
                parents=[
                    Parent(row["text_id"], "text"),
                    *(Parent(call["candidate_id"], "call") for call in calls),
                ],
                measures={"loss_reduction": most, "loss_reductions": saved},
            )
        )
    return decision_drafts(pl.concat([decisions, on_all]), t.TF_FILTERED_DATASET), drafts


STAGES = [
    seed_pool,
    search_index,
    call_positions,
    raw_generations,
    tool_results,
    perplexity_scores,
    filtered_dataset,
    *training_stages(t.TABLES, report=tool_evaluation, prompting=TEXT),
]
