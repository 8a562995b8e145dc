"""Experiments side by side: what is counted, and from whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import make_experiment, promotion_draft, store
from markdown_it import MarkdownIt

from selfimprove_dagster.evaluation.measurement import PairedComparison
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.loop.comparison import HEADINGS, cells, markdown, side_by_side, summarise
from selfimprove_dagster.methods.lmsi.tables import DECISIONS, EVALUATION, FILTERED_DATASET, PROMOTION

EXAM: dict[str, Any] = dict.fromkeys(EVALUATION.content)


def sat(lake: Lake, iteration: int, champion: str, challenger: str, promoted: bool) -> None:
    """An iteration in which both sat ten questions; a model answers as many as its name's number says."""
    rows = [
        Draft(
            EXAM
            | {
                "question": f"{number}?",
                "source_file": "heldout.jsonl",
                "source_line": number,
                "role": role,
                "model_id": model,
                "mode": "greedy",
                "correct": number < int(model[3:]),
            }
        )
        for role, model in (("champion", champion), ("challenger", challenger))
        for number in range(10)
    ]
    store(lake, EVALUATION, rows, iteration=iteration, about={"seconds": 3.0, "tokens": 50})
    store(lake, PROMOTION, [promotion_draft(challenger[3:], promoted)], iteration=iteration)


def test_the_model_it_began_with_against_the_last_champion(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    sat(lake, 0, "b2:2", "b2:6", promoted=True)
    sat(lake, 1, "b2:6", "b2:5", promoted=False)
    one = summarise(lake, experiment)
    assert (one.iterations, one.promoted) == (2, 1)
    assert one.before is not None and one.after is not None and one.change is not None
    assert (one.before, one.after) == (0.2, 0.6), "the last challenger was not promoted"
    assert one.change == pytest.approx((0.4, *PairedComparison(10, 4, 0).interval))
    assert (one.tokens, one.seconds) == (100, 6.0)
    sat(lake, 2, "b2:6", "b2:9", promoted=True)
    after = summarise(lake, experiment).after
    assert after == 0.9


def test_what_was_learnt_and_what_was_dropped(lake: Lake, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    example = dict.fromkeys(FILTERED_DATASET.content, "x")
    measures = dict.fromkeys(FILTERED_DATASET.measures, 0.5)
    texts = ["one two three four", "one two three four", "five six seven eight"]
    store(
        lake,
        FILTERED_DATASET,
        [
            Draft({**example, "question": str(n), "completion": text}, measures=measures)
            for n, text in enumerate(texts)
        ],
    )
    decision = {"stage": "lmsi/filtered_dataset", "reason": "so", "nearest_id": None}
    said = [("vote_share", False), ("vote_share", False), ("duplicate", False), ("duplicate", True)]
    store(
        lake,
        DECISIONS,
        [
            Draft(
                {**decision, "candidate_id": f"gen:{n}", "rule": rule, "kept": kept},
                measures={"score": None, "threshold": None},
            )
            for n, (rule, kept) in enumerate(said)
        ],
    )
    assert summarise(lake, experiment).examples == 0, "an iteration that is not finished does not count"
    sat(lake, 0, "b2:1", "b2:1", promoted=False)
    one = summarise(lake, experiment)
    assert one.examples == 3 and one.distinct == pytest.approx(2 / 3)
    assert one.dropped == (("vote_share", 2), ("duplicate", 1))
    shown = cells(one)
    assert shown[0] == "demo: lmsi" and shown[-1] == "vote_share 2, duplicate 1"
    assert "10.0% → 10.0%" in shown
    table = MarkdownIt("gfm-like", {"linkify": False}).render(markdown(side_by_side([one])))
    assert table.count("<th>") == table.count("<td>") == len(HEADINGS) and "<td>10.0% → 10.0%</td>" in table
    paid = side_by_side([one, replace(one, money=1.5)])
    assert [row[-2] for row in paid] == ["cost", "$0.00", "$1.50"] and paid[1][-1] == shown[-1]


def test_an_experiment_that_never_ran_is_empty(lake: Lake, tmp_path: Path) -> None:
    one = summarise(lake, make_experiment(tmp_path))
    assert (one.iterations, one.promoted, one.before, one.distinct, one.dropped) == (0, None, None, None, ())
