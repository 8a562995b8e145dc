"""The words of explanations of pairs, and the filter of pairs run again."""

from __future__ import annotations

from selfimprove_dagster.families.preferences.explain import ASIDE, JUDGEMENTS, pair_in_short, refilter_pairs
from selfimprove_dagster.families.preferences.filters import compared_candidates
from selfimprove_dagster.lineage.story import Explain
from selfimprove_dagster.methods.pit.tables import PIT_SEED_POOL

_HELD_OUT = "its prompt is held out, so that nothing is trained on it: "

EXPLAIN = Explain(
    noun="comparison",
    asked="prompt",
    filters=[["seed_pool"]],
    aside={
        **ASIDE,
        "curriculum_rollouts": ASIDE["rollouts"],
        **dict.fromkeys(("improvement_rounds", "win_rates"), _HELD_OUT),
    },
    judgements=[*JUDGEMENTS, "curriculum_rollouts", "improvement_rounds", "win_rates"],
    in_short=pair_in_short,
)
WHAT_IF = refilter_pairs(compared_candidates, PIT_SEED_POOL, noun="comparison")
