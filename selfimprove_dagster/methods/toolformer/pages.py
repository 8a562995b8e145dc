"""The pages of Toolformer: calls by tool and threshold, and the calls of one record in their text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import (
    MODELS,
    Chart,
    Curve,
    Measured,
    by_role,
    curve,
    held_out_accuracy,
)
from selfimprove_dagster.explorer.declare import AboutRecord, Block, Pages, RecordBlock
from selfimprove_dagster.explorer.funnel import Stages, Step, by_rule, step
from selfimprove_dagster.explorer.listings import HERE, RULE, UNFILTERED, Column, Facet, Listing, Range
from selfimprove_dagster.explorer.shown import LONGEST
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.exam import WITH_TOOLS
from selfimprove_dagster.methods.toolformer.explain import loss_of
from selfimprove_dagster.methods.toolformer.rules import TABLE_THRESHOLDS, counts_at
from selfimprove_dagster.methods.toolformer.statistics import best_and_worst, call_use, plain_losses
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates
from selfimprove_dagster.methods.toolformer.words import losses, written
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import code_span
from selfimprove_dagster.tools.calls import Call, PlacedCall, interleave

_ABOUT_CALLS = ("filtered_dataset", "tool_results", "perplexity_scores", "decisions", "raw_generations")


def calls_of_iteration(lake: Lake, stages: Stages) -> Row | None:
    """Examples by tool and threshold, the best and worst calls, and how held-out texts used theirs.

    None where no call was scored yet, and for other methods.
    """
    if "tool_results" not in stages or "perplexity_scores" not in stages:
        return None
    results, scores = (lake.read_ungated(stages[stage]) for stage in ("tool_results", "perplexity_scores"))
    candidates = call_candidates(results, scores)
    evaluation = lake.read_ungated(stages["evaluation"]) if "evaluation" in stages else None
    return {
        "thresholds": TABLE_THRESHOLDS,
        "counts": [
            (tool, part["examples"].to_list())
            for (tool,), part in counts_at(candidates).group_by("tool", maintain_order=True)
        ],
        "ranked": [
            {"tool": tool, "best": _listed(best), "worst": _listed(worst)}
            for tool, best, worst in best_and_worst(candidates)
        ],
        "uses": []
        if evaluation is None
        else [(name, vars(call_use(evaluation, role))) for role, name in MODELS.items()],
    }


def measured_calls(lake: Lake, stages: Stages) -> Row:
    """What the curves of an experiment show of an iteration: calls kept, and what plain texts cost."""
    kept = drawn = None
    if "filtered_dataset" in stages:
        kept = int(lake.read_columns(stages["filtered_dataset"], ["calls"])["calls"].list.len().sum())
    if "raw_generations" in stages:
        drawn = lake.live_rows(stages["raw_generations"])
    plain: dict[str, float] = {}
    if "evaluation" in stages:
        rows = lake.read_columns(stages["evaluation"], ["role", "mode", "nats", "tokens"])
        plain = {role: math.exp(nats) for role, nats in plain_losses(rows).items()}
    return {
        "calls_kept": kept,
        "kept_share": kept / drawn if kept is not None and drawn else None,
        "plain": plain,
    }


def _listed(part: pl.DataFrame) -> list[Row]:
    return [{**row, "written": written(row)} for row in part.iter_rows(named=True)]


def calls_of_record(lineage: Lineage, row: Row, withdrawn: set[str]) -> Row | None:
    """The calls that a record is, holds or is about: their losses, and the text with them.

    `pieces` are parts of the text, each with whether it is a call. None for other records, and where the text
    or every call was revoked.
    """
    if row["table_name"].split("/")[1] not in _ABOUT_CALLS:
        return None
    place = Place(row["id"], row["table_name"], row["experiment"], row["iteration"])
    story = Story(lineage, place, dict(row))
    iteration, calls = story.iteration, [call for call in story.candidates if call["id"] not in withdrawn]
    calls = sorted((call for call in calls if written(call)), key=lambda call: int(call["position"]))
    text = iteration.row(t.TF_SEED_POOL, "id", calls[0]["text_id"]) if calls else {}
    if not text or text["id"] in withdrawn:
        return None
    found = {call["id"]: score for call in calls if (score := loss_of(story, call))}
    ids = [call["id"] for call in calls]
    decided = iteration.rows(t.TF_DECISIONS, pl.col("candidate_id").is_in(ids))
    last = {one["candidate_id"]: one for one in decided}
    thresholds = {one["candidate_id"]: one["threshold"] for one in decided if one["rule"] == "loss_reduction"}
    return {
        "pieces": list(_pieces(text["text"], calls)),
        "calls": [
            {
                **call,
                "written": written(call),
                "losses": vars(losses(found[call["id"]])) if call["id"] in found else {},
                "saved": losses(found[call["id"]]).reduction if call["id"] in found else None,
                "threshold": thresholds.get(call["id"]),
                "decision": last.get(call["id"]),
            }
            for call in calls
        ],
    }


def _pieces(text: str, calls: list[Row]) -> Iterator[tuple[str, bool]]:
    """The text with its calls, cut where a page cuts texts."""
    placed = [
        PlacedCall(call["position"], Call(call["tool"], call["arguments"], call["result"])) for call in calls
    ]
    whole, done = interleave(text, placed)[:LONGEST], 0
    for call in calls:
        at = whole.find(written(call), done)
        if at < 0:
            break
        yield whole[done:at], False
        done = at + len(written(call))
        yield whole[at:done], True
    yield whole[done:], False


# ---- an experiment -----------------------------------------------------------------------------------


_CURVES = (
    Curve("kept_share", "Kept share", "Calls in the dataset per sampled call.", True),
    Curve("calls_kept", "Calls kept", "Calls in the dataset of the iteration."),
)


_PLAIN = Curve(
    "plain",
    "Perplexity of plain texts",
    "On held-out texts without calls: learning to call tools must not make it rise.",
)


def _charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
    answers = (
        "Greedy answers, with their calls," if experiment.decided_in == WITH_TOOLS else "Greedy answers,"
    )
    drawn = (curve(one, rows) for one in _CURVES)
    return [held_out_accuracy(rows, answers), *drawn, by_role(_PLAIN, rows)]


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """The steps from texts to places where calls are tried, to calls that help, to texts with calls."""
    steps: list[Step] = []
    if "seed_pool" in stages:
        steps.append(step("texts", lake.live_rows(stages["seed_pool"])))
    if "call_positions" in stages:
        chosen = lake.read_columns(stages["call_positions"], ["chosen"])["chosen"]
        steps.append(step("places where a call is likely enough", int(chosen.list.len().sum())))
    if "raw_generations" in stages:
        drawn = lake.live_rows(stages["raw_generations"])
        steps.append(step("calls sampled there", drawn, of=drawn))
        if "decisions" in stages:
            decided = lake.read_columns(stages["decisions"], ["rule", "kept"])
            steps += by_rule(decided, "calls", drawn, _CALL_RULES)
    if "filtered_dataset" in stages:
        steps.append(step("texts with calls: training examples", lake.live_rows(stages["filtered_dataset"])))
    return steps


_CALL_RULES = {
    "has_result": "with a result",
    "repeated_call": "new at their place: scored",
    "loss_reduction": "lower the loss by the threshold of their tool",
    "best_at_position": "the most helpful at their place",
    "drawn_by_lot": "sampled at random",
    "texts_per_tool": "in a text that its tool may have",
}


# ---- lists -------------------------------------------------------------------------------------------


_SAVED = Column("saves", "saved", "saved", True)


_OF_SAVED = Range("Nats saved", "saved", share=False)


_WRITTEN = """CASE WHEN call.arguments IS NULL THEN drawn.text
ELSE '[' || call.tool || '(' || call.arguments || ')' || coalesce(' → ' || call.result, '') || ']' END"""


_EXAMPLES = Listing(
    noun="example",
    about="",
    text="text with its calls",
    asks="texts and calls",
    needed=("filtered_dataset",),
    source="FROM (SELECT *, list_sort(list_distinct([call.tool for call in calls])) AS tools, "
    f'len(calls) AS made, loss_reduction AS saved FROM "toolformer"."filtered_dataset") {HERE}',
    select="id, id AS link, left(completion, 400) AS title, NULL AS body, "
    "array_to_string(tools, ', ') AS tools_named, made, saved",
    words=("completion",),
    facets=(Facet("tool", "tools", many=True),),
    columns=(
        Column("tools", "tools_named", "tools"),
        Column("calls", "made", "calls", True),
        _SAVED,
    ),
    default="-saved",
    between=_OF_SAVED,
)


_DROPPED = Listing(
    noun="call",
    about="Calls that were tried and are not in the dataset, each with the rule that dropped it. A call saves as "
    "many nats as it lowers the weighted loss of the tokens after it. Calls that could not reach the threshold "
    "were not scored to the end.",
    text="call, and where it was tried",
    asks="calls and reasons",
    needed=("decisions", "tool_results", "perplexity_scores"),
    source=f"""FROM (
    SELECT decided.*, call.tool AS tool, {_WRITTEN} AS title,
        right(left(said.text, call.position), 90) || '▸' || substr(said.text, call.position + 1, 70) AS body,
        CASE WHEN loss_call IS NOT NULL
            THEN least(loss_no_call, loss_call) - loss_call_with_result END AS saved
    FROM "toolformer"."decisions" AS decided
    JOIN (FROM "toolformer"."tool_results" {HERE}) AS call ON call.id = decided.candidate_id
    LEFT JOIN (FROM "toolformer"."seed_pool" {HERE}) AS said ON said.id = call.text_id
    LEFT JOIN (FROM "toolformer"."raw_generations" {HERE}) AS drawn ON drawn.id = call.generation_id
    LEFT JOIN (FROM "toolformer"."perplexity_scores" {HERE}) AS lost ON lost.candidate_id = call.id
) {HERE} AND NOT kept""",
    select="id, candidate_id AS link, rule, reason, score, threshold, nearest_id, tool, saved, "
    "left(title, 400) AS title, body",
    words=("title", "body", "reason"),
    facets=(Facet("tool", "tool"), RULE),
    columns=(
        Column("tool", "tool", "tool"),
        Column("rule", "rule", "rule"),
        _SAVED,
        Column("threshold", "threshold", number=True),
    ),
    default="-saved",
    between=_OF_SAVED,
    waiting=UNFILTERED,
    called="what was dropped",
)


# ---- export ------------------------------------------------------------------------------------------


def _words(lake: Lake, dataset: Manifest) -> CardWords:
    pool = lake.read_ungated(lake.manifest(t.TF_SEED_POOL.name, dataset.partition))
    drawn = lake.manifest(t.TF_RAW_GENERATIONS.name, dataset.partition)
    sampling = drawn_with(drawn.activity)
    calls = lake.read_columns(dataset, ["calls"]).explode("calls").unnest("calls")
    counts = calls["tool"].value_counts(sort=True).sort("count", "tool", descending=[True, False])
    versions = lake.manifest(t.TF_TOOL_RESULTS.name, dataset.partition).activity.parameters["tools"]
    counted = ", ".join(
        f"{count:,} of {code_span(tool)} (version {code_span(versions[tool])})"
        for tool, count in counts.iter_rows()
    )
    return CardWords(
        truth="People wrote the texts; the model chose where tools are called and with what, and the results "
        f"are the tools' own. They hold {len(calls):,} calls: {counted}. No true answer was used.",
        sources=pool,
        noun="texts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n{drawn.rows:,} calls in all",
        decisions=("decisions",),
    )


_NO_INSTRUCTIONS = (
    "is for instructions with answers, and the examples of toolformer are whole texts with calls: export them as "
    "jsonl, parquet or huggingface, and train on `completion` after an empty prompt"
)


def _calls_of_record(about: AboutRecord) -> Row | None:
    return calls_of_record(about.lineage, about.row, about.withdrawn)


PAGES = Pages(
    examples=_EXAMPLES,
    dropped={"calls": _DROPPED},
    funnel=_funnel,
    measure=measured_calls,
    charts=_charts,
    blocks=[Block(Path(__file__).with_name("calls.html"), calls_of_iteration)],
    record=[RecordBlock(Path(__file__).with_name("calls_of_record.html"), _calls_of_record)],
)
CARD = Card(
    _words,
    ("id", "prompt", "completion", "format", pl.col("question").alias("text"), "calls"),
    refused=dict.fromkeys(("alpaca", "chat", "sharegpt"), _NO_INSTRUCTIONS),
)
