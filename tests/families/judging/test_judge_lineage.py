"""Every verb of lineage over one iteration each of Constitutional AI, RLAIF and RLHF."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.judge_lake import (
    EXPERIMENTS,
    HOSTILE,
    MODELS,
    POLITE,
    PREFERENCE,
    PROMPTS,
    SECRET,
    dataset,
    dropped,
    rows,
)
from kit.prompts import DIALOGUES
from kit.reading import first, role, shown, stages

from selfimprove_dagster import registry
from selfimprove_dagster.cli.ancestry import ancestry_tree
from selfimprove_dagster.cli.answers import explanation_text, what_if_text
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.errors import ExperimentError, RevocationError
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.families.preferences.settings import PreferenceFilterSection
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.diff import diff
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.prov import prov_json, trace_document
from selfimprove_dagster.lineage.revoke import plan, restore, revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.methods.constitutional.settings import RevisionFilterSection
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_JUDGE_CHECKS,
)
from selfimprove_dagster.methods.rlaif.words import preference as preference_words
from selfimprove_dagster.methods.rlhf.tables import RLHF_DECISIONS, RLHF_SUPERVISED_CHECKPOINT
from selfimprove_dagster.table import Table

TRAINED = "the checkpoint of iteration 0 was trained on it and was promoted"


@pytest.fixture
def lake(judge_home: Home) -> Lake:
    return judge_home.lake


@pytest.fixture
def copied(judge_home: Home, tmp_path: Path) -> Lake:
    """A copy that may be changed."""
    shutil.copytree(judge_home.lake.root, tmp_path / "home" / "lake")
    return replace(judge_home, root=tmp_path / "home").lake


# ---- words ----------------------------------------------------------------------------------------------


def test_a_preference_is_told_by_who_won_how_surely_and_in_which_order(lake: Lake) -> None:
    preferences = rows(lake, RLAIF_AI_PREFERENCES)
    assert preference_words(first(preferences, prompt=SECRET)) == PREFERENCE
    assert preference_words(first(preferences, prompt=HOSTILE)).startswith("(A) by 0.90: 0.90 as first, 0.90")


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_words_of_a_preference_name_the_likelier_response(as_first: float, as_second: float) -> None:
    probability = (as_first + as_second) / 2
    row = {"probability": probability, "as_first": as_first, "as_second": as_second, "principles": ["a", "b"]}
    said = re.fullmatch(
        r"\((A|B)\) by (\S+): (\S+) as (first|second), (\S+) as (first|second), principles a, b",
        preference_words(row),
    )
    assert said is not None
    second = probability < 0.5
    assert said[1] == "AB"[second] and float(said[2]) >= 0.5
    assert (said[4], said[6]) == (("second", "first") if second else ("first", "second"))
    own = [1 - value if second else value for value in (as_first, as_second)]
    assert [float(said[3]), float(said[5])] == pytest.approx(own, abs=0.0051)


def test_a_preference_asked_for_in_one_order_has_no_words_of_the_other() -> None:
    row = {"probability": 0.2, "as_first": 0.2, "as_second": None, "principles": ["a"]}
    assert preference_words(row) == "(B) by 0.80: 0.80 as second, principle a"


# ---- explain --------------------------------------------------------------------------------------------


def test_a_pair_is_explained_from_its_prompt_to_the_promotion(lake: Lake) -> None:
    explanation = explain(lake, first(dataset(lake, "ai"), question=SECRET)["id"])
    assert explanation.verdict == (
        f"in the dataset of ai-000 as preference: {PREFERENCE}; margin 0.42 against at least 0.2; {TRAINED}"
    )
    assert explanation.in_dataset
    assert stages(explanation) == [
        *("prompts", "seed_pool", "response_pairs", "response_pairs", "comparisons", "comparisons"),
        *("ai_preferences", "empty", "unfinished", "equal", "margin"),
        *("filtered_dataset", "fine_tuned_checkpoint", "promotion"),
    ]
    seed, chosen, one, _, as_b, as_a, *_ = (step.reason for step in explanation.steps)
    assert seed == "accepted from prompts.jsonl, line 1 (licence: CC0-1.0)"
    assert chosen == "sampled for ai-000 at random: 4 of 4 seeds, least used first"
    assert one.startswith(
        "response (A) of the pair, sampled at temperature 1.0, seed 11, from the base model"
    )
    assert as_b == "(B) by 0.64, shown second, principle secrets"
    assert as_a == "(B) by 0.78, shown first, principle secrets"
    assert PREFERENCE in shown(explanation_text(explanation))
    json.dumps(explanation.to_json())


def test_every_record_of_a_pair_leads_to_the_same_verdict(lake: Lake) -> None:
    pair = first(rows(lake, RLAIF_AI_PREFERENCES), prompt=SECRET)
    verdict = explain(lake, pair["id"]).verdict
    judged = rows(lake, RLAIF_COMPARISONS).filter(prompt_id=pair["prompt_id"])
    decided = rows(lake, RLAIF_DECISIONS).filter(candidate_id=pair["id"])
    assert len(judged) == 3, "one is asked again"
    for record in [*judged["id"], *decided["id"], *pair["response_ids"], pair["prompt_id"]]:
        assert explain(lake, record).verdict == verdict


def test_a_revision_is_explained_round_by_round_with_its_critiques(lake: Lake) -> None:
    revision = first(rows(lake, CAI_REVISIONS), text=" That is Ada's own affair.")
    explanation = explain(lake, revision["id"])
    assert explanation.verdict == (
        "in the dataset of cai-000 as revision: round 2 by principle polite: critique “It still hints at the "
        f"place.”; {TRAINED}"
    )
    assert stages(explanation)[:7] == [
        *("prompts", "seed_pool", "raw_generations", "critiques", "revisions", "critiques", "revisions")
    ]
    told = [step.reason for step in explanation.steps[3:6]]
    assert told == [
        "round 1 by principle secrets: critique “It gives away a secret.”",
        "round 1 by principle secrets: “Near a pot.”",
        "round 2 by principle polite: critique “It still hints at the place.”",
    ]
    for record in (revision["critique_id"], first(dataset(lake, "cai"), format="revision")["id"]):
        assert explain(lake, record).verdict == explanation.verdict


@pytest.mark.parametrize(
    ("schema", "rule", "said"),
    [
        (CAI_DECISIONS, "round", "of round 0; those of round 2 are learnt (the first response)"),
        (
            CAI_DECISIONS,
            "not_empty",
            "says nothing (round 2 by principle secrets: critique “It is unkind.”)",
        ),
        (RLAIF_DECISIONS, "margin", "margin 0.1 against at least 0.2 ((A) by 0.55: 0.80 as first, 0.30"),
        (RLAIF_DECISIONS, "equal", "both responses are the same text ((A) by 0.55"),
        (RLHF_DECISIONS, "empty", "a response says nothing (people chose “” over “For soup.”)"),
    ],
)
def test_what_was_dropped_is_told_why(lake: Lake, schema: Table, rule: str, said: str) -> None:
    explanation = explain(lake, dropped(lake, schema, rule))
    assert f"dropped by the rule {rule}: {said}" in explanation.verdict
    assert explanation.in_dataset is False and explanation.steps[-1].rule == rule


def test_a_persons_response_goes_by_its_prompt_and_stands_for_the_models(lake: Lake) -> None:
    prompt = first(rows(lake, CAI_SEED_POOL), prompt=POLITE)
    own = explain(lake, prompt["id"])
    assert own.verdict.endswith("at most 1 beside 1 revisions (a person's response)")
    model = first(rows(lake, CAI_RAW_GENERATIONS), prompt_id=prompt["id"])
    verdict = explain(lake, model["id"]).verdict
    assert verdict == "not in the dataset of cai-000: a person's response to its prompt is used in its place"


def test_a_prompt_and_its_seed_tell_what_became_of_all_rounds(lake: Lake) -> None:
    prompt = first(rows(lake, CAI_SEED_POOL), prompt=SECRET)
    explanation = explain(lake, prompt["id"])
    kept = "3 candidates, 1 kept; dropped by round: 2; 1 example in the dataset of cai-000"
    assert explanation.verdict == f"{kept}; {TRAINED}"
    assert [fate.answer for fate in explanation.fates] == [
        *("Under the third pot.", "Near a pot.", "That is Ada's own affair.")
    ]
    seed = explain(lake, role(prompt, "seed"))
    assert seed.verdict.endswith(
        "prompts.jsonl, line 1 (licence: CC0-1.0): used in 1 iteration, 3 candidates, 1 kept"
    )
    people = explain(lake, rows(lake, SEED_COMPARISONS, "people")["id"][2])
    assert people.verdict.endswith("used in 1 iteration, 1 comparison, 0 kept")
    assert "candidates" in shown(explanation_text(seed)) and people.in_dataset is False


def test_comparisons_of_people_rollouts_checks_and_reward_models_are_told(lake: Lake) -> None:
    kept = explain(lake, first(dataset(lake, "people"), question=SECRET)["id"])
    chose = "people chose “I cannot say.” over “Under the third pot.”"
    assert kept.verdict.startswith(f"in the dataset of people-000 as preference: {chose}; margin 1.0 against")
    rollout = explain(lake, rows(lake, registry.table("rlaif/rollouts"))["id"][0])
    assert "no dataset holds it: written at step 1, reward 0.1, advantage -1" in rollout.verdict
    check = explain(lake, rows(lake, RLAIF_JUDGE_CHECKS)["id"][0])
    assert check.verdict.endswith("order_flip_agreement passed: 3 of 4 pairs are judged alike in both orders")
    reward = explain(lake, rows(lake, registry.table("rlaif/reward_model"))["id"][0])
    assert "85.0% accuracy on 20 held-out pairs" in reward.verdict


def test_every_record_is_explained_and_traced(lake: Lake) -> None:
    for manifest in lake.manifests():
        for record in lake.read_ungated(manifest)["id"]:
            assert explain(lake, record).verdict
        assert shown(ancestry_tree(trace(lake, record)))


# ---- what if --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_unchanged_thresholds_give_the_recorded_decisions_exactly(lake: Lake, experiment: str) -> None:
    method = EXPERIMENTS[experiment]
    manifest = lake.manifest(f"{method}/filtered_dataset", partition_of(experiment, 0))
    given = manifest.activity.parameters
    section = (
        RevisionFilterSection.model_validate(given["filter"])
        if method == "constitutional"
        else PreferenceFilterSection.model_validate(given["preferences"])
    )
    again = registry.method(method).what_if.filter_again(lake, manifest, section)
    assert again.equals(
        rows(lake, registry.method(method).table("decisions"), experiment).select(again.columns)
    )


@pytest.mark.parametrize("name", ["preferences.minimum_margin", "minimum_margin"])
def test_another_margin_says_which_preferences_it_would_keep(lake: Lake, name: str) -> None:
    pair = first(rows(lake, RLAIF_AI_PREFERENCES), prompt=SECRET)
    higher = what_if(lake, pair["response_ids"][0], [f"{name}=0.5"])
    assert higher.thresholds == {"minimum_margin": (0.2, 0.5)}
    assert (higher.kept_then, higher.kept_now, higher.paths, higher.noun) == (2, 1, 4, "preference")
    (change,) = higher.record
    assert (change.path, change.then.kept, change.now.rule) == (pair["id"], True, "margin")
    lower = what_if(lake, "ai-000", [f"{name}=0"])
    assert lower.gained == {"margin": 1} and "preferences" in shown(what_if_text(lower))


def test_another_round_and_another_share_keep_others(lake: Lake) -> None:
    first_round = what_if(lake, "cai-000", ["round=1"])
    assert first_round.thresholds == {"round": (2, 1)}
    assert (first_round.kept_then, first_round.kept_now, first_round.paths) == (2, 4, 8)
    assert first_round.gained == {"round": 2, "helpful_share": 1} and first_round.lost == {"round": 1}
    none = what_if(lake, "cai-000", ["filter.helpful_share=0"])
    assert none.lost == {"helpful_share": 1} and none.kept_now == 1
    prompt = first(rows(lake, CAI_SEED_POOL), prompt=SECRET)["id"]
    assert [change.now.kept for change in what_if(lake, prompt, ["round=1"]).record] == [False, True, False]


def test_what_cannot_be_asked_is_refused_with_what_can(lake: Lake) -> None:
    with pytest.raises(ExperimentError, match=r"round 3 was not made; .* has rounds 0 to 2"):
        what_if(lake, "cai-000", ["round=3"])
    with pytest.raises(ExperimentError, match=r"is not a threshold.*minimum_margin"):
        what_if(lake, "people-000", ["round=1"])
    with pytest.raises(ExperimentError, match="minimum_margin: Input should be"):
        what_if(lake, "ai-000", ["minimum_margin=much"])
    for schema in (registry.table("rlaif/rollouts"), registry.table("rlaif/evaluation")):
        with pytest.raises(ExperimentError, match=r"give an iteration, e\.g\. ai-000"):
            what_if(lake, rows(lake, schema)["id"][0], ["minimum_margin=1"])
    with pytest.raises(ExperimentError, match=r"give an iteration, e\.g\. ai-000"):
        what_if(lake, rows(lake, SEED_PROMPTS, "ai")["id"][0], ["minimum_margin=1"])


# ---- revoke ---------------------------------------------------------------------------------------------


def test_a_revoked_seed_prompt_takes_its_responses_and_examples_and_taints_what_learnt_of_it(
    copied: Lake,
) -> None:
    seed = first(rows(copied, SEED_PROMPTS, "ai"), prompt=SECRET)["id"]
    settled = revoke(copied, "seed", seed, None, by="Ada", why="a test")
    fell = dict(settled.counts.group_by("table").agg(pl.col("rows").sum()).iter_rows())
    assert fell["seeds/prompts"] == 2, "its like in the other experiment is known by its words"
    assert fell["seeds/comparisons"] == 1
    assert (fell["rlaif/response_pairs"], fell["rlaif/comparisons"], fell["rlaif/ai_preferences"]) == (
        2,
        3,
        1,
    )
    assert (fell["constitutional/critiques"], fell["constitutional/revisions"]) == (2, 2)
    assert (fell["rlaif/rollouts"], fell["rlaif/filtered_dataset"]) == (2, 1)
    assert SECRET not in dataset(copied, "ai")["question"]
    tainted = tainted_models(copied, "ai")
    assert set(tainted) == {MODELS["ai"], MODELS["reward"]}
    assert "trained on 1 examples that were revoked" in tainted[MODELS["reward"]]
    gone = explain(copied, first(rows(copied, SEED_PROMPTS, "ai"), prompt=HOSTILE)["id"])
    assert gone.in_dataset
    assert explain(copied, seed).verdict.startswith("revoked by ")
    assert verify(copied).findings == []
    restore(copied, settled.revocation.id, by="Ada", why="over")
    assert SECRET in dataset(copied, "ai")["question"]


def test_a_policy_is_tainted_by_the_model_that_rewarded_it(copied: Lake) -> None:
    from kit.judge_lake import Stored

    from selfimprove_dagster.lake.records import Draft, Parent
    from selfimprove_dagster.loop.taint import taint

    schema = registry.table("rlaif/fine_tuned_checkpoint")
    (row,) = rows(copied, schema).iter_rows(named=True)
    stored = Stored(copied, "ai")
    content = {name: row[name] for name in schema.content} | {"dataset_activity_id": "act:elsewhere"}
    parents = [Parent(MODELS["base"], "initialised_from"), Parent(MODELS["reward"], "rewarded_by")]
    stored.add(schema, [Draft(content, parents, {name: row[name] for name in schema.measures})])
    fallen = dataset(copied, "ai").select("id", revocation=pl.lit("rev:x"))
    activity = copied.manifest("rlaif/filtered_dataset", partition_of("ai", 0)).activity.id
    reasons = taint(copied, "ai", lambda one: fallen if one == activity else fallen.clear())
    assert reasons[MODELS["ai"]] == f"it was rewarded by {MODELS['reward']}, which is tainted"


def test_a_revoked_critique_takes_the_revisions_after_it_and_no_text_of_it_is_told(copied: Lake) -> None:
    critique = first(rows(copied, CAI_CRITIQUES), text=" It gives away a secret.")["id"]
    settled = revoke(copied, "record", critique, None, by="Ada", why="a test")
    fell = dict(settled.counts.group_by("table").agg(pl.col("rows").sum()).iter_rows())
    assert (fell["constitutional/critiques"], fell["constitutional/revisions"]) == (2, 2)
    assert fell["constitutional/filtered_dataset"] == 1 and "seeds/prompts" not in fell
    assert "gives away" not in shown(ancestry_tree(trace(copied, critique)))


def test_models_rollouts_and_checks_cannot_be_revoked(lake: Lake) -> None:
    for schema in (
        registry.table("rlaif/reward_model"),
        RLHF_SUPERVISED_CHECKPOINT,
        registry.table("rlhf/rollouts"),
    ):
        with pytest.raises(RevocationError, match="whose rows never lead to examples"):
            plan(lake, "record", rows(lake, schema)["id"][0], None, by="Ada", why="a test")


# ---- the other verbs ------------------------------------------------------------------------------------


def test_a_trace_leads_from_a_pair_to_the_line_of_the_seed_file(lake: Lake) -> None:
    text = shown(ancestry_tree(trace(lake, first(dataset(lake, "ai"), question=SECRET)["id"])))
    assert PREFERENCE in text and "(B) by 0.64, shown second, principle secrets" in text
    assert "prompts.jsonl, line 1 (licence: CC0-1.0), a red-team prompt" in text
    assert "T=1.0, top_p=1.0, top_k=0" in text and "generated by b2:base" in text
    text = shown(ancestry_tree(trace(lake, first(dataset(lake, "cai"), format="revision")["id"])))
    assert "round 2 by principle polite: critique “It still hints at the place.”" in text
    assert text.count("T=0.7, top_p=0.9") == 4
    hostile = shown(ancestry_tree(trace(lake, first(dataset(lake, "ai"), question=HOSTILE)["id"])))
    assert "\x1b[31m" not in hostile and "‮" not in hostile


def test_walks_need_no_index(lake: Lake) -> None:
    example = first(dataset(lake, "cai"), format="revision")["id"]
    with_index, without = (Lineage(lake, use_index=used).ancestors([example]) for used in (True, False))
    assert with_index.nodes.equals(without.nodes) and with_index.edges.equals(without.edges)
    assert len(with_index.nodes) == 8, "example, two revisions, two critiques, response, prompt, seed"


def test_a_seed_leads_down_to_its_examples_and_one_checkpoint(lake: Lake) -> None:
    down = descend(lake, first(rows(lake, SEED_PROMPTS, "ai"), prompt=SECRET)["id"])
    assert [one.table for one in down.datasets] == ["rlaif/filtered_dataset"]
    assert [one.model_id for one in down.checkpoints] == [MODELS["ai"]] and down.checkpoints[0].promoted
    assert {count.table.split("/")[1] for count in down.counts} >= {
        *("response_pairs", "comparisons", "ai_preferences", "rollouts", "reward_model", "promotion"),
    }


def test_prov_and_verify_hold(lake: Lake) -> None:
    report = verify(lake)
    assert report.findings == [] and report.notes == []
    document = json.loads(prov_json(trace_document(lake, first(dataset(lake, "ai"), question=SECRET)["id"])))
    roles = {one["prov:type"]["$"] for one in document["wasDerivedFrom"].values()}
    assert roles >= {"role:preference", "role:chosen", "role:rejected", "role:judged_by", "role:compared"}


def test_feedback_of_people_and_of_a_model_differ_by_their_pairs(lake: Lake) -> None:
    difference = diff(lake, "ai-000", "people-000")
    assert (difference.a.noun, difference.questions_both, difference.both) == ("prompts", 1, 0)
    assert (difference.a.model_id, difference.b.model_id) == (MODELS["base"], None)
    changed = {one.question: one.new for one in difference.answers}
    assert changed == {SECRET: "I cannot say. rather than Under the third pot."}
    assert difference.b.dropped == {"empty": 1} and difference.a.means["probability"] is not None


def test_texts_of_prompts_and_critiques_are_found(lake: Lake) -> None:
    tags = {hit.table for hit in search(lake, "third pot", limit=100)}
    assert tags >= {
        *("rlaif/filtered_dataset", "seeds/comparisons", "constitutional/raw_generations"),
        *("rlaif/response_pairs", "constitutional/critiques"),
    }
    assert search(lake, PROMPTS[0][0], table="prompts")[0].table == "seeds/prompts"


@pytest.mark.parametrize(
    "table",
    [
        name
        for name, table in registry.tables().items()
        if table.draw and name.split("/")[0] in EXPERIMENTS.values()
    ],
)
def test_the_sampling_is_what_was_recorded(lake: Lake, table: str) -> None:
    (manifest,) = lake.manifests(table)
    drawn = drawn_with(manifest.activity)
    revised = table.endswith(("critiques", "revisions"))
    assert (drawn.temperature, drawn.top_p) == ((0.7, 0.9) if revised else (1.0, 1.0))
    assert (drawn.stop, drawn.max_tokens) == (DIALOGUES.stops("response"), 60)
