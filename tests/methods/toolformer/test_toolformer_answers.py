"""What counts as the answer in a continuation: the first number, or the words within the first five."""

from __future__ import annotations

import pytest

from selfimprove_dagster.methods.toolformer.exam import is_predicted, predicted_answer


@pytest.mark.parametrize(
    ("expected", "continuation", "predicted", "right"),
    [
        ("350", " 350 trees in all.", "350", True),
        ("350", " 35 trees, not 350.", "35", False),
        ("1450", " 1,450 metres", "1450", True),
        ("0.29", " about 0.29 of them", "0.29", True),
        ("-4", " -4 degrees", "-4", True),
        ("350", " many trees", None, False),
        ("Friday", " Friday, as it was", "Friday, as it was", True),
        ("Friday", " a day that is no Friday", "a day that is no", False),
        ("Marrow Bay", " marrow bay.", "marrow bay.", True),
        ("red", " redder than before", "redder than before", False),
        ("red", "", None, False),
    ],
)
def test_the_answer_is_read_where_the_paper_reads_it(
    expected: str, continuation: str, predicted: str | None, right: bool
) -> None:
    assert predicted_answer(expected, continuation) == predicted
    assert is_predicted(expected, predicted) is right
