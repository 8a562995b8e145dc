"""Which preferences people are asked about, read in batches."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.methods.rlaif.reviewing import least_certain_of, of_preferences
from selfimprove_dagster.methods.rlaif.stages import _judged
from selfimprove_dagster.review.uncertainty import least_certain

PROBABILITIES = st.lists(st.floats(0, 1), max_size=12)


@given(PROBABILITIES, st.integers(0, 14), st.integers(1, 5))
def test_the_queue_is_that_of_all_preferences_whatever_the_size_of_a_batch(
    probabilities: list[float], count: int, batch: int
) -> None:
    preferences = pl.DataFrame(
        [
            {
                "id": f"pref:{index:02x}",
                "activity_id": "act:0",
                "prompt": "p",
                "first": "yes",
                "second": ("yes", "no", " ")[index % 3],
                "probability": probability,
                "as_first": probability,
                "as_second": None,
            }
            for index, probability in enumerate(probabilities)
        ],
        schema={
            **dict.fromkeys(("id", "activity_id", "prompt", "first", "second"), pl.String),
            **dict.fromkeys(("probability", "as_first", "as_second"), pl.Float64),
        },
    )
    queue = least_certain_of(preferences.lazy(), count, batch)
    assert queue.equals(least_certain(of_preferences(preferences), count))
    shown = preferences.filter(pl.col("id").is_in(queue["item_id"].implode()))
    assert set(shown["second"]) <= {"no"}, "equal and empty responses are not asked about"


def test_the_judge_is_measured_on_responses_that_differ_and_say_something() -> None:
    texts = [("yes", "no"), ("yes", " yes"), ("yes", " "), ("", "yes, it is")]
    labels = pl.DataFrame(
        [
            {
                "id": f"pref:{at}",
                "prompt_id": f"pool:{at}",
                "response_ids": [f"a:{at}", f"b:{at}"],
                "first": first,
                "second": second,
                "probability": 0.7,
            }
            for at, (first, second) in enumerate(texts)
        ]
    )
    compared = labels.select(
        "id",
        "prompt_id",
        "response_ids",
        principle=pl.lit("kind"),
        order=0,
        repeat=False,
        probability_a=0.7,
        problem=pl.lit(None, pl.String),
        question=pl.lit("Which?"),
    )
    judged, differ = _judged(compared.lazy(), labels.lazy())
    assert differ["id"].to_list() == ["pref:0"]
    assert judged["prompt_id"].to_list() == ["pool:0"]
