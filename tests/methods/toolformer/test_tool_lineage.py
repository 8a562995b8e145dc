"""Every verb of lineage over whole iterations of Toolformer."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.reading import first, role, shown, stages
from kit.tool_lake import HOSTILE, ORCHARD, TEXTS, dropped, example_of, rows, scripted

from selfimprove_dagster.cli.ancestry import ancestry_tree
from selfimprove_dagster.cli.answers import difference_text, explanation_text, what_if_text
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage import replay as replaying
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.diff import diff
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.prov import prov_json, trace_document
from selfimprove_dagster.lineage.replay import replay_sample
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.explain import filter_again
from selfimprove_dagster.methods.toolformer.settings import CallFilterSection
from selfimprove_dagster.tools.calls import CALL_STOPS

pytestmark = pytest.mark.slow

BEST = (
    "[Calculator(14 * 25) → 350] before character 37: lowers the weighted loss of the next 5 tokens by 3.21 "
    "nats (4.02 without a call, 3.90 with the call alone, 0.69 with its result) against at least 0.5"
)


@pytest.fixture
def lake(tool_home: Home) -> Lake:
    return tool_home.lake


# ---- explain --------------------------------------------------------------------------------------------


def test_an_example_is_explained_from_its_seed_to_the_promotion(lake: Lake) -> None:
    explanation = explain(lake, example_of(lake, ORCHARD)["id"])
    assert stages(explanation) == [
        *("texts", "seed_pool", "call_positions", "raw_generations", "tool_results", "perplexity_scores"),
        *("has_result", "repeated_call", "loss_reduction", "best_at_position", "texts_per_tool"),
        *("filtered_dataset", "fine_tuned_checkpoint", "promotion"),
    ]
    assert explanation.in_dataset
    trained = "the checkpoint of iteration 0 was trained on it and was promoted"
    assert explanation.verdict.startswith("in the dataset of tf-000 as ")
    assert explanation.verdict.endswith(f": {BEST}; {trained}")
    seed, pool, place, drawn, answered, scored, *_ = (step.reason for step in explanation.steps)
    assert seed == "accepted from texts.jsonl, line 1 (licence: CC0-1.0), written on 2021-03-05"
    assert pool == "sampled for tf-000 at random: 8 of 8 seeds, least used first"
    assert place.startswith("p(<API>) = 0.12 for Calculator before character 37, 2nd of 2 tried, of ")
    assert "at temperature 1.0, seed " in drawn and "from the base model b2:" in drawn
    assert answered == "Calculator (version 1) to [Calculator(14 * 25)]: 350"
    assert "0.69 with its result" in scored
    assert BEST.split(" (4.02")[0] in shown(explanation_text(explanation))
    json.dumps(explanation.to_json())


def test_of_two_calls_in_one_example_each_is_told(lake: Lake) -> None:
    both = rows(lake, t.TF_FILTERED_DATASET).filter(pl.col("calls").list.len() == 2).row(0, named=True)
    explanation = explain(lake, both["id"])
    assert "[Calculator(12 * 3) → 36] before character 49" in explanation.verdict
    assert "[Calendar() → Today is Friday, March 5, 2021.] before character 70" in explanation.verdict
    assert "against at least 1;" in explanation.verdict
    assert stages(explanation).count("loss_reduction") == 2


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("has_result", r"the rule has_result: .+"),
        ("repeated_call", r"the rule repeated_call: the same call as \[.+\], drawn at this place before"),
        (
            "loss_reduction",
            r"the rule loss_reduction: .+ \(\[Calculator\(.+\) → .+\] before character \d+: lowers the weighted "
            r"loss of the next 5 tokens by (at most )?0\.\d\d nats \(.+\) against at least 0\.5\)",
        ),
        (
            "best_at_position",
            r"the rule best_at_position: \[Calculator\(14 \* 25\) → 350\] at the same position helps more: "
            r"by 3\.21 nats, this one by 2\.90 \(.+\)",
        ),
    ],
)
def test_a_dropped_call_is_told_why(lake: Lake, rule: str, said: str) -> None:
    call = dropped(lake, rule)
    explanation = explain(lake, call)
    assert re.fullmatch(f"not in the dataset of tf-000: dropped by {said}", explanation.verdict)
    assert explanation.in_dataset is False and explanation.steps[-1].passed is False
    assert explanation.steps[-1].rule == rule
    decision = first(rows(lake, t.TF_DECISIONS), candidate_id=call, rule=rule)
    generation = first(rows(lake, t.TF_TOOL_RESULTS), id=call)["generation_id"]
    for record in (decision["id"], generation):
        assert explain(lake, record).verdict == explanation.verdict
    if decision["nearest_id"]:
        nearest = explanation.steps[-1].nearest
        assert nearest and nearest.id == decision["nearest_id"] and nearest.text in explanation.verdict


def test_texts_beyond_the_most_of_a_tool_and_calls_not_drawn_are_told_so(lake: Lake) -> None:
    beyond = explain(lake, dropped(lake, "texts_per_tool", 1)).verdict
    assert "the rule texts_per_tool: text number 4 of its tool by lot, at most 3" in beyond
    by_lot = explain(lake, dropped(lake, "drawn_by_lot", experiment="lot")).verdict
    assert "not in the dataset of lot-000: dropped by the rule drawn_by_lot: " in by_lot
    kept = rows(lake, t.TF_FILTERED_DATASET, 0, "lot")["id"]
    assert all("against" not in explain(lake, record).verdict for record in kept), "the loss did not decide"


def test_a_problem_of_reading_and_one_of_the_tool_are_told(lake: Lake) -> None:
    results = rows(lake, t.TF_TOOL_RESULTS)
    unread = results.filter(pl.col("arguments").is_null()).row(0, named=True)
    assert explain(lake, unread["id"]).verdict.endswith("has_result: not a call of the form Tool(input)")
    divided = first(results, arguments="14 / 0")
    explanation = explain(lake, divided["id"])
    assert explanation.verdict.endswith("has_result: division by zero")
    assert "Calculator (version 1) to [Calculator(14 / 0)]: division by zero" in shown(
        explanation_text(explanation)
    )
    undated = results.filter(pl.col("problem").str.contains("no date")).row(0, named=True)
    assert "the document has no date" in explain(lake, undated["id"]).verdict


def test_a_call_that_could_not_pass_is_told_the_most_that_it_could_save(lake: Lake) -> None:
    bound = explain(lake, first(rows(lake, t.TF_TOOL_RESULTS), arguments="30 * 3")["id"])
    assert "by at most 0.30 nats (0.30 without a call) against at least 0.5" in bound.verdict


def test_a_seed_a_text_and_its_places_tell_what_became_of_the_calls_tried(lake: Lake) -> None:
    text = first(rows(lake, t.TF_SEED_POOL), text=ORCHARD)
    tried = rows(lake, t.TF_TOOL_RESULTS).filter(text_id=text["id"])
    explanation = explain(lake, text["id"])
    assert explanation.in_dataset and len(explanation.fates) == len(tried) == 16
    assert explanation.verdict.startswith("16 calls of 1 tool tried, 1 kept; dropped by repeated_call: ")
    (kept,) = [fate for fate in explanation.fates if fate.rule is None]
    assert (kept.answer, kept.example) == (
        "[Calculator(14 * 25) → 350]",
        example_of(lake, ORCHARD)["id"],
    )
    assert "about fifty" in [fate.answer for fate in explanation.fates], "what could not be read as a call"
    places = first(rows(lake, t.TF_CALL_POSITIONS), text_id=text["id"], tool="Calendar")
    assert explain(lake, places["id"]).verdict == "not in the dataset of tf-000: no call was made from it yet"
    seed = explain(lake, role(text, "seed"))
    assert seed.verdict == (
        "a seed text of texts.jsonl, line 1 (licence: CC0-1.0): used in 2 iterations, 32 calls, 2 kept"
    )
    assert [use.paths["kept"] for use in seed.uses] == [1, 1] and seed.uses[0].question == text["id"]
    assert "2021-03-05" in seed.steps[0].reason
    assert "text:" in shown(explanation_text(seed))


def test_every_record_is_explained_and_calls_of_examples_alone_are_in_the_dataset(lake: Lake) -> None:
    for experiment, iteration in (("tf", 0), ("tf", 1), ("lot", 0)):
        calls = rows(lake, t.TF_FILTERED_DATASET, iteration, experiment)["calls"].explode().struct.unnest()
        for schema, column in ((t.TF_TOOL_RESULTS, "id"), (t.TF_PERPLEXITY_SCORES, "candidate_id")):
            frame = rows(lake, schema, iteration, experiment)
            for record, call in frame.select("id", call=column).iter_rows():
                assert explain(lake, record).in_dataset == (call in calls["id"])
    for manifest in lake.manifests():
        for record in lake.read_ungated(manifest)["id"].head(2):
            assert explain(lake, record).verdict


def test_what_was_revoked_is_explained_and_a_better_call_that_was_is_not_quoted(
    tool_home: Home, tmp_path: Path
) -> None:
    shutil.copytree(tool_home.lake.root, tmp_path / "home" / "lake")
    lake = replace(tool_home, root=tmp_path / "home").lake
    beaten = dropped(lake, "best_at_position")
    better = first(rows(lake, t.TF_DECISIONS), rule="best_at_position", kept=False)["nearest_id"]
    assert "14 * 25" in explain(lake, beaten).verdict
    revoke(lake, "record", better, None, by="Ada", why="a test")
    assert "14 * 25" not in explain(lake, beaten).verdict
    gone = explain(lake, better)
    assert gone.verdict.startswith("revoked by ") and gone.in_dataset is False
    assert len(rows(lake, t.TF_FILTERED_DATASET)) == 3, "its example fell with it"


# ---- what if --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experiment", "iteration"), [("tf", 0), ("tf", 1), ("lot", 0)])
def test_unchanged_thresholds_give_the_recorded_decisions_exactly(
    lake: Lake, experiment: str, iteration: int
) -> None:
    dataset = lake.manifest(t.TF_FILTERED_DATASET.name, partition_of(experiment, iteration))
    section = CallFilterSection.model_validate(dataset.activity.parameters["filter"])
    again = filter_again(lake, dataset, section).sort("candidate_id", "rule")
    recorded = rows(lake, t.TF_DECISIONS, iteration, experiment).sort("candidate_id", "rule")
    assert again.equals(recorded.select(again.columns)) and len(again) > 100


def test_another_threshold_of_a_tool_says_which_calls_it_would_keep(lake: Lake) -> None:
    call = first(rows(lake, t.TF_TOOL_RESULTS), arguments="14 * 25")["id"]
    higher = what_if(lake, call, ["Calculator=3.3", "one_at_a_position=false"])
    assert higher.thresholds == {"Calculator": (0.5, 3.3), "one_at_a_position": (True, False)}
    assert (higher.kept_then, higher.kept_now, higher.noun) == (5, 3, "call")
    assert higher.lost == {"loss_reduction": 2} and higher.gained == {}
    (change,) = higher.record
    assert (change.path, change.then.kept, change.now.rule) == (call, True, "loss_reduction")
    both = what_if(lake, "tf-000", ["one_at_a_position=false"])
    assert both.gained == {"best_at_position": 1} and "calls" in shown(what_if_text(both))
    example = example_of(lake, ORCHARD)
    assert [one.path for one in what_if(lake, example["id"], ["Calculator=2"]).record] == [call]
    assert len(what_if(lake, example["text_id"], ["Calculator=2"]).record) == 16


def test_what_cannot_be_asked_of_calls_is_refused_with_what_can(lake: Lake) -> None:
    with pytest.raises(
        ExperimentError, match=r"is not a threshold.*Calculator, Calendar, one_at_a_position, most"
    ):
        what_if(lake, "tf-000", ["Weather=1"])
    with pytest.raises(ExperimentError, match="Calculator: Input should be"):
        what_if(lake, "tf-000", ["Calculator=much"])
    with pytest.raises(
        LakeError, match=r"could pass but were not scored to the end.*materialise toolformer/"
    ):
        what_if(lake, "tf-000", ["Calculator=0.1"])
    for schema in (t.SEED_TEXTS, t.TF_EVALUATION):
        record = lake.read_ungated(lake.manifests(schema.name, "tf")[0])["id"][0]
        with pytest.raises(
            ExperimentError, match=r"was not judged by thresholds; give an iteration, e\.g\. tf-000"
        ):
            what_if(lake, record, ["Calculator=1"])


# ---- the other verbs ------------------------------------------------------------------------------------


def test_a_trace_leads_to_the_line_of_the_seed_file_and_the_way_each_call_was_drawn(lake: Lake) -> None:
    text = shown(ancestry_tree(trace(lake, example_of(lake, ORCHARD)["id"])))
    assert "texts.jsonl, line 1 (licence: CC0-1.0)" in text and "Calculator(14 * 25)" in text
    assert "Calculator: calls tried at 2 of " in text and "T=1.0, top_p=1.0, top_k=0" in text
    assert "generated by b2:" in text
    hostile = shown(ancestry_tree(trace(lake, example_of(lake, HOSTILE)["id"])))
    assert "\x1b[31m" not in hostile and "‮" not in hostile


def test_a_seed_leads_down_to_its_examples_and_the_checkpoint(lake: Lake) -> None:
    text = first(rows(lake, t.TF_SEED_POOL), text=ORCHARD)
    down = descend(lake, role(text, "seed"))
    assert [dataset.iteration for dataset in down.datasets] == [0, 1]
    assert {count.table.split("/")[1] for count in down.counts} >= {
        *("seed_pool", "call_positions", "raw_generations", "tool_results", "perplexity_scores", "decisions"),
        *("filtered_dataset", "fine_tuned_checkpoint"),
    }
    assert ("tf", 1) in down.later, "the champion of iteration 1 learnt from it"


def test_prov_and_verify_hold(lake: Lake) -> None:
    report = verify(lake)
    assert report.findings == [] and report.notes == []
    document = json.loads(prov_json(trace_document(lake, example_of(lake, ORCHARD)["id"])))
    roles = {one["prov:type"]["$"] for one in document["wasDerivedFrom"].values()}
    assert roles >= {"role:text", "role:call", "role:parsed_from", "role:seed"}


def test_iterations_differ_by_texts_and_experiments_by_their_settings(lake: Lake) -> None:
    later = diff(lake, "tf-000", "tf-001")
    assert later.a.noun == "texts" and later.settings == {}
    assert later.questions_gained == ("Each of the 4 boats has 6 oars and 24 oars lie on the pier.",)
    # By lot: a text that loses one of two calls stays, with another answer.
    assert len(later.questions_lost) + len(later.answers) == 1
    assert later.a.dropped["best_at_position"] == 1 and later.b.dropped["texts_per_tool"] == 1
    other = diff(lake, "tf-000", "lot-000")
    assert set(other.settings) >= {"filtered_dataset.filter.chosen_by"}
    assert all(one.old != one.new for one in other.answers)
    text = shown(difference_text(other))
    assert "texts: " in text and "\x1b[31m" not in text


def test_words_are_found_in_texts_calls_and_results(lake: Lake) -> None:
    assert {hit.table.split("/")[1] for hit in search(lake, "November 20, 2020")} == {
        "filtered_dataset",
        "tool_results",
    }
    found = search(lake, "orchard", limit=1_000)
    assert found[0].table == t.TF_FILTERED_DATASET.name
    tables = list(dict.fromkeys(hit.table for hit in found))
    assert tables.index(t.SEED_TEXTS.name) == 1, "seeds come right after examples"


def test_every_call_is_drawn_again_token_by_token(tool_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: str, **options: Any) -> Any:
        return scripted(path)

    monkeypatch.setattr(replaying, "open_language_model", opened)
    for key in ("tf-000", "tf-001"):
        again = replay_sample(tool_home, key, 1_000)
        assert (
            again.agreement.correct
            == again.agreement.total
            == len(rows(tool_home.lake, t.TF_RAW_GENERATIONS, int(key[-1])))
        )
        assert again.differences == ()


def test_the_recorded_sampling_is_that_of_the_stage(tool_home: Home) -> None:
    manifest = tool_home.lake.manifests(t.TF_RAW_GENERATIONS.name, "tf")[0]
    recorded = drawn_with(manifest.activity)
    experiment: Any = tool_home.experiment("tf")
    section = experiment.annotation
    assert (recorded.temperature, recorded.top_p) == (section.temperature, section.top_p) == (1.0, 1.0)
    assert recorded.max_tokens == section.max_tokens == 60 and recorded.stop == CALL_STOPS


def test_the_script_has_what_every_rule_drops(lake: Lake) -> None:
    assert len(rows(lake, t.TF_SEED_POOL)) == len(TEXTS)
    everything = pl.concat([rows(lake, t.TF_DECISIONS, *where) for where in ((0,), (1,), (0, "lot"))])
    assert set(everything.filter(~pl.col("kept"))["rule"]) == {
        *("has_result", "repeated_call", "loss_reduction", "best_at_position", "texts_per_tool"),
        "drawn_by_lot",
    }
