"""The pages of RLHF: comparisons that people made, and what is learnt from them."""

from __future__ import annotations

from selfimprove_dagster.explorer.declare import Pages
from selfimprove_dagster.families.dialogues.pages import charts, funnel, judging, measure
from selfimprove_dagster.families.preferences.pages import (
    AFTER_PAIRS,
    PAIR_RULES,
    card_of_comparisons,
    compared,
    pairs,
    rollouts,
)

PAGES = Pages(
    examples=pairs("rlhf"),
    dropped={"comparisons": compared("rlhf", "Comparisons of people")},
    more={"rollouts": rollouts("rlhf")},
    funnel=funnel({}, "comparisons of people", "comparisons", PAIR_RULES, AFTER_PAIRS),
    measure=measure,
    charts=charts(),
    blocks=[judging()],
)
CARD = card_of_comparisons("rlhf")
