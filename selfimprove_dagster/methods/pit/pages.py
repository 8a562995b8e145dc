"""The pages of PIT: comparisons, what is learnt from their gaps, and who wins on held-out prompts."""

from __future__ import annotations

from selfimprove_dagster.explorer.declare import Pages
from selfimprove_dagster.explorer.funnel import Stages
from selfimprove_dagster.families.dialogues.pages import charts, funnel, improvement_chart, judging, measure
from selfimprove_dagster.families.preferences.pages import (
    PAIR_RULES,
    card_of_comparisons,
    compared,
    pairs,
    rollouts,
)
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.methods.pit.win_rates import win_rates
from selfimprove_dagster.table import Row


def _contests(lake: Lake, stages: Stages) -> list[Row]:
    if "win_rates" not in stages:
        return []
    rows = lake.read_columns(stages["win_rates"], ["first", "second", "judge", "outcome"])
    return [*win_rates(rows)]


PAGES = Pages(
    examples=pairs("pit"),
    dropped={"comparisons": compared("pit", "Comparisons")},
    more={"rollouts": rollouts("pit")},
    funnel=funnel(
        {},
        "comparisons",
        "comparisons",
        PAIR_RULES,
        {
            "filtered_dataset": "pairs: training examples",
            "improver_dataset": "examples of improving and responding",
            "gap_pairs": "comparisons of gaps, five per pair",
            "curriculum_rollouts": "rollouts on references from the data",
            "policy_references": "the policy's own references",
            "rollouts": "rollouts on these references",
            "improvement_rounds": "held-out responses and their improvements",
        },
    ),
    measure=measure,
    charts=charts(),
    blocks=[judging(improvement_chart, _contests)],
)
CARD = card_of_comparisons("pit")
