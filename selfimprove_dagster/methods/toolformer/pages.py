"""Calls of tools on the pages: those of an iteration by tool and threshold, and those of one record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.explorer.curves import MODELS
from selfimprove_dagster.explorer.shown import LONGEST
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.explain import METHOD, calls_of, losses, losses_of, written
from selfimprove_dagster.methods.toolformer.rules import TABLE_THRESHOLDS, counts_at
from selfimprove_dagster.methods.toolformer.statistics import best_and_worst, call_use, plain_losses
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates
from selfimprove_dagster.tools.calls import Call, PlacedCall, interleave

Row = dict[str, Any]


_ABOUT_CALLS = ("filtered_dataset", "tool_results", "perplexity_scores", "decisions", "raw_generations")


def calls_of_iteration(lake: Lake, stages: Mapping[str, Manifest]) -> dict[str, Any] | None:
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


def measured_calls(lake: Lake, stages: Mapping[str, Manifest]) -> dict[str, Any]:
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


def calls_of_record(lake: Lake, row: Mapping[str, Any], withdrawn: set[str]) -> dict[str, Any] | None:
    """The calls that a record is, holds or is about: their losses, and the text with them.

    `pieces` are parts of the text, each with whether it is a call. None for other records, and where the text
    or every call was revoked.
    """
    method, stage = row["table_name"].split("/")
    if method != METHOD or stage not in _ABOUT_CALLS:
        return None
    iteration = Iteration(lake, row["experiment"], row["iteration"], METHOD)
    calls = [call for call in calls_of(iteration, dict(row)) if call["id"] not in withdrawn]
    calls = sorted((call for call in calls if written(call)), key=lambda call: int(call["position"]))
    text = iteration.row(t.TF_SEED_POOL, "id", calls[0]["text_id"]) if calls else {}
    if not text or text["id"] in withdrawn:
        return None
    found, ids = losses_of(iteration, calls), [call["id"] for call in calls]
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


PAGES = None
CARD = None
