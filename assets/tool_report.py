"""What Dagster shows of tool calls: examples by tool and threshold, the best, the worst, how they helped."""

from __future__ import annotations

import math
from typing import Any

import dagster as dg
import polars as pl

from assets.shown import number
from assets.stage import Stage
from selfimprove_dagster import tool_tables as t
from selfimprove_dagster.lake import Manifest
from selfimprove_dagster.methods.toolformer.calls import Call, write_call
from selfimprove_dagster.methods.toolformer.rules import counts_at
from selfimprove_dagster.text import markdown_table, plain
from selfimprove_dagster.tool_statistics import best_and_worst, call_use, plain_losses
from selfimprove_dagster.toolboxes import call_candidates

_LONGEST = 160


def call_metadata(candidates: pl.DataFrame) -> dict[str, Any]:
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
        "examples_by_threshold": dg.MetadataValue.md(markdown_table(table)),
        "best_and_worst_calls": dg.MetadataValue.md(markdown_table(calls)),
    }


def tool_evaluation(stage: Stage[Any], manifest: Manifest) -> dict[str, Any]:
    """How often calls were made, could be read and helped; the loss on plain texts; and `call_metadata`."""
    rows = stage.lake.read_ungated(manifest)
    _, results = stage.read(t.TF_TOOL_RESULTS)
    _, scores = stage.read(t.TF_PERPLEXITY_SCORES)
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
