"""The reward of an exam of dialogues: where it cannot be computed, the row says so, and counts for no failed answer."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.evaluation.exam import NO_REWARD, Part, failed_answers, failed_rewards
from selfimprove_dagster.experiment.base import GREEDY
from selfimprove_dagster.families.dialogues import exam
from selfimprove_dagster.families.dialogues.exam import DialogueExam
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt
from selfimprove_dagster.language_model.base import Generation


def test_a_missing_reward_is_the_problem_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [
        Generation([1], [-1.0], "because", "stop"),
        Generation([1], [-1.0], "because of a long text", "stop"),
        Generation.without_text("too_long", "no room"),
    ]
    monkeypatch.setattr(exam, "respond", lambda *_: [([0], path) for path in said])
    asked = [
        HeldOutPrompt(f"Why {line}?", "h.jsonl", line, "MIT", wanted=(("because",),)) for line in (1, 2, 3)
    ]
    settings: Any = SimpleNamespace(evaluation=SimpleNamespace(max_tokens=8))
    sat = DialogueExam(settings, asked, reward=lambda *_: [0.5, nan])
    sat.__dict__["asking"] = None
    rows = pl.DataFrame(sat.sit_part(None, Part(GREEDY, asked, 3)))  # type: ignore[arg-type]
    assert rows["reward"].to_list() == [0.5, None, None]
    assert rows["problem"].to_list() == [None, NO_REWARD, "too_long: no room"]
    assert rows["correct"].to_list() == [True, True, False]
    assert failed_answers(rows)["source_line"].to_list() == [3]
    assert failed_rewards(rows)["source_line"].to_list() == [2]
