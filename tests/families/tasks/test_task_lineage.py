"""Every verb of lineage over two whole iterations of Self-Instruct and Unnatural Instructions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.reading import first, role, shown, stages
from kit.task_lake import HOSTILE, ScriptedModel, scripted
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.cli.ancestry import ancestry_tree
from selfimprove_dagster.cli.answers import difference_text, explanation_text, what_if_text
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.families.tasks import tables as t
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.lineage import replay as replaying
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.diff import diff
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.main_line import main_line, without_ancestors_of_the_shown
from selfimprove_dagster.lineage.prov import prov_json, trace_document
from selfimprove_dagster.lineage.replay import replay, replay_sample
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.lineage.walk import Lineage, RecordNotFound
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.methods.self_instruct.explain import filter_again
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_ACCEPTED_TASKS,
    SI_CANDIDATE_TASKS,
    SI_FILTERED_DATASET,
    SI_RAW_GENERATIONS,
    SI_SEED_POOL,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
    SI_TASK_INSTANCES,
)
from selfimprove_dagster.methods.unnatural_instructions.tables import (
    UI_CANDIDATE_TASKS,
    UI_FILTERED_DATASET,
    UI_TASK_OUTPUTS,
)
from selfimprove_dagster.table import Table

pytestmark = pytest.mark.slow

DRAWN = [
    name
    for name, table in registry.tables().items()
    if table.draw and name.split("/")[0] in ("self_instruct", "unnatural_instructions")
]


@pytest.fixture
def lake(task_home: Home) -> Lake:
    return task_home.lake


@pytest.fixture
def copied(task_home: Home, tmp_path: Path) -> Home:
    """A copy of the home's lake that may be changed."""
    shutil.copytree(task_home.lake.root, tmp_path / "home" / "lake")
    return replace(task_home, root=tmp_path / "home")


@pytest.fixture
def with_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays ask the script."""
    monkeypatch.setattr(replaying, "open_language_model", lambda path, **options: scripted(path))


def rows(lake: Lake, schema: Table, iteration: int = 0) -> pl.DataFrame:
    experiment = "si" if schema.name.startswith("self") else "ui"
    return lake.read_ungated(lake.manifest(schema.name, partition_of(experiment, iteration)))


# ---- explain --------------------------------------------------------------------------------------------


def test_an_example_is_explained_in_the_order_of_the_pipeline(lake: Lake) -> None:
    example = rows(lake, SI_FILTERED_DATASET).filter(pl.col("rouge_l").is_not_null()).row(0, named=True)
    explanation = explain(lake, example["id"])
    assert stages(explanation) == [
        *("raw_generations", "candidate_tasks", "perplexity_scores", "similarity_scores"),
        *("readable", "least_words", "most_words", "opening", "opening_punctuation", "opening_non_ascii"),
        *("forbidden_word", "banned", "perplexity", "novelty", "accepted_tasks", "classified_tasks"),
        *("instance_generations", "task_instances", "readable", "held_out", "banned"),
        *("empty_output", "output_is_input", "trailing_colon", "contradiction", "duplicate"),
        *("instances_per_task", "filtered_dataset"),
        *("fine_tuned_checkpoint", "promotion"),
    ]
    assert explanation.in_dataset
    assert explanation.verdict == (
        f"in the dataset of si-000 as {example['format']}: it passed 19 rules; "
        "the checkpoint of iteration 0 was trained on it and was promoted"
    )
    drawn = explanation.steps[0].reason
    assert "from the base model b2:" in drawn and "after 5 demonstrations; finish reason stop" in drawn
    json.dumps(explanation.to_json())


def test_the_output_and_the_paraphrase_of_an_example_are_explained(lake: Lake) -> None:
    examples = rows(lake, UI_FILTERED_DATASET)
    of_paraphrase = examples.filter(pl.col("parents").list.len() == 3).row(0, named=True)
    explanation = explain(lake, of_paraphrase["id"])
    assert stages(explanation)[-13:-2] == [
        *("readable", "held_out", "banned", "empty_output", "same_example", "fields", "copy", "duplicate"),
        *("paraphrases_per_task", "same_example", "filtered_dataset"),
    ]
    assert {"task_outputs", "paraphrases", "accepted_tasks"} <= set(stages(explanation))


def test_a_task_that_is_not_new_is_told_the_task_it_is_near_to_by_name(lake: Lake) -> None:
    decisions = rows(lake, SI_TASK_DECISIONS, 1).filter(rule="novelty", kept=False)
    accepted = rows(lake, SI_ACCEPTED_TASKS)
    names = []
    for row in decisions.iter_rows(named=True):
        explanation = explain(lake, row["candidate_id"])
        dropped = explanation.steps[-1]
        assert dropped.passed is False and dropped.nearest is not None
        assert explanation.in_dataset is False
        assert explanation.verdict.startswith(
            f"not in the dataset of si-001: dropped by the rule novelty: {row['score']:.2f} to "
        )
        assert f"“{dropped.nearest.text}”" in dropped.reason
        names.append(dropped.reason.split(" to ")[1].split(": “")[0])
        if names[-1].endswith("of iteration 0"):
            number = int(names[-1].split()[1])
            assert accepted["instruction"][number - 1] == dropped.nearest.text
    assert any(name.startswith("the seed task of tasks.jsonl, line ") for name in names)
    assert any(name.endswith(" of iteration 0") for name in names)
    assert any(name.endswith(" of iteration 1") for name in names), "it joined before, in the same iteration"


def test_of_a_seed_task_is_told_what_came_of_the_prompts_that_showed_it(lake: Lake) -> None:
    seed = lake.read_ungated(lake.manifests(t.SEED_TASKS.name, "si")[0]).row(0, named=True)
    explanation = explain(lake, seed["id"])
    assert [one.iteration for one in explanation.showings] == [0, 1]
    zero = explanation.showings[0]
    drawn = rows(lake, SI_RAW_GENERATIONS)
    prompts = drawn.filter(pl.col("prompt").str.contains(seed["instruction"], literal=True))["id"]
    candidates = rows(lake, SI_CANDIDATE_TASKS).filter(pl.col("completion_id").is_in(prompts.implode()))
    accepted = rows(lake, SI_ACCEPTED_TASKS).filter(pl.col("candidate_id").is_in(candidates["id"].implode()))
    examples = rows(lake, SI_FILTERED_DATASET).filter(
        pl.col("instruction").is_in(accepted["instruction"].implode())
    )
    assert zero.prompts == len(prompts) > 0
    assert (zero.candidates, zero.accepted, zero.examples) == (len(candidates), len(accepted), len(examples))
    assert "prompts of 2 iterations" in explanation.verdict
    assert explanation.in_dataset, "its own instances are examples"
    assert str(zero.prompts) in shown(explanation_text(explanation))
    rare = lake.read_ungated(lake.manifests(t.SEED_TASKS.name, "ui")[0])["id"][0]
    assert explain(lake, rare).in_dataset is None, "it is shown, and not trained on"


def test_a_completion_tells_what_became_of_each_task_that_was_read_out_of_it(lake: Lake) -> None:
    drawn = rows(lake, SI_RAW_GENERATIONS)["id"][0]
    explanation = explain(lake, drawn)
    read = rows(lake, SI_CANDIDATE_TASKS).filter(completion_id=drawn)
    accepted = rows(lake, SI_ACCEPTED_TASKS)["candidate_id"].to_list()
    assert [fate.path for fate in explanation.fates] == read["id"].to_list()
    assert [fate.answer for fate in explanation.fates] == read["instruction"].to_list()
    assert [fate.rule is None for fate in explanation.fates] == [one in accepted for one in read["id"]]


def test_a_score_and_a_decision_are_explained_by_their_candidate(lake: Lake) -> None:
    decision = first(rows(lake, SI_TASK_DECISIONS), rule="novelty")
    score = first(rows(lake, SI_SIMILARITY_SCORES), candidate_id=decision["candidate_id"])
    verdicts = {explain(lake, one).verdict for one in (decision["id"], score["id"], decision["candidate_id"])}
    assert len(verdicts) == 1


@pytest.mark.parametrize("iteration", [0, 1])
def test_every_record_is_explained_and_examples_alone_are_said_to_be_in_the_dataset(
    lake: Lake, iteration: int
) -> None:
    for schema, maker in ((SI_TASK_INSTANCES, "instance"), (UI_TASK_OUTPUTS, "output")):
        dataset = SI_FILTERED_DATASET if maker == "instance" else UI_FILTERED_DATASET
        edges = rows(lake, dataset, iteration)["parents"].explode().struct.unnest()
        used = set(edges.filter(role=maker)["id"])
        for record in rows(lake, schema, iteration)["id"].head(25):
            assert explain(lake, record).in_dataset == (record in used)


def test_what_was_revoked_is_explained_and_a_neighbour_that_was_is_not_quoted(copied: Home) -> None:
    lake = copied.lake
    completions = dict(rows(lake, SI_CANDIDATE_TASKS).select("id", "completion_id").iter_rows())
    decision = next(
        row
        for row in rows(lake, SI_TASK_DECISIONS).filter(rule="novelty", kept=False).iter_rows(named=True)
        if row["score"] < 1
        and completions.get(row["nearest_id"], row["nearest_id"]) != completions[row["candidate_id"]]
        and row["nearest_id"] in completions
    )
    near = lake.manifest(SI_CANDIDATE_TASKS.name, partition_of("si", 0))
    text = first(rows(lake, SI_CANDIDATE_TASKS), id=decision["nearest_id"])["instruction"]
    assert text in explain(lake, decision["candidate_id"]).verdict
    lake.withdraw(near, {decision["nearest_id"]: "rev:1"})
    assert text not in str(explain(lake, decision["candidate_id"]).to_json())
    gone = explain(lake, decision["nearest_id"])
    assert gone.verdict.startswith("revoked by rev:1, so it is excluded from later reads; otherwise: ")
    assert not gone.in_dataset


# ---- the main line --------------------------------------------------------------------------------------


def test_the_main_line_leaves_out_what_prompts_showed(lake: Lake) -> None:
    example = rows(lake, SI_FILTERED_DATASET, 1).filter(pl.col("rouge_l").is_not_null()).row(-1, named=True)
    lineage = Lineage(lake)
    line = main_line(lineage, example["id"])
    tables = [row["table_name"].split("/")[1] for row in line]
    assert sorted(tables) == [
        *("accepted_tasks", "candidate_tasks", "classified_tasks", "filtered_dataset"),
        *("instance_generations", "raw_generations", "similarity_scores", "task_instances"),
    ]
    walk = lineage.ancestors([example["id"]])
    near = without_ancestors_of_the_shown(walk, example["id"])
    assert {row["id"] for row in line} < set(near.nodes["id"]) < set(walk.nodes["id"])
    beyond = set(near.nodes["id"]) - {row["id"] for row in line}
    assert {edge["role"] for edge in near.edges.iter_rows(named=True) if edge["parent"] in beyond} == {
        "demonstration"
    }


def test_a_trace_tells_instructions_and_how_each_completion_was_drawn(lake: Lake) -> None:
    example = rows(lake, SI_FILTERED_DATASET).filter(pl.col("rouge_l").is_not_null()).row(0, named=True)
    text = shown(ancestry_tree(trace(lake, example["id"])))
    assert "tasks.jsonl, line" in text and "ROUGE-L" in text
    assert "T=0.9, top_p=1.0, top_k=0" in text and "decoded greedily from the base model" in text
    assert text.count(example["instruction"]) >= 3
    assert "generated by b2:" in text
    of_ui = rows(lake, UI_FILTERED_DATASET, 1)["id"][-1]
    assert "from the checkpoint of iteration 0" in shown(ancestry_tree(trace(lake, of_ui)))
    down = descend(lake, role(example, "task"))
    assert [dataset.iteration for dataset in down.datasets] == [0, 1]


def test_prov_and_verify_hold_for_these_methods(lake: Lake) -> None:
    report = verify(lake)
    assert report.findings == [] and report.notes == []
    example = rows(lake, UI_FILTERED_DATASET)["id"][0]
    document = json.loads(prov_json(trace_document(lake, example)))
    assert {one["prov:type"]["$"] for one in document["wasDerivedFrom"].values()} >= {
        "role:output",
        "role:demonstration",
        "role:seed",
    }


# ---- what if --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [0, 1])
def test_unchanged_thresholds_give_the_recorded_decisions_exactly(lake: Lake, iteration: int) -> None:
    accepted = lake.manifest(SI_ACCEPTED_TASKS.name, partition_of("si", iteration))
    section = TaskFilterSection(**accepted.activity.parameters["filter"])
    again = filter_again(lake, accepted, section)
    recorded = rows(lake, SI_TASK_DECISIONS, iteration)
    assert len(recorded) > 100
    assert again.equals(recorded.select(again.columns))


def test_another_threshold_says_what_would_have_joined_the_pool(lake: Lake) -> None:
    novelty = rows(lake, SI_TASK_DECISIONS).filter(rule="novelty")
    dropped = novelty.filter(~pl.col("kept")).sort("score").row(0, named=True)
    looser = what_if(lake, dropped["id"], ["maximum_rouge_l=1"])
    assert looser.key == "si-000" and looser.thresholds == {"maximum_rouge_l": (0.7, 1)}
    assert looser.kept_now == len(novelty) and looser.gained == {"novelty": int((~novelty["kept"]).sum())}
    (change,) = looser.record
    assert (change.path, change.then.kept, change.now.kept) == (dropped["candidate_id"], False, True)
    assert "candidates" in shown(what_if_text(looser))
    least = what_if(lake, "si-000", ["least_words=9", "perplexity=null"])
    words = rows(lake, SI_TASK_DECISIONS).filter(rule="least_words")
    assert least.kept_now <= int((words["score"] >= 9).sum()) < least.kept_then
    assert set(least.lost) <= {"least_words", "novelty"}


def test_any_record_of_a_candidate_names_it(lake: Lake) -> None:
    example = rows(lake, SI_FILTERED_DATASET).filter(pl.col("rouge_l").is_not_null()).row(0, named=True)
    task = first(rows(lake, SI_ACCEPTED_TASKS), id=role(example, "task"))
    for record in (example["id"], task["id"], role(example, "instance")):
        (change,) = what_if(lake, record, ["novelty=0.65"]).record
        assert change.path == task["candidate_id"]
    drawn = rows(lake, SI_RAW_GENERATIONS)["id"][0]
    assert len(what_if(lake, drawn, ["novelty=0.65"]).record) == len(explain(lake, drawn).fates)


def test_what_cannot_be_asked_is_refused_with_what_can(lake: Lake) -> None:
    for subject in ("ui-000", rows(lake, UI_CANDIDATE_TASKS)["id"][0]):
        with pytest.raises(ExperimentError, match="unnatural_instructions has no thresholds"):
            what_if(lake, subject, ["maximum_rouge_l=0.6"])
    with pytest.raises(
        ExperimentError, match=r"is not a threshold.*maximum_rouge_l, maximum_perplexity, least_"
    ):
        what_if(lake, "si-000", ["seed_instances=true"])
    with pytest.raises(ExperimentError, match="maximum_rouge_l: Input should be"):
        what_if(lake, "si-000", ["novelty=2"])
    with pytest.raises(
        ExperimentError, match=r"was not judged by thresholds; give an iteration, e\.g\. si-000"
    ):
        what_if(lake, rows(lake, SI_SEED_POOL)["id"][0], ["novelty=0.6"])


# ---- replay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["si-000", "si-001", "ui-001"])
def test_every_completion_is_drawn_again_by_the_parameters_that_drew_it(
    task_home: Home, with_script: None, key: str
) -> None:
    again = replay_sample(task_home, key, 1_000)
    drawn = [name for name in DRAWN if task_home.lake.exists(name, partition_of(key[:2], int(key[3:])))]
    assert len(again.activities) == len(drawn) > 1
    assert again.agreement.correct == again.agreement.total > 20
    assert again.differences == ()


@pytest.mark.parametrize("table", DRAWN)
def test_the_recorded_sampling_is_that_of_the_stage(
    task_home: Home, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    manifest = task_home.lake.manifests(table)[0]
    experiment: Any = task_home.experiment(manifest.experiment)
    stage = table.split("/")[1]
    section = {"instance_generations": "instances", "task_outputs": "outputs"}.get(stage, stage)
    section = getattr(experiment, {"raw_generations": "generation"}.get(section, section))
    recorded = drawn_with(manifest.activity)
    assert recorded.temperature == getattr(section, "temperature", 0.0)
    assert recorded.max_tokens == section.max_tokens
    assert recorded.top_p == getattr(section, "top_p", 1.0)
    assert recorded.stop


def test_an_example_is_replayed_by_the_completions_nearest_to_it(task_home: Home, with_script: None) -> None:
    lake = task_home.lake
    example = rows(lake, SI_FILTERED_DATASET, 1).filter(pl.col("rouge_l").is_not_null()).row(0, named=True)
    instance = role(example, "instance")
    drawn = role(Lineage(lake).rows([instance])[instance], "parsed_from")
    assert [one.id for one in replay(task_home, example["id"]).paths] == [drawn]
    both = rows(lake, UI_FILTERED_DATASET).filter(pl.col("parents").list.len() == 3).row(0, named=True)
    again = replay(task_home, both["id"], alone=True)
    assert {one.id for one in again.paths} == {role(both, "output"), role(both, "paraphrase")}
    assert len(again.activities) == 2 and all(one.equal for one in again.paths)
    with pytest.raises(RecordNotFound, match="is not a completion and was not made from one"):
        replay(task_home, rows(lake, SI_SEED_POOL)["id"][0])


def test_another_stop_string_would_be_found(
    task_home: Home, with_script: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = SamplingParameters(temperature=0.0, max_tokens=500)
    monkeypatch.setattr(replaying, "drawn_with", lambda activity, row: without)
    output = rows(task_home.lake, UI_TASK_OUTPUTS).filter(pl.col("text") != "")["id"][0]
    (path,) = replay(task_home, output).paths
    assert not path.equal and path.replayed_text.startswith(path.recorded_text)


def test_the_script_says_the_same_again() -> None:
    model = ScriptedModel("b2:0", improved=False)
    prompt = model.encode("Here is a series of tasks.\n\n1. Name a colour.\n2.")
    one, again = (model.generate([prompt], [[5]], SamplingParameters())[0][0] for _ in range(2))
    assert one == again and model.decode(one.token_ids) == one.text


# ---- diff, search, revoke, the terminal -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["si", "ui"])
def test_a_later_iteration_gains_examples_and_loses_none(lake: Lake, name: str) -> None:
    difference = diff(lake, f"{name}-000", f"{name}-001")
    a, b = difference.a, difference.b
    assert difference.lost == () and len(difference.gained) == b.examples - a.examples > 0
    assert difference.both == a.examples
    assert len(difference.questions_gained) == b.questions - a.questions > 0
    assert a.noun == "instructions" and difference.settings == {} and not difference.answers
    assert (a.champion, b.champion) == ("the base model", "the checkpoint of iteration 0")
    assert a.dropped["duplicate"] > 0 and ("novelty" in a.dropped) == (name == "si")
    assert "instructions: " in shown(difference_text(difference))


def test_words_are_found_in_instructions_inputs_and_outputs(lake: Lake) -> None:
    assert {hit.table.split("/")[1] for hit in search(lake, "Tokyo")} >= {
        "filtered_dataset",
        "tasks",
        "seed_pool",
    }
    found = search(lake, "lighthouse", experiment="si")
    assert found[0].table == SI_FILTERED_DATASET.name
    assert {hit.table.split("/")[1] for hit in search(lake, "lighthouse", limit=1_000)} >= {
        *("candidate_tasks", "accepted_tasks", "task_instances", "instance_generations", "task_outputs")
    }
    assert any("well done" in hit.excerpt for hit in search(lake, "well done", table="task_instances"))


def test_a_revoked_seed_task_falls_with_what_it_was_shown_for_and_does_not_come_back(copied: Home) -> None:
    lake = copied.lake
    seed = lake.read_ungated(lake.manifests(t.SEED_TASKS.name, "si")[0]).row(0, named=True)
    before = rows(lake, SI_FILTERED_DATASET)
    settled = revoke(lake, "seed", seed["id"], None, by="Ada", why="not ours")
    assert settled.revocation.names("elsewhere.jsonl", "MIT", seed["instruction"].upper())
    fallen = set(settled.fallen["id"])
    shown_in = rows(lake, SI_RAW_GENERATIONS)["prompt"]
    assert not shown_in.str.contains(seed["instruction"], literal=True).any()
    kept = rows(lake, SI_FILTERED_DATASET)
    assert len(kept) < len(before) and not fallen & set(kept["id"])
    assert explain(lake, seed["id"]).verdict.startswith("revoked by rev:")
    assert verify(lake).findings == []


@pytest.mark.parametrize("verb", ["explain", "trace", "descendants"])
def test_hostile_instructions_are_inert_in_the_terminal(
    task_home: Home, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(task_home.root))
    hits = search(task_home.lake, "window.hacked", limit=1_000)
    assert {hit.table.split("/")[1] for hit in hits} >= {"filtered_dataset", "candidate_tasks"}
    for hit in {one.table: one for one in hits}.values():
        told = CliRunner().invoke(app, ["lineage", verb, hit.id])
        assert told.exit_code == 0, told.exception
        assert not set(told.output) & set("\x1b\u202e\u200b")
    record = first(rows(task_home.lake, SI_CANDIDATE_TASKS), instruction=HOSTILE)["id"]
    assert "window.hacked" in shown(explanation_text(explain(task_home.lake, record)))


def test_the_commands_answer(task_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(task_home.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(task_home.experiments))

    def told(*words: str) -> str:
        answer = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    assert "template_" in told("lineage", "example", "si")
    assert "maximum_rouge_l 0.7 → 0.6" in told("lineage", "explain", "si-001", "--what-if", "novelty=0.6")
    table = told("status", "si")
    for heading in ("tasks in pool", "candidates", "accepted", "examples"):
        assert heading in table
    assert "vote" not in table and "iteration 2 of self_instruct, ready to run" in table
