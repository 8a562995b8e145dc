"""Refined answers on the pages: accuracy by round and way, and all that was said to one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.judge_words import step_words
from selfimprove_dagster.lineage.refinement_explain import steps_of
from selfimprove_dagster.methods.refinement import OUTCOME
from selfimprove_dagster.records import Row
from selfimprove_dagster.refinement_results import AfterRound, after_rounds, curves
from selfimprove_dagster.refinement_tables import METHOD, REFINEMENTS

Stages = Mapping[str, Manifest]
_EXAM = ("mode", "source_file", "source_line", "correct", "helpful", "harmless", "tokens_in", "tokens_out")


def refining_of(lake: Lake, stages: Stages) -> dict[str, Any]:
    """What the exam of one iteration came to, as `judging_of` gives it for other methods."""
    ways = _curves(lake, stages)
    chart = None
    if ways:
        series = [
            {
                "name": way.replace("_", "-"),
                "values": [one.correct.value for one in rounds],
                "intervals": [one.correct.interval for one in rounds],
            }
            for way, rounds in ways.items()
        ]
        costs = "; ".join(f"{way.replace('_', '-')} {rounds[-1].tokens:,.0f}" for way, rounds in ways.items())
        first = next(iter(ways.values()))[0]
        chart = {
            "id": "rounds",
            "title": "Held-out accuracy over rounds",
            "about": "By way, with 95% intervals; round 0 is the first answer. Tokens a prompt, read and "
            f"drawn: {first.tokens:,.0f} for the first answer; with all rounds {costs}.",
            "percent": True,
            "x": [one.round for one in max(ways.values(), key=len)],
            "xlabel": "round",
            "series": series,
        }
    return {"rounds": chart, "models": [], "checks": [], "trained": [], "rollouts": None, "contests": []}


def refined_record(lake: Lake, row: Mapping[str, Any], withdrawn: set[str]) -> dict[str, Any] | None:
    """The steps of the one task that a record belongs to, as a chain; None for other records."""
    if row["table_name"] != REFINEMENTS.name:
        return None
    iteration = Iteration(lake, row["experiment"], row["iteration"], METHOD)
    chain = [one for one in steps_of(iteration, row["prompt_id"], row["way"]) if one["id"] not in withdrawn]
    return {"chain": [_step(one, row) for one in chain], "preference": None}


def _step(one: Row, row: Mapping[str, Any]) -> Row:
    kind = one.get("kind")
    label = f"{kind.capitalize()}, round {one['round']}" if kind else "First answer"
    text = one["text"] if not kind or (one["text"] and kind != OUTCOME) else step_words(one)
    return {"label": label, "id": one["id"], "text": text, "here": one["id"] == row["id"]}


def _curves(lake: Lake, stages: Stages) -> dict[str, list[AfterRound]]:
    if "evaluation" not in stages:
        return {}
    return curves(after_rounds(lake.read_columns(stages["evaluation"], list(_EXAM))))
