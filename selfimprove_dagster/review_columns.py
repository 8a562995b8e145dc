"""Which column comes from which, in the tables of the reviews."""

from __future__ import annotations

from selfimprove_dagster.column_sources import Columns, Source, each, new, of
from selfimprove_dagster.families.preferences.tables import rollouts
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, VOTED_ANSWERS
from selfimprove_dagster.methods.rlaif.tables import RLAIF_AI_PREFERENCES, RLAIF_REVIEW_QUEUE
from selfimprove_dagster.review.tables import REVIEW_LABELS


def _of_rewarded(column: str) -> list[Source]:
    return [*of(rollouts("rlaif"), column), *of(rollouts("rlhf"), column)]


_PREFERENCE, _PAIR = of(RLAIF_AI_PREFERENCES, "id"), of(RLAIF_AI_PREFERENCES, "first", "second")


_PROMPT = of(RLAIF_AI_PREFERENCES, "prompt")


REVIEW_COLUMN_SOURCES: dict[str, Columns] = {
    RLAIF_REVIEW_QUEUE.name: {
        **each(_PREFERENCE, "parents", "item_id", "swapped"),
        "prompt": _PROMPT,
        **each(_PAIR, "option_a", "option_b"),
        **each(of(RLAIF_AI_PREFERENCES, "probability", "as_first", "as_second"), "uncertainty", "reason"),
        **new("table"),
    },
    REVIEW_LABELS.name: {
        **each(
            [*of(VOTED_ANSWERS, "id"), *_PREFERENCE, *_of_rewarded("id")],
            *("parents", "item_id", "swapped"),
        ),
        "prompt": [*of(VOTED_ANSWERS, "question"), *_PROMPT, *_of_rewarded("prompt")],
        **each(
            [*of(RAW_GENERATIONS, "text"), *_PAIR, *_of_rewarded("text")],
            *("option_a", "option_b"),
        ),
        **new("table", "label", "by", "at", "note"),
    },
}
