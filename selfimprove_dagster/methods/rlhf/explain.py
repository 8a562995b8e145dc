"""The words of explanations of people's comparisons, and the filter of comparisons run again."""

from __future__ import annotations

from selfimprove_dagster.families.preferences.explain import ASIDE, JUDGEMENTS, pair_in_short, refilter_pairs
from selfimprove_dagster.families.preferences.filters import compared_candidates
from selfimprove_dagster.lineage.story import Explain
from selfimprove_dagster.methods.rlhf.tables import RLHF_SEED_POOL

EXPLAIN = Explain(
    noun="comparison",
    asked="prompt",
    filters=[["seed_pool"]],
    aside=ASIDE,
    judgements=JUDGEMENTS,
    in_short=pair_in_short,
)
WHAT_IF = refilter_pairs(compared_candidates, RLHF_SEED_POOL, noun="comparison")
