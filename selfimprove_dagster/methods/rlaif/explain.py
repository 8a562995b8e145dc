"""The words of explanations of preferences, and the filter of preferences run again."""

from __future__ import annotations

from selfimprove_dagster.families.preferences.explain import ASIDE, JUDGEMENTS, margin, refilter_pairs
from selfimprove_dagster.families.preferences.filters import judged_candidates
from selfimprove_dagster.lineage.story import Explain, Story
from selfimprove_dagster.methods.rlaif import words
from selfimprove_dagster.methods.rlaif.tables import RLAIF_AI_PREFERENCES, RLAIF_RESPONSE_PAIRS
from selfimprove_dagster.table import Row


def _in_short(story: Story, candidate: Row) -> str:
    return words.preference(candidate) + margin(story, candidate)


def _score(row: Row) -> float | None:
    return row["probability"] if row["table_name"] == RLAIF_AI_PREFERENCES.name else None


EXPLAIN = Explain(
    noun="preference",
    asked="prompt",
    filters=[["ai_preferences"]],
    aside={
        **ASIDE,
        "judge_checks": "it tells whether the judge of {key} can be trusted: ",
        "review_queue": "it is asked of people, and no dataset holds it: ",
    },
    judgements=[*JUDGEMENTS, "judge_checks"],
    unmade={
        "response_pairs": "it was not judged yet",
        "comparisons": "no preference rests on it yet",
    },
    in_short=_in_short,
    score=_score,
)
WHAT_IF = refilter_pairs(judged_candidates, RLAIF_AI_PREFERENCES, RLAIF_RESPONSE_PAIRS, noun="preference")
