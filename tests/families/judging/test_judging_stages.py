"""Constitutional AI, RLAIF and RLHF from end to end on the embedded dialogue model."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import polars as pl
import pytest
from kit.judging_home import make_home, rows, run
from kit.reading import parents
from kit.tables import JUDGE_TABLES

from selfimprove_dagster import registry
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.embedded import DIALOGUE_COMPARISONS, DIALOGUE_PROMPTS
from selfimprove_dagster.families.judging.preferences import aggregate
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_JUDGE_CHECKS,
    RLAIF_RESPONSE_PAIRS,
)
from selfimprove_dagster.methods.rlhf.tables import RLHF_SUPERVISED_CHECKPOINT
from selfimprove_dagster.methods.self_knowledge.tables import TABLES as SELF_KNOWLEDGE_TABLES

pytestmark = [pytest.mark.slow, pytest.mark.train, pytest.mark.rotates]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_home(tmp_path_factory.mktemp("judging"))
    run(home, "cai", "ai", "people", "pairs", "direct")
    return home


def test_each_round_criticises_and_revises_what_the_one_before_wrote(home: Home) -> None:
    first = rows(home, CAI_RAW_GENERATIONS, "cai")
    critiques, revisions = (rows(home, table, "cai") for table in (CAI_CRITIQUES, CAI_REVISIONS))
    red_team = rows(home, CAI_SEED_POOL, "cai").filter(kind="red_team")
    assert len(critiques) == len(revisions) == 2 * len(red_team)
    known = {row["id"]: row for row in pl.concat([first, revisions], how="diagonal").iter_rows(named=True)}
    of_critique = {row["id"]: row for row in critiques.iter_rows(named=True)}
    for row in revisions.iter_rows(named=True):
        (revised,), (critique,) = parents(row, "revision_of"), parents(row, "critique")
        assert revised == row["revises_id"] and critique == row["critique_id"]
        assert parents(of_critique[critique], "critique_of") == [revised]
        assert (known[revised]["round"] or 0) == row["round"] - 1
        assert known[revised]["text"].strip() in row["prompt"]
        assert of_critique[critique]["text"].strip() in row["prompt"]
        assert of_critique[critique]["principle"] == row["principle"]
    assert revisions["principle"].n_unique() > 5, "a principle is drawn for each response and round"


def test_critiques_can_be_drawn_again(home: Home) -> None:
    manifest = home.lake.manifest(CAI_CRITIQUES.name, partition_of("cai", 0))
    parameters = drawn_with(manifest.activity)
    shown = home.lake.read_ungated(manifest).head(8)
    folder = home.lake.folder_at(manifest.activity.about["model_path"])
    model = open_language_model(folder, engine="transformers", device="cpu")
    drawn = model.generate(
        shown["prompt_token_ids"].to_list(), [[seed] for seed in shown["seed"]], parameters
    )
    model.close()
    assert [path.token_ids for (path,) in drawn] == shown["token_ids"].to_list()


def test_the_dataset_mixes_last_revisions_with_what_people_answered(home: Home) -> None:
    examples = rows(home, CAI_FILTERED_DATASET, "cai")
    revised, helpful = examples.filter(format="revision"), examples.filter(format="helpful")
    assert set(revised["round"]) == {2} and len(helpful) <= len(revised)
    answered = {
        row["prompt"]: row["response"]
        for row in rows(home, CAI_SEED_POOL, "cai").filter(kind="helpful").iter_rows(named=True)
    }
    for row in helpful.iter_rows(named=True):
        assert row["completion"].strip() == answered[row["question"]].strip()


def test_the_exam_follows_the_champion_through_its_revisions(home: Home) -> None:
    answers = rows(home, registry.table("constitutional/evaluation"), "cai")
    assert set(answers["mode"]) == {"greedy", "revision_0", "revision_1", "revision_2"}
    assert answers.filter(mode="greedy", role="challenger").height == 40
    assert answers.filter(mode="revision_2", role="champion").height == 10
    assert (answers["correct"] == (answers["helpful"] & answers["harmless"])).all()


def test_a_label_is_the_mean_of_both_orders_and_all_principles(home: Home) -> None:
    asked = rows(home, RLAIF_COMPARISONS, "ai")
    labels = rows(home, RLAIF_AI_PREFERENCES, "ai")
    by_id = {row["id"]: row for row in asked.iter_rows(named=True)}
    for row in labels.iter_rows(named=True):
        found = [by_id[id] for id in parents(row, "judged_by")]
        assert sorted((one["principle"], one["order"]) for one in found) == sorted(
            (principle, order) for principle in row["principles"] for order in (0, 1)
        )
        assert not any(one["repeat"] for one in found)
        better = [one["probability_a"] if one["order"] == 0 else 1 - one["probability_a"] for one in found]
        assert row["probability"] == pytest.approx(sum(better) / len(better))
        assert row["probability"] == pytest.approx((row["as_first"] + row["as_second"]) / 2)
    assert asked["repeat"].sum() == len(labels) * 4, "every pair is judged again here"


def test_either_response_is_shown_as_a(home: Home) -> None:
    texts = dict(rows(home, RLAIF_RESPONSE_PAIRS, "ai").select("id", "text").iter_rows())
    for row in rows(home, RLAIF_COMPARISONS, "ai").iter_rows(named=True):
        first, second = (texts[id].strip() for id in row["response_ids"])
        if row["order"]:
            first, second = second, first
        assert f"(A) {first}\n(B) {second}\n" in row["question"]


def test_reasoning_stands_before_the_answer_and_keeps_labels_unsure(home: Home) -> None:
    asked = rows(home, RLAIF_COMPARISONS, "direct")
    assert not asked["probability_a"].is_between(0.4, 0.6).all(), "comparisons hold what the judge said"
    labels = rows(home, RLAIF_AI_PREFERENCES, "direct")
    assert labels["probability"].is_between(0.4 - 1e-9, 0.6 + 1e-9).all()
    expected = labels.select("prompt_id").join(aggregate(asked, 0.4), on="prompt_id", how="left")
    assert labels["probability"].to_list() == pytest.approx(expected["probability"].to_list())
    for row in asked.filter(pl.col("reasoning").is_not_null()).iter_rows(named=True):
        assert f"{row['reasoning'].strip()}\nThe answer is:" in row["question"]


def test_the_judge_is_measured(home: Home) -> None:
    measured = rows(home, RLAIF_JUDGE_CHECKS, "ai")
    assert set(measured["measure"]) == {
        "order_flip_agreement",
        "position_balance",
        "self_agreement",
        "length_bias",
        "undecided_share",
        "calibration",
    }
    assert measured.filter(measure="calibration")["value"].to_list() == [None], "nobody reviewed anything"


@pytest.mark.parametrize(("name", "method"), [("ai", "rlaif"), ("people", "rlhf"), ("direct", "rlaif")])
def test_every_rollout_is_kept_with_its_reward_and_by_whom(home: Home, name: str, method: str) -> None:
    written = rows(home, registry.table(f"{method}/rollouts"), name)
    checkpoint = rows(home, f"{method}/fine_tuned_checkpoint", name).row(0, named=True)
    assert written.group_by("step").len().sort("step").rows() == [(1, 16), (2, 16), (3, 16)]
    assert written["reward"].is_finite().all()
    for row in written.iter_rows(named=True):
        assert parents(row, "written_by") == [checkpoint["base_model_id"]]
        assert parents(row, "rewarded_by") == parents(checkpoint, "rewarded_by")
    pool = set(rows(home, f"{method}/seed_pool", name)["id"])
    assert set(written["prompt_id"]) <= pool


def test_the_policy_starts_from_the_supervised_step_and_is_rewarded_by_the_reward_model(home: Home) -> None:
    (trained,) = rows(home, RLHF_SUPERVISED_CHECKPOINT, "people").iter_rows(named=True)
    (judge,) = rows(home, registry.table("rlhf/reward_model"), "people").iter_rows(named=True)
    (policy,) = rows(home, "rlhf/fine_tuned_checkpoint", "people").iter_rows(named=True)
    assert policy["base_model_id"] == judge["base_model_id"] == trained["model_id"]
    assert parents(policy, "rewarded_by") == [judge["model_id"]]
    assert weights_hash(Path(home.lake.folder_at(judge["path"]))) == judge["model_id"]
    rewarded = rows(home, registry.table("rlhf/evaluation"), "people")
    assert rewarded["reward"].is_finite().all()


def test_what_was_measured_of_the_judge_is_told_where_it_is_trusted(home: Home) -> None:
    """Nothing was, and the experiments say to go on then."""
    for name, stage in (
        ("ai", "comparisons"),
        ("direct", "comparisons"),
        ("direct", "fine_tuned_checkpoint"),
    ):
        about = home.lake.manifest(f"rlaif/{stage}", partition_of(name, 0)).activity.about
        assert about["self_knowledge"] == "go on: no discrimination gap was measured on any task"
    rewarded_by_model = home.lake.manifest("rlaif/fine_tuned_checkpoint", partition_of("ai", 0)).activity
    assert "self_knowledge" not in rewarded_by_model.about


def test_dpo_and_direct_rlaif_need_no_reward_model(home: Home) -> None:
    assert rows(home, registry.table("rlhf/reward_model"), "pairs").is_empty()
    assert rows(home, registry.table("rlhf/rollouts"), "pairs").is_empty()
    assert rows(home, registry.table("rlaif/reward_model"), "direct").is_empty()
    assert rows(home, registry.table("rlaif/evaluation"), "direct")["reward"].null_count() == 80


def test_the_reward_model_is_measured_on_pairs_that_it_never_saw(home: Home) -> None:
    (judge,) = rows(home, registry.table("rlaif/reward_model"), "ai").iter_rows(named=True)
    pairs = rows(home, registry.table("rlaif/filtered_dataset"), "ai")
    assert judge["held_out_pairs"] > 0
    assert judge["held_out_pairs"] + judge["examples"] == len(pairs)


def test_the_lake_holds_what_it_says(home: Home) -> None:
    report = verify(home.lake)
    assert not report.findings and report.rows > 0


def test_no_training_stage_can_see_the_truth() -> None:
    """The truth is in the evaluation file alone, and only the exams' modules read it."""
    for path in (DIALOGUE_PROMPTS, DIALOGUE_COMPARISONS):
        fields = {field for line in path.read_text().splitlines() for field in json.loads(line)}
        assert fields <= {"prompt", "kind", "response", "chosen", "rejected"}
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("selfimprove_dagster", "assets", "resources")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (
            node.module == "selfimprove_dagster.recipes.dialogue_world"
            or (
                node.module == "selfimprove_dagster.families.dialogues.exam"
                and {alias.name for alias in node.names} & {"judge", "judged", "judged_row"}
            )
        )
    }
    assert readers == {
        "selfimprove_dagster/methods/constitutional/exam.py",
        "selfimprove_dagster/methods/pit/exam.py",
        "selfimprove_dagster/methods/refinement/exam.py",
        "selfimprove_dagster/methods/self_knowledge/exam.py",
        "selfimprove_dagster/recipes/dialogue_recipe.py",
        "selfimprove_dagster/recipes/dialogue_texts.py",
    }
    judged = (*JUDGE_TABLES, *SELF_KNOWLEDGE_TABLES)
    told = {column for schema in judged for column in schema.content if column in ("wanted", "unwanted")}
    assert not told
