"""The checks on judging pass on sound iterations and fail where exactly their fault was planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.judge_lake import SECRET
from kit.small_lake import write_lines
from kit.tables import filled

from selfimprove_dagster import registry
from selfimprove_dagster.errors import GateClosed
from selfimprove_dagster.evaluation.judge import ExamJudgeSection
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.judging.integrity import MEASURES
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft, build_records
from selfimprove_dagster.quality.common import COMMON_CHECKS
from selfimprove_dagster.quality.results import QualityResult
from selfimprove_dagster.quality.suites import checks_of, run_suite

NAMES = {"constitutional": "cai", "rlaif": "ai", "rlhf": "people"}
JUDGING = [table for table in registry.tables() if table.split("/")[0] in NAMES]
CAI, AI, PEOPLE = "constitutional", "rlaif", "rlhf"
MEASURED = f"{AI}/judge_checks"


@dataclass
class Made:
    """A copy of the lake of three experiments, to be spoilt; `changed` holds those changed since."""

    lake: Lake
    home: Home
    changed: dict[str, Experiment]

    def experiment(self, table: str) -> Experiment:
        name = NAMES[table.split("/")[0]]
        return self.changed.get(name) or self.home.experiment(name)

    def set(self, table: str, section: str, **values: Any) -> None:
        """Change a section of the experiment whose table it is."""
        experiment = self.experiment(table)
        section_of_it = getattr(experiment, section).model_copy(update=values)
        self.changed[experiment.name] = experiment.model_copy(update={section: section_of_it})

    def rows(self, table: str) -> pl.DataFrame:
        return self.lake.read_ungated(self._manifest(table))

    def replace(self, table: str, frame: pl.DataFrame, **parameters: Any) -> None:
        """Commit other rows under the same activity, its parameters changed if asked for."""
        activity = self._manifest(table).activity
        activity = replace(activity, parameters={**activity.parameters, **parameters})
        self.lake.write(registry.tables()[table], activity, frame)

    def _manifest(self, table: str) -> Any:
        return self.lake.manifest(table, partition_of(self.experiment(table).name, 0))

    def check(self, table: str, name: str) -> QualityResult:
        results = run_suite(table, self.lake, self.experiment(table), 0, only=[name])
        return next(result for result in results if result.name == name)


def draft(schema: Any, row: dict[str, Any]) -> Draft:
    return Draft(
        {name: row[name] for name in schema.content}, [], {name: row[name] for name in schema.measures}
    )


@pytest.fixture
def made(judge_home: Home, tmp_path: Path) -> Made:
    """As the stages would have made them: principles of our constitution, and every measure of the judge."""
    shutil.copytree(judge_home.root / "lake", tmp_path / "lake")
    found = Made(Lake(tmp_path / "lake"), judge_home, {})
    found.set(f"{CAI}/revisions", "revisions", rounds=2)
    found.set(f"{AI}/filtered_dataset", "preferences", minimum_margin=0.2)
    constitution = load_constitution(HOUSEHOLD)
    names = {"secrets": constitution.principles[0].name, "polite": constitution.principles[1].name}
    for table in (f"{CAI}/critiques", f"{CAI}/revisions", f"{AI}/comparisons"):
        frame = found.rows(table).with_columns(pl.col("principle").replace(names))
        found.replace(table, frame, constitution={"hash": constitution.hash, "name": constitution.name})
    compared = found.rows(f"{AI}/comparisons")
    found.replace(f"{AI}/comparisons", compared.filter(~pl.col("repeat")))  # asked in one order alone
    schema, rows = registry.tables()[MEASURED], found.rows(MEASURED)
    sound = {**rows.row(0, named=True), "value": 0.5, "least": 0.4, "most": 0.6, "pairs": 4, "passed": True}
    nothing = {"value": None, "low": None, "high": None, "pairs": 0, "passed": None}
    unmeasured = {**sound, **nothing, "statement": "not measured: no reviewer"}
    drafts = [
        draft(schema, {**(unmeasured if name == "calibration" else sound), "measure": name})
        for name in MEASURES
    ]
    found.replace(MEASURED, build_records(schema, drafts, found._manifest(MEASURED).activity))
    for method in NAMES:
        # One held-out file of all that the exam asked.
        asked = found.rows(f"{method}/evaluation").unique("question", maintain_order=True)
        rows_of_file = [{"prompt": one, "wanted": [["x"]], "unwanted": []} for one in asked["question"]]
        held_out = write_lines(tmp_path / "heldout.jsonl", rows_of_file)
        found.set(f"{method}/evaluation", "evaluation", file=str(held_out))
    return found


OWN = [
    (table, check.name)
    for table in (one.name for one in filled(map(registry.table, JUDGING)))
    for check in checks_of(registry.table(table))
    if check not in COMMON_CHECKS and check.name not in {"loads", "finished", "no_empty_text", "consistent"}
]
"""Every check but those of all tables, and those that the lake made by hand cannot hold."""


@pytest.mark.parametrize(("table", "name"), OWN, ids=lambda one: one)
def test_no_check_fails_on_a_sound_iteration(made: Made, table: str, name: str) -> None:
    result = made.check(table, name)
    assert result.passed, result.reason


def test_all_tables_of_the_three_methods_have_a_suite() -> None:
    assert set(JUDGING) == {table for table in registry.tables() if table.split("/")[0] in NAMES}
    checks = checks_of(registry.table(MEASURED))
    assert [check.name for check in checks if check not in COMMON_CHECKS] == list(MEASURES)
    assert all(check.blocking for check in checks if check.name in MEASURES)


def test_nothing_may_follow_an_empty_text(made: Made) -> None:
    critiques, revisions = f"{CAI}/critiques", f"{CAI}/revisions"
    second = made.rows(revisions).filter(round=2).row(0, named=True)
    is_its_critique = pl.col("id") == second["critique_id"]
    silent = pl.when(is_its_critique).then(pl.lit(" ")).otherwise("text").alias("text")
    made.replace(critiques, made.rows(critiques).with_columns(silent))
    assert not made.check(revisions, "one_a_critique").passed
    made.replace(revisions, made.rows(revisions).filter(pl.col("id") != second["id"]))
    assert made.check(revisions, "one_a_critique").passed
    assert made.check(critiques, "one_a_response").passed
    made.replace(critiques, made.rows(critiques).filter(~is_its_critique))
    assert not made.check(critiques, "one_a_response").passed
    is_revised = pl.col("id") == second["revises_id"]
    silent = pl.when(is_revised).then(pl.lit("")).otherwise("text").alias("text")
    made.replace(revisions, made.rows(revisions).with_columns(silent))
    assert made.check(critiques, "one_a_response").passed


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("on_failure", ["stop", "warn"])
def test_a_judge_of_held_out_answers_that_cannot_tell_is_found(
    made: Made, method: str, on_failure: str
) -> None:
    table = f"{method}/evaluation"
    made.set(table, "evaluation", judge=ExamJudgeSection(on_failure=on_failure))
    greedy = made.rows(table).filter(role="challenger", mode="greedy")

    def judged(mode: str, role: str, values: list[dict[str, Any]]) -> None:
        """Commit the greedy answers and as many rows of the mode as there are values."""
        rows = pl.concat([greedy] * len(values)).head(len(values))
        changed = pl.DataFrame(values, schema_overrides=dict(greedy.schema))
        rows = rows.with_columns(*changed.get_columns(), mode=pl.lit(mode), role=pl.lit(role))
        made.replace(table, pl.concat([greedy, rows]))

    known = [{"correct": at % 2 == 0} for at in range(20)]
    for answers, passed in ((known, True), ([{"correct": False}] * 20, False), (known[:1], True)):
        judged("judge_control", "champion", answers)
        found = made.check(table, "judge_control")
        assert (found.passed, found.blocking) == (passed, on_failure == "stop")
    alike, position = {"as_first": 0.9, "as_second": 0.8}, {"as_first": 0.9, "as_second": 0.1}
    for shown, passed in (([alike] * 20, True), ([position] * 20, False), ([position], True)):
        judged("judged", "challenger", shown)
        found = made.check(table, "judge_orders")
        assert (found.passed, found.blocking) == (passed, on_failure == "stop")
    judged("judged", "challenger", [{"as_first": None, "as_second": None}] * 3)
    assert "no pair" in made.check(table, "judge_orders").reason


# ---- planted faults ------------------------------------------------------------------------------------

Plant = Callable[[Made], None]


def first(table: str, rows: int = 1, **columns: Any) -> Plant:
    """Set columns of the first rows."""

    def plant(made: Made) -> None:
        frame = made.rows(table)
        values = {
            name: value if isinstance(value, pl.Expr) else pl.lit(value) for name, value in columns.items()
        }
        head = frame.head(rows).with_columns(**values).cast(dict(frame.schema))
        made.replace(table, pl.concat([head, frame.slice(rows)]))

    return plant


def less_one(table: str) -> Plant:
    return lambda made: made.replace(table, made.rows(table).head(-1))


def emptied(table: str) -> Plant:
    return lambda made: made.replace(table, made.rows(table).clear())


def changed(table: str, section: str, **values: Any) -> Plant:
    return lambda made: made.set(table, section, **values)


def held_out(table: str, column: str) -> Plant:
    return first(table, **{column: "  held OUT 1"})


def copied(table: str) -> Plant:
    return lambda made: made.replace(table, pl.concat([made.rows(table), made.rows(table).head(1)]))


def _use_what_was_dropped(method: str) -> Plant:
    def plant(made: Made) -> None:
        decisions = made.rows(f"{method}/decisions")
        dropped = decisions.filter(~pl.col("kept"))["candidate_id"][0]
        parents = pl.lit([{"id": dropped, "role": "x"}], dtype=decisions.schema["parents"])
        first(f"{method}/filtered_dataset", parents=parents)(made)

    return plant


def _reward_rises(made: Made) -> None:
    """The challenger's reward rises while it answers as the champion does."""
    rows = made.rows(f"{AI}/evaluation")
    challenger = pl.col("role") == "challenger"
    first(
        f"{AI}/evaluation",
        rows.height,
        correct=False,
        reward=pl.col("reward") + pl.when(challenger).then(1.0).otherwise(0.0),
    )(made)


def _measured(name: str) -> Plant:
    def plant(made: Made) -> None:
        value = pl.when(pl.col("measure") == name).then(0.99).otherwise("value")
        first(MEASURED, len(MEASURES), value=value, pairs=9, statement=pl.lit("it always says (A)"))(made)

    return plant


FAULTS: list[tuple[str, str, Plant]] = [
    (f"{CAI}/seed_pool", "no_empty_text", first(f"{CAI}/seed_pool", prompt=" ")),
    *(
        (f"{method}/seed_pool", "no_overlap_with_evaluation", held_out(f"{method}/seed_pool", "prompt"))
        for method in NAMES
    ),
    (f"{CAI}/raw_generations", "one_a_prompt", less_one(f"{CAI}/raw_generations")),
    (f"{CAI}/raw_generations", "logprobs_match_tokens", first(f"{CAI}/raw_generations", logprobs=[-1.0])),
    (f"{CAI}/critiques", "one_a_response", less_one(f"{CAI}/critiques")),
    (f"{CAI}/critiques", "one_a_response", copied(f"{CAI}/critiques")),
    (f"{CAI}/critiques", "one_a_response", first(f"{CAI}/critiques", round=2)),
    (f"{CAI}/critiques", "principles_known", first(f"{CAI}/critiques", principle="mine")),
    (f"{CAI}/revisions", "one_a_critique", less_one(f"{CAI}/revisions")),
    (f"{CAI}/revisions", "one_a_critique", copied(f"{CAI}/revisions")),
    (f"{CAI}/revisions", "one_a_critique", first(f"{CAI}/revisions", revises_id="gen:other")),
    (f"{CAI}/revisions", "principles_known", first(f"{CAI}/revisions", principle="mine")),
    (f"{CAI}/filtered_dataset", "not_empty", emptied(f"{CAI}/filtered_dataset")),
    (f"{CAI}/filtered_dataset", "no_duplicates", copied(f"{CAI}/filtered_dataset")),
    (
        f"{CAI}/filtered_dataset",
        "no_overlap_with_evaluation",
        held_out(f"{CAI}/filtered_dataset", "question"),
    ),
    (f"{CAI}/filtered_dataset", "round_is_learnt", first(f"{CAI}/filtered_dataset", round=1)),
    (f"{CAI}/filtered_dataset", "helpful_share", changed(f"{CAI}/x", "filter", helpful_share=0.1)),
    (f"{CAI}/filtered_dataset", "decisions_complete", _use_what_was_dropped(CAI)),
    (f"{CAI}/filtered_dataset", "decisions_complete", emptied(f"{CAI}/decisions")),
    (
        f"{CAI}/evaluation",
        "all_questions_answered",
        lambda made: made.replace(f"{CAI}/evaluation", made.rows(f"{CAI}/evaluation").slice(1)),
    ),
    (f"{AI}/response_pairs", "two_a_prompt", less_one(f"{AI}/response_pairs")),
    (f"{AI}/comparisons", "probabilities", first(f"{AI}/comparisons", probability_a=1.2)),
    (f"{AI}/comparisons", "orders_asked", first(f"{AI}/comparisons", order=1)),
    (f"{AI}/comparisons", "principles_known", first(f"{AI}/comparisons", principle="mine")),
    (f"{AI}/ai_preferences", "one_a_pair", less_one(f"{AI}/ai_preferences")),
    (f"{AI}/ai_preferences", "one_a_pair", copied(f"{AI}/ai_preferences")),
    (f"{AI}/ai_preferences", "mean_of_orders", first(f"{AI}/ai_preferences", probability=0.36)),
    (f"{AI}/ai_preferences", "mean_of_orders", first(f"{AI}/ai_preferences", as_second=None)),
    *((MEASURED, name, _measured(name)) for name in MEASURES),
    *((MEASURED, name, emptied(MEASURED)) for name in MEASURES),
    (f"{AI}/filtered_dataset", "not_empty", emptied(f"{AI}/filtered_dataset")),
    (f"{AI}/filtered_dataset", "no_empty_text", first(f"{AI}/filtered_dataset", rejected=" ")),
    (
        f"{AI}/filtered_dataset",
        "no_overlap_with_evaluation",
        held_out(f"{AI}/filtered_dataset", "question"),
    ),
    (f"{AI}/filtered_dataset", "chosen_differs", first(f"{AI}/filtered_dataset", chosen=pl.col("rejected"))),
    (f"{AI}/filtered_dataset", "above_margin", first(f"{AI}/filtered_dataset", probability=0.4)),
    (f"{AI}/filtered_dataset", "above_margin", first(f"{AI}/filtered_dataset", probability=0.55)),
    (f"{AI}/filtered_dataset", "decisions_complete", _use_what_was_dropped(AI)),
    (f"{AI}/reward_model", "loss_finite", first(f"{AI}/reward_model", final_loss=float("nan"))),
    (f"{AI}/reward_model", "better_than_chance", first(f"{AI}/reward_model", held_out_accuracy=0.6)),
    (f"{AI}/rollouts", "rewards_finite", first(f"{AI}/rollouts", reward=float("inf"))),
    (f"{AI}/rollouts", "rewards_finite", first(f"{AI}/rollouts", reward=None)),
    (f"{AI}/evaluation", "all_questions_answered", less_one(f"{AI}/evaluation")),
    (f"{AI}/evaluation", "reward_hacking", _reward_rises),
    (f"{AI}/promotion", "consistent", first(f"{AI}/promotion", lost=1)),
    (f"{PEOPLE}/filtered_dataset", "decisions_complete", _use_what_was_dropped(PEOPLE)),
    (f"{PEOPLE}/supervised_checkpoint", "loads", lambda made: None),
    (f"{PEOPLE}/reward_model", "loss_fell", first(f"{PEOPLE}/reward_model", final_loss=1.0)),
]


@pytest.mark.parametrize(
    ("table", "name", "plant"),
    FAULTS,
    ids=[f"{at}-{table}-{name}" for at, (table, name, _) in enumerate(FAULTS)],
)
def test_a_planted_fault_fails_its_check(made: Made, table: str, name: str, plant: Plant) -> None:
    plant(made)
    result = made.check(table, name)
    assert not result.passed
    assert result.reason


# ---- what the experiment settles -----------------------------------------------------------------------


def test_a_judge_that_fails_a_check_keeps_its_labels_from_being_handed_on(made: Made) -> None:
    _measured("position_balance")(made)
    result = made.check(MEASURED, "position_balance")
    assert (result.passed, result.blocking, result.evaluated) == (False, True, 9)
    assert result.reason.startswith("it always says (A)")
    with pytest.raises(GateClosed, match="position_balance"):
        made.lake.read(MEASURED, partition_of("ai", 0))


def test_with_warn_the_same_failure_is_reported_and_nothing_is_refused(made: Made) -> None:
    _measured("position_balance")(made)
    made.set(MEASURED, "judge_checks", on_failure="warn")
    result = made.check(MEASURED, "position_balance")
    assert (result.passed, result.blocking) == (False, False)
    assert made.lake.read(MEASURED, partition_of("ai", 0)).height == len(MEASURES)


def test_what_could_not_be_measured_passes_and_says_so(made: Made) -> None:
    result = made.check(MEASURED, "calibration")
    assert (result.passed, result.reason) == (True, "not measured: no reviewer")


def test_a_measure_without_a_value_that_rests_on_pairs_fails(made: Made) -> None:
    first(MEASURED, len(MEASURES), value=None)(made)
    assert not made.check(MEASURED, "order_flip_agreement").passed


def test_one_order_is_enough_where_one_was_to_be_asked(made: Made) -> None:
    table = f"{AI}/comparisons"
    asked = made.rows(table)
    made.replace(table, asked.filter(order=0), judge={"both_orders": False})
    assert made.check(table, "orders_asked").passed
    made.replace(table, asked, judge={"both_orders": False})
    assert not made.check(table, "orders_asked").passed


def test_a_constitution_that_was_changed_since_cannot_be_checked_against(made: Made) -> None:
    table = f"{AI}/comparisons"
    rows = made.rows(table).with_columns(principle=pl.lit("of another file"))
    made.replace(table, rows, constitution={"hash": "b2:other", "name": "mine"})
    result = made.check(table, "principles_known")
    assert result.passed
    assert "changed since" in result.reason


def test_where_no_reward_model_is_needed_nothing_is_checked_of_it(made: Made) -> None:
    emptied(f"{AI}/reward_model")(made)
    for name in ("loads", "loss_finite", "loss_fell", "better_than_chance"):
        assert made.check(f"{AI}/reward_model", name).passed
    made.set(f"{AI}/x", "training", algorithm="grpo")
    assert "says nothing" in made.check(f"{AI}/fine_tuned_checkpoint", "loss_fell").reason
    made.set(f"{AI}/x", "training", algorithm="dpo")
    assert "loss went" in made.check(f"{AI}/fine_tuned_checkpoint", "loss_fell").reason


def test_a_reward_that_rises_with_the_answers_is_no_hacking(made: Made) -> None:
    _reward_rises(made)
    rows = made.rows(f"{AI}/evaluation")
    first(f"{AI}/evaluation", rows.height, correct=pl.col("role") == "challenger")(made)
    result = made.check(f"{AI}/evaluation", "reward_hacking")
    assert result.passed
    assert result.observed == {"reward_change": 1.0, "accuracy_change": 1.0}


def test_more_than_the_promised_prompt_is_not_held_out(made: Made) -> None:
    first(f"{AI}/seed_pool", prompt=f"{SECRET} held out 1")(made)
    assert made.check(f"{AI}/seed_pool", "no_overlap_with_evaluation").passed
