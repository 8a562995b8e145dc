"""Why an example is in the set or why not, and what another threshold would have kept."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.small_lake import KnownAncestry, known_ancestry, seed_draft, store
from rich.console import Console

from selfimprove_dagster.cli.answers import explanation_text, what_if_text
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.explanation import Explanation
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.methods.lmsi.explain import filter_again
from selfimprove_dagster.methods.lmsi.settings import FilterSection
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEEDS


def stages(explanation: Explanation) -> list[str]:
    return [step.rule or step.stage.split("/")[1] for step in explanation.steps]


def shown(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def checkpoint(lake: Lake, dataset: str, **promotion: Any) -> None:
    """A checkpoint that was trained on the dataset of that activity, and whether it was promoted."""
    content = {"model_id": "b2:new", "base_model_id": "b2:old", "dataset_activity_id": dataset}
    measures = dict.fromkeys(FINE_TUNED_CHECKPOINT.measures)
    trained = Draft({**content, "examples": 1, "steps": 1}, [Parent(dataset, "trained_on")], measures)
    store(lake, FINE_TUNED_CHECKPOINT, [trained])
    if promotion:
        models = {"challenger_model_id": "b2:new", "champion_model_id": "b2:old"}
        counts = {"questions": 1, "gained": 0, "lost": 1}
        decided = Draft({**promotion, **models, **counts}, measures=dict.fromkeys(PROMOTION.measures))
        store(lake, PROMOTION, [decided])


# ---- a small lake whose ancestry is known ---------------------------------------------------------------


def test_an_example_is_explained_in_the_order_of_the_pipeline(lake: Lake) -> None:
    known = known_ancestry(lake)
    explanation = explain(lake, known.example)
    assert stages(explanation) == [
        "accepted",
        "seed_pool",
        "raw_generations",
        "voted_answers",
        "duplicate",
        "filtered_dataset",
    ]
    assert [step.record for step in explanation.steps][:4] == [
        known.seed,
        known.question,
        known.paths[0],
        known.vote,
    ]
    assert explanation.in_dataset
    assert explanation.steps[0].reason == "accepted from s.jsonl, line 7 (licence: MIT)"
    assert "4 of 4 paths state an answer (2 × 4); share 1, margin 1" in explanation.steps[3].reason
    assert explanation.verdict == (
        "in the dataset of demo-000 as few_shot_cot: it answers 2 as the vote does (share 1) "
        "and passed 1 rule; no checkpoint was trained on it yet"
    )
    json.dumps(explanation.to_json())


def test_a_dropped_path_is_explained_up_to_the_rule_that_dropped_it(lake: Lake) -> None:
    known = known_ancestry(lake)
    explanation = explain(lake, known.paths[2])
    assert stages(explanation)[-1] == "duplicate"
    assert explanation.steps[-1].passed is False
    assert not explanation.in_dataset
    assert explanation.verdict == (
        "not in the dataset of demo-000: dropped by the rule duplicate: the same text"
    )


def test_a_decision_is_explained_by_its_path(lake: Lake) -> None:
    known = known_ancestry(lake)
    decision = lake.read(DECISIONS.name, partition_of("demo", 0)).row(2, named=True)
    explanation = explain(lake, decision["id"])
    assert explanation.id == decision["id"]
    assert explanation.steps == explain(lake, known.paths[2]).steps


def test_a_path_that_no_filter_has_seen_is_undecided(lake: Lake) -> None:
    known_ancestry(lake)
    path = lake.read(RAW_GENERATIONS.name, partition_of("demo", 0)).drop(
        *("id", "content_hash", "parents", "activity_id", "sample_index"), *RAW_GENERATIONS.measures
    )
    _, (fresh,) = store(
        lake, RAW_GENERATIONS, [Draft(path.row(0, named=True), (), {"logprobs": []})], iteration=1
    )
    explanation = explain(lake, fresh)
    assert explanation.verdict == "not in a dataset: the filters of demo-001 have not been applied to it yet"
    assert not explanation.in_dataset


@pytest.mark.parametrize("of", ["vote", "question"])
def test_of_a_question_the_fate_of_every_path_is_told(lake: Lake, of: str) -> None:
    known = known_ancestry(lake)
    explanation = explain(lake, getattr(known, of))
    assert [fate.path for fate in explanation.fates] == known.paths
    assert [fate.rule for fate in explanation.fates] == [None, "duplicate", "duplicate", "duplicate"]
    assert [fate.example for fate in explanation.fates] == [known.example, None, None, None]
    assert [fate.answer for fate in explanation.fates] == ["2"] * 4
    assert explanation.verdict.startswith(
        "4 paths, 1 kept; dropped by duplicate: 3; 1 example in the dataset of"
    )


def test_of_a_seed_its_iterations_are_told_and_what_became_of_its_paths(lake: Lake) -> None:
    known = known_ancestry(lake)
    question = {**seed_draft().content, "source_line": 7}
    _, (again,) = store(lake, SEED_POOL, [Draft(question, [Parent(known.seed, "seed")])], iteration=1)
    explanation = explain(lake, known.seed)
    assert [(use.iteration, use.question, use.paths) for use in explanation.uses] == [
        (0, known.question, {"duplicate": 3, "kept": 1}),
        (1, again, {}),
    ]
    assert explanation.verdict == (
        "a seed of s.jsonl, line 7 (licence: MIT): used in 2 iterations, 4 paths, 1 kept"
    )


def test_a_rejected_line_is_explained_by_its_reason(lake: Lake) -> None:
    bad = {
        "reason": "no question",
        "excerpt": "{",
        "source_file": "s.jsonl",
        "source_line": 3,
        "licence": "MIT",
    }
    batch = {"experiment": "demo", "batch": "b"}
    _, (rejected,) = store(lake, REJECTED_SEEDS, [Draft(bad)], partition=batch)
    explanation = explain(lake, rejected)
    assert explanation.verdict == "s.jsonl, line 3 (licence: MIT) was rejected: no question"
    assert explanation.in_dataset is False


def test_demonstrations_are_told_from_seeds(lake: Lake) -> None:
    known = known_ancestry(lake)
    explanation = explain(lake, known.demonstrations[0])
    assert explanation.verdict.startswith(
        "a demonstration of s.jsonl, line 1 (licence: MIT), shown in 4 prompts"
    )
    assert explanation.in_dataset is None


@pytest.mark.parametrize(
    ("promotion", "ending"),
    [
        ({}, "the checkpoint of iteration 0 was trained on it"),
        ({"promoted": True, "reason": "better"}, "was trained on it and was promoted"),
        ({"promoted": False, "reason": "worse"}, "was trained on it and was not promoted"),
    ],
)
def test_the_checkpoint_that_learnt_from_it_is_named(
    lake: Lake, promotion: dict[str, Any], ending: str
) -> None:
    known = known_ancestry(lake)
    checkpoint(lake, lake.manifest(FILTERED_DATASET.name, partition_of("demo", 0)).activity.id, **promotion)
    explanation = explain(lake, known.example)
    assert explanation.verdict.endswith(ending)
    assert explain(lake, "ckpt:").steps == explanation.steps[6:]


def test_a_checkpoint_of_an_earlier_dataset_is_not_said_to_have_learnt_from_it(lake: Lake) -> None:
    known = known_ancestry(lake)
    checkpoint(lake, "act:of another dataset", promoted=True, reason="better")
    assert explain(lake, known.example).verdict.endswith("no checkpoint was trained on it yet")


def test_a_closed_gate_is_told(lake: Lake) -> None:
    known = known_ancestry(lake)
    votes = lake.manifest(VOTED_ANSWERS.name, partition_of("demo", 0))
    outcomes = [CheckOutcome("margin", False, True, "too narrow"), CheckOutcome("ties", False, False, "many")]
    lake.record_checks(votes, outcomes)
    explanation = explain(lake, known.example)
    assert [(step.rule, step.reason, step.passed) for step in explanation.steps if step.stage == votes.table][
        1:
    ] == [("margin", "too narrow", False)]
    assert "but the check margin of lmsi/voted_answers blocks it" in explanation.verdict


@pytest.mark.parametrize("gone", ["example", "seed", "demonstrations"])
def test_what_was_revoked_is_explained_and_said_to_be_revoked(lake: Lake, gone: str) -> None:
    known = known_ancestry(lake)
    schemas = {
        "example": FILTERED_DATASET,
        "seed": SEEDS,
        "demonstrations": DEMONSTRATIONS,
    }
    (manifest,) = lake.manifests(schemas[gone].name)
    record = known.demonstrations[0] if gone == "demonstrations" else getattr(known, gone)
    lake.withdraw(manifest, {record: "rev:1"})
    explanation = explain(lake, known.example)
    assert explanation.verdict.startswith(
        "revoked by rev:1, so it is excluded from later reads; otherwise: in the"
    )
    assert not explanation.in_dataset
    assert (manifest.table, record, False) in [
        (step.stage, step.record, step.passed) for step in explanation.steps if step.rule == "revoked"
    ]


def test_an_unknown_record_is_answered_in_one_line(lake: Lake) -> None:
    known_ancestry(lake)
    with pytest.raises(RecordNotFound, match="no record id starts with"):
        explain(lake, "ex:none")


HOSTILE = "\x1b[31mred[bold]b[/bold] [link=http://e.vil]x[/link]\n✓ forged \x9b2J\r\u202egnp.exe"


@pytest.mark.parametrize("of", KnownAncestry.__dataclass_fields__)
def test_hostile_text_is_inert(lake: Lake, of: str) -> None:
    known = known_ancestry(lake, HOSTILE, question=HOSTILE, source_file=HOSTILE, voted_answer=HOSTILE)
    record = getattr(known, of)
    text = shown(explanation_text(explain(lake, record if isinstance(record, str) else record[0])))
    assert not set(text) & set("\x1b\x9b\r\u202e")
    assert "[bold]b[/bold] [link=http://e.vil]x[/link]" in text
    assert not any(line.startswith("✓ forged") for line in text.splitlines())


# ---- two real iterations --------------------------------------------------------------------------------


def test_every_example_is_explained_as_one(finished_home: Home) -> None:
    lake = finished_home.lake
    examples = lake.read(FILTERED_DATASET.name, partition_of("small", 1))
    for record in examples["id"].head(5):
        explanation = explain(lake, record)
        assert explanation.in_dataset
        rules = [step for step in explanation.steps if step.rule]
        assert [step.rule for step in rules] == [
            "agrees_with_vote",
            "ended",
            "vote_share",
            "tie",
            "winning_votes",
            "duplicate",
            "paths_per_question",
        ]
        assert all(step.passed for step in rules)
        share = next(step for step in rules if step.rule == "vote_share")
        assert share.score is not None and share.threshold is not None
        assert share.score >= share.threshold
        assert stages(explanation)[-2:] == ["fine_tuned_checkpoint", "promotion"]


def test_a_duplicate_is_shown_the_path_that_it_lost_to(finished_home: Home) -> None:
    lake = finished_home.lake
    where = partition_of("small", 0)
    lost = lake.read(DECISIONS.name, where).filter(pl.col("nearest_id").is_not_null())
    texts = dict(lake.read(RAW_GENERATIONS.name, where).select("id", "text").iter_rows())
    for row in lost.head(3).iter_rows(named=True):
        last = explain(lake, row["candidate_id"]).steps
        nearest = next(step.nearest for step in last if step.rule == "duplicate")
        assert nearest is not None
        assert (nearest.id, nearest.text) == (row["nearest_id"], texts[row["nearest_id"]].strip())
        assert nearest.text.strip() == texts[row["candidate_id"]].strip()


@pytest.mark.parametrize("iteration", [0, 1])
def test_unchanged_thresholds_give_the_recorded_decisions_exactly(
    finished_home: Home, iteration: int
) -> None:
    lake, where = finished_home.lake, partition_of("small", iteration)
    dataset = lake.manifest(FILTERED_DATASET.name, where)
    again = filter_again(lake, dataset, FilterSection(**dataset.activity.parameters["filter"]))
    recorded = lake.read(DECISIONS.name, where).select(again.columns)
    assert len(recorded) > 100
    assert again.equals(recorded)


def test_another_threshold_says_what_would_be_kept(finished_home: Home) -> None:
    lake, where = finished_home.lake, partition_of("small", 0)
    examples = lake.read(FILTERED_DATASET.name, where).sort("vote_share")
    weakest, strongest = examples.row(0, named=True), examples.row(-1, named=True)
    limit = (weakest["vote_share"] + strongest["vote_share"]) / 2
    answer = what_if(lake, weakest["id"], [f"confidence={limit}"])
    assert answer.key == "small-000"
    assert answer.thresholds == {"minimum_vote_share": (0.25, limit)}
    assert answer.kept_then == len(examples)
    assert answer.kept_now == (examples["vote_share"] >= limit).sum()
    assert answer.lost == {"vote_share": answer.kept_then - answer.kept_now}
    assert answer.gained == {}
    (change,) = answer.record
    assert (change.then.kept, change.now.kept, change.now.rule) == (True, False, "vote_share")
    (other,) = what_if(lake, strongest["id"], [f"confidence={limit}"]).record
    assert other.now.kept
    assert "kept" in shown(what_if_text(answer))


def test_a_looser_filter_gains_by_the_rule_that_had_dropped(finished_home: Home) -> None:
    lake = finished_home.lake
    answer = what_if(lake, "small-000", ["drop_duplicates=false", "maximum_paths=null"])
    dropped = lake.read(DECISIONS.name, partition_of("small", 0)).filter(~pl.col("kept"))
    counts = dict(dropped["rule"].value_counts().iter_rows())
    assert answer.gained == {
        rule: counts[rule] for rule in ("duplicate", "paths_per_question") if rule in counts
    }
    assert answer.lost == {} and answer.record == ()
    assert answer.kept_now == answer.kept_then + sum(answer.gained.values())


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("trust=1", r"'trust=1' is not a threshold.*minimum_vote_share.*confidence \(= minimum_vote_share\)"),
        ("confidence", "write name=value"),
        ("confidence=2", "minimum_vote_share: .*less than or equal to 1, not 2"),
        ("maximum_paths=many", "maximum_paths: .*not 'many'"),
        ("maximum_paths={", "has no value"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_those_that_are(
    finished_home: Home, setting: str, complaint: str
) -> None:
    with pytest.raises(ExperimentError, match=complaint):
        what_if(finished_home.lake, "small-000", [setting])


def test_records_without_an_iteration_are_no_subject(finished_home: Home) -> None:
    with pytest.raises(ExperimentError, match=r"give an iteration, e\.g\. small-000"):
        what_if(finished_home.lake, first_id(finished_home, SEEDS.name), ["confidence=0.5"])


def first_id(home: Home, table: str) -> str:
    manifest = home.lake.manifests(table)[0]
    return str(home.lake.read_ungated(manifest)["id"][0])


def test_votes_that_are_newer_than_the_dataset_are_refused(finished_home: Home, tmp_path: Path) -> None:
    shutil.copytree(finished_home.lake.root, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    votes = lake.manifest(VOTED_ANSWERS.name, partition_of("small", 0))
    newer = replace(votes.activity, code_version="newer")
    lake.write(VOTED_ANSWERS, newer, lake.read_whole(votes))
    with pytest.raises(LakeError, match="lmsi/voted_answers was materialised again after the dataset"):
        what_if(lake, "small-000", ["confidence=0.5"])
