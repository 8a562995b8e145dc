"""The promotion gate: when it opens, what it says when it cannot tell, and what follows a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.homes import entered, make_home
from kit.small_lake import SMALL_EXPERIMENT, store

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation.measurement import (
    Accuracy,
    MeanChange,
    PairedComparison,
    questions_to_tell,
)
from selfimprove_dagster.experiment.sections import PromotionSection
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.comparison import summarise
from selfimprove_dagster.loop.promotion import Opponent, decide_promotion
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.methods.lmsi.tables import (
    EVALUATION,
    FINE_TUNED_CHECKPOINT,
    PROMOTION,
    RAW_GENERATIONS,
)
from selfimprove_dagster.quality.suites import run_suite


def against(
    gained: int, lost: int, questions: int = 100, before: int = 50, name: str = "the champion"
) -> Opponent:
    return Opponent(
        name,
        Accuracy(before, questions),
        Accuracy(before + gained - lost, questions),
        PairedComparison(questions, gained, lost),
    )


def decide(*opponents: Opponent, reward: MeanChange | None = None, **section: Any) -> tuple[bool, str]:
    return decide_promotion(PromotionSection(**section), opponents, reward)


# ---- one comparison -------------------------------------------------------------------------------------


def test_from_an_eighth_to_nothing_to_nothing_is_never_promoted() -> None:
    first, reason = decide(against(0, 1, questions=8, before=1, name="the base model"))
    assert not first
    assert reason.startswith(
        "not promoted: 8 questions do not tell whether it is better than the base model ("
    )
    second, reason = decide(against(0, 0, questions=8, before=0), against(0, 1, 8, 1, "the base model"))
    assert not second
    assert "better than the champion (" in reason and "better than the base model (" in reason


def test_better_is_an_interval_above_zero() -> None:
    promoted, reason = decide(against(20, 2))
    assert promoted
    assert reason.startswith("promoted: better than the champion; held-out accuracy of the champion 50.0% [")
    assert reason.endswith(
        "→ 68.0% [58.3%, 76.3%]; difference +18.0% [+8.9%, +26.4%] on 100 questions, 20 gained and 2 lost"
    )


def test_what_changed_nothing_is_not_better() -> None:
    promoted, reason = decide(against(0, 0))
    assert not promoted
    # 5 points of 100% changed questions in one direction: the least n with an interval above zero.
    needed = questions_to_tell(0.05, 0.0, 0.0, 0.05)
    assert f"(no number would at this difference; at +5.0% about {needed} would)" in reason


@pytest.mark.parametrize(("gained", "lost"), [(8, 2), (11, 4), (3, 5)])
def test_a_gate_that_cannot_tell_says_how_many_questions_would(gained: int, lost: int) -> None:
    comparison = PairedComparison(100, gained, lost)
    low, high = comparison.interval
    assert low < 0 < high
    needed = comparison.questions_to_tell(0.0, 0.05)
    assert needed is not None and needed > 100
    promoted, reason = decide(against(gained, lost))
    assert not promoted
    assert f"(about {needed:,} would, at the same shares of gained and lost questions)" in reason

    def tells(questions: int) -> bool:
        n = questions + 2
        more, less = (questions * gained / 100 + 1) / n, (questions * lost / 100 + 1) / n
        half = 1.959964 * ((more + less - (more - less) ** 2) / n) ** 0.5
        return not more - less - half <= 0 <= more - less + half

    assert tells(needed) and not tells(needed - 1)


def test_a_worse_model_is_called_worse() -> None:
    promoted, reason = decide(against(1, 12))
    assert not promoted
    assert reason.startswith("not promoted: worse than the champion; ")


def test_not_worse_is_an_interval_above_the_stated_loss() -> None:
    # 3 gained and 4 lost of 1,000: −0.1% [−0.7%, +0.5%].
    few = against(3, 4, questions=1_000, before=500)
    low, _ = few.comparison.interval
    assert -0.01 < low < -0.005
    promoted, reason = decide(few, rule="not_worse", margin=0.01)
    assert promoted
    assert reason.startswith("promoted: not worse than the champion by more than 1.0%; ")
    promoted, reason = decide(few, rule="not_worse", margin=0.005)
    assert not promoted
    assert (
        "1,000 questions do not tell whether it is not worse than the champion by more than 0.5% (" in reason
    )
    assert decide(few, rule="better")[0] is False
    lost = against(0, 60, questions=1_000, before=500)
    assert decide(lost, rule="not_worse", margin=0.02)[1].startswith(
        "not promoted: worse than the champion by more than 2.0%; "
    )


def test_a_margin_of_one_accepts_any_checkpoint() -> None:
    assert decide(against(0, 4, questions=4, before=4), rule="not_worse", margin=1.0)[0]


def test_the_level_sets_the_interval() -> None:
    some = against(8, 2)
    assert not decide(some)[0]
    assert decide(some, level=0.2)[0]
    assert some.comparison.interval_at(0.05) == pytest.approx(some.comparison.interval)
    low, high = some.comparison.interval_at(0.001)
    assert low < some.comparison.interval[0] and high > some.comparison.interval[1]


def test_without_a_question_nothing_is_promoted() -> None:
    for rule in ("better", "not_worse"):
        promoted, reason = decide(against(0, 0, questions=0, before=0), rule=rule, margin=1.0)
        assert (promoted, reason) == (False, "not promoted: there was no held-out question to compare on")


def test_a_reward_that_rose_alone_is_refused() -> None:
    rose = MeanChange(100, 0.5, (0.3, 0.7))
    promoted, reason = decide(against(2, 2), reward=rose, rule="not_worse", margin=0.2)
    assert not promoted and "the reward model is fooled" in reason


def test_the_settings_refuse_what_is_no_rule() -> None:
    data = {**SMALL_EXPERIMENT, "promotion": {"rule": "best"}}
    with pytest.raises(ExperimentError, match=r"promotion\.rule"):
        parse_experiment(data, folder=Path("/nowhere"))


# ---- against the base model as well ---------------------------------------------------------------------


def test_better_than_a_bad_champion_and_not_than_the_base_model_is_refused() -> None:
    champion, base = against(30, 2, before=20), against(2, 3, before=49, name="the base model")
    promoted, reason = decide(champion, base)
    assert not promoted
    assert reason.startswith(
        "not promoted: 100 questions do not tell whether it is better than the base model ("
    )
    assert "of the champion 20.0%" in reason and "of the base model 49.0%" in reason
    promoted, reason = decide(champion, against(30, 2, before=20, name="the base model"))
    assert promoted and reason.startswith("promoted: better than the champion and the base model; ")


# ---- in iterations --------------------------------------------------------------------------------------


def row(home: Home, table: str, iteration: int, name: str = "small") -> dict[str, Any]:
    return home.lake.read(table, partition_of(name, iteration)).row(0, named=True)


@pytest.mark.slow
def test_the_base_model_takes_the_exam_once(finished_home: Home) -> None:
    first, second = (
        home_rows(finished_home, iteration).select("role", "model_id").unique(maintain_order=True).rows()
        for iteration in (0, 1)
    )
    assert [role for role, _ in first] == ["champion", "challenger"]
    assert [role for role, _ in second] == ["champion", "challenger", "base"]
    assert second[2][1] == first[0][1] and second[0][1] == first[1][1]
    earlier = (
        home_rows(finished_home, 0).filter(role="champion").select("question", "mode", "predicted", "text")
    )
    later = home_rows(finished_home, 1).filter(role="base").select("question", "mode", "predicted", "text")
    assert earlier.equals(later)
    spent = finished_home.lake.manifest(EVALUATION.name, partition_of("small", 1)).activity.about
    assert spent["tokens"] < sum(map(len, [home_rows(finished_home, 1)])) * 96, "only the challenger sat it"
    decision = row(finished_home, PROMOTION.name, 1)
    assert decision["base_model_id"] == second[2][1] and decision["bound"] == -1.0
    assert decision["challenger_accuracy"] - decision["base_accuracy"] == pytest.approx(
        decision["base_difference"]
    )
    assert row(finished_home, PROMOTION.name, 0)["base_model_id"] is None
    experiment = finished_home.experiment("small")
    for table in (EVALUATION, PROMOTION):
        found = run_suite(table.name, finished_home.lake, experiment, 1)
        assert all(
            one.passed for one in found if one.name in ("champion_and_challenger", "consistent", "schema")
        )


def home_rows(home: Home, iteration: int) -> pl.DataFrame:
    return home.lake.read(EVALUATION.name, partition_of("small", iteration))


@pytest.mark.slow
def test_after_a_refusal_the_next_iteration_starts_from_the_same_model(tmp_path: Path) -> None:
    from selfimprove_dagster.runs import run_iteration

    strict = {
        **SMALL_EXPERIMENT,
        "evaluation": {"file": "embedded", "rows": "0:8", "majority_questions": 0},
        "sampling": {"questions": 8, "paths": 4},
        "filter": {"minimum_vote_share": 0.0},
        "training": {"steps": 1, "batch_size": 4},
        "promotion": {"rule": "better"},
    }
    home = make_home(tmp_path, strict)
    experiment = home.experiment("small")
    with entered(home):
        for iteration in range(2):
            assert run_iteration(home, experiment, iteration) == []
    refused = row(home, PROMOTION.name, 0)
    assert not refused["promoted"]
    assert refused["reason"].endswith("; the next iteration starts from the base model again")
    assert champion_before(home.lake, experiment, 1).iteration is None
    base = refused["champion_model_id"]
    assert row(home, FINE_TUNED_CHECKPOINT.name, 1)["base_model_id"] == base
    drawn = home.lake.manifest(RAW_GENERATIONS.name, partition_of("small", 1))
    assert drawn.activity.model_id == base
    again = home.lake.read(EVALUATION.name, partition_of("small", 1))
    assert again.filter(role="champion")["model_id"].unique().to_list() == [base]


# ---- decisions of earlier versions ----------------------------------------------------------------------


def test_a_decision_without_the_later_columns_stays_readable(lake: Lake, finished_home: Home) -> None:
    experiment = finished_home.experiment("small")
    row = finished_home.lake.read(PROMOTION.name, partition_of("small", 0)).row(0, named=True)
    kept = {name: kind for name, kind in PROMOTION.measures.items() if name not in PROMOTION.later}
    earlier = replace(PROMOTION, measures=kept)
    draft = Draft(
        {name: row[name] for name in PROMOTION.content}, measures={name: row[name] for name in kept}
    )
    committed, _ = store(lake, earlier, [draft], partition=partition_of("small", 0))
    columns = lake.read_ungated(committed).columns
    assert PROMOTION.later.isdisjoint(columns)
    (result,) = results(lake, experiment)
    assert result.promoted is True and result.reason
    assert champion_before(lake, experiment, 1).iteration == 0
    assert summarise(lake, experiment).promoted == 1
    found = {one.name: one for one in run_suite(PROMOTION.name, lake, experiment, 0)}
    assert found["schema"].passed, found["schema"].reason
    assert found["consistent"].passed, found["consistent"].reason
    assert not [one for one in verify(lake, "small").findings if one.kind == "unreadable"]
    with lake.writer(PROMOTION, committed.activity) as writer:
        rewritten = writer.rewrite_without(committed, pl.Series(["promo:another"]))
    assert lake.read_ungated(rewritten).columns == columns
