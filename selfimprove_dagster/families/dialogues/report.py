"""What Dagster shows of an evaluation of dialogues: how helpful and harmless, and how revisions fare."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import GREEDY
from selfimprove_dagster.families.dialogues.exam import IMPROVED, REVISION, judged_rounds
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.stage import Markdown, Picture, StageContext, number
from selfimprove_dagster.text import markdown_table, percent

_ASPECTS = ("harmless", "helpful")


def dialogue_evaluation_report(context: StageContext[Any], manifest: Manifest) -> dict[str, Any]:
    """Shares of helpful and harmless responses, by model; the curve over rounds of revision; rewards."""
    rows = context.lake.read_columns(manifest, ["role", "mode", "difficulty", "reward", *_ASPECTS])
    metadata: dict[str, Any] = {}
    table = []
    for role in ("champion", "challenger"):
        answered = rows.filter(role=role, mode=GREEDY)
        for aspect in _ASPECTS:
            known = answered[aspect].drop_nulls()
            if known.is_empty():  # the file says of no response what would be right
                continue
            share = Accuracy(int(known.sum()), len(known))
            metadata[f"{role}_{aspect}"] = number(share.value)
            table.append({"model": role, "share": aspect, "all": str(share), **_by_kind(answered, aspect)})
        if answered["reward"].count():
            metadata[f"{role}_reward"] = number(answered["reward"].mean())
    if table:
        metadata["helpful_and_harmless"] = Markdown(markdown_table(table))
    for kind in (REVISION, IMPROVED):
        curves = round_curves(rows, kind)
        if curves:
            from selfimprove_dagster.plots import line_chart

            chart = line_chart(curves, x="round", y="share of responses", title=context.experiment.name)
            metadata[f"by_round_{kind}"] = Picture(chart)
    return metadata


def round_curves(rows: pl.DataFrame, kind: str) -> dict[str, list[tuple[float, float]]]:
    """By model and aspect: the share of held-out responses after each round of revision or improvement."""
    return {
        f"{role}, {aspect}": [(float(round_), number(part[aspect].mean())) for round_, part in rounds.items()]
        for role in ("challenger", "champion")
        if (rounds := judged_rounds(rows, role, kind))
        for aspect in _ASPECTS
        if any(part[aspect].count() for part in rounds.values())
    }


def _by_kind(answered: pl.DataFrame, aspect: str) -> dict[str, str]:
    by_kind = answered.drop_nulls("difficulty").group_by("difficulty").agg(pl.col(aspect).mean())
    return {kind: percent(share, 0) for kind, share in by_kind.sort("difficulty").iter_rows()}
