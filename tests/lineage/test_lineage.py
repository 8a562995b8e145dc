"""Lineage: the whole ancestry of a record, exactly, and shown so that no text in it has any effect."""

from __future__ import annotations

import io
import json
import time

import pytest
from kit.small_lake import activity_of, known_ancestry, parents_of, seed_draft, store
from rich.console import Console
from typer.testing import CliRunner

from selfimprove_dagster.cli.ancestry import ancestry_tree
from selfimprove_dagster.cli.answers import descent_summary
from selfimprove_dagster.cli.lineage import lineage_app
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft, Parent, build_records
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.walk import Lineage, RecordNotFound
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)


def shown(lake: Lake, record: str) -> str:
    """The tree as a terminal gets it, colours aside."""
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    console.print(ancestry_tree(trace(lake, record)))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_trace_gives_exactly_what_a_record_was_made_from(lake: Lake) -> None:
    known = known_ancestry(lake)
    of_path = {(known.question, "prompt"), *((demo, "demonstration") for demo in known.demonstrations)}
    of_path.add(("b2:fake", "generated_by"))
    assert parents_of(trace(lake, known.example).to_json()) == {
        known.example: {
            (known.vote, "voted_answer"),
            (known.paths[0], "path"),
            *((demo, "demonstration") for demo in known.demonstrations),
        },
        known.vote: {(known.question, "question"), *((path, "voted_from") for path in known.paths)},
        **dict.fromkeys(known.paths, of_path),
        "b2:fake": set(),
        known.question: {(known.seed, "seed")},
        known.seed: set(),
        **{demo: set() for demo in known.demonstrations},
    }


def test_a_trace_says_what_each_record_is_and_what_made_it(lake: Lake) -> None:
    known = known_ancestry(lake)
    example = trace(lake, known.example)
    vote = example.parents[0]
    path = vote.parents[1]
    seed = vote.parents[0].parents[0]
    assert [node.table.split("/")[1] for node in (example, vote, path, seed)] == [
        "filtered_dataset",
        "voted_answers",
        "raw_generations",
        "accepted",
    ]
    assert (seed.columns["source_file"], seed.columns["source_line"]) == ("s.jsonl", 7)
    assert path.columns["token_ids"] == [3, 0]
    assert path.activity["model_id"] == "b2:fake"
    assert path.activity["parameters"]["temperature"] == 0.7
    assert path.activity["about"]["champion"] == "the base model"
    json.dumps(example.to_json())


def test_a_prefix_is_enough_when_it_names_one_record(lake: Lake) -> None:
    known = known_ancestry(lake)
    assert trace(lake, known.vote[:20]).id == known.vote


def test_an_ambiguous_prefix_names_some_candidates(lake: Lake) -> None:
    known_ancestry(lake)
    with pytest.raises(
        RecordNotFound, match=r"'gen:' is the start of several record ids: gen:[0-9a-f]{32} \(lmsi/"
    ):
        trace(lake, "gen:")


@pytest.mark.parametrize("prefix", ["gen:zzz", "'; DROP VIEW records; --", "%", "\0", "\udcff"])
def test_an_unknown_prefix_is_answered_in_one_line(lake: Lake, prefix: str) -> None:
    known_ancestry(lake)
    with pytest.raises(RecordNotFound, match="no record id starts with"):
        trace(lake, prefix)


def test_an_empty_lake_says_so(lake: Lake) -> None:
    with pytest.raises(RecordNotFound, match="the lake is empty; run an experiment first"):
        trace(lake, "ex:1")


def test_the_whole_id_is_enough_though_another_begins_with_it(lake: Lake) -> None:
    chain(lake, ("q:1", []), ("q:12", []))
    assert trace(lake, "q:1").id == "q:1"


def chain(lake: Lake, *edges: tuple[str, list[str]]) -> None:
    """Forged rows of the question table: each an id and the ids of its parents."""
    activity = activity_of(SEED_POOL)
    drafts = [
        Draft(seed_draft(f"{n}?").content, [Parent(parent, "seed") for parent in parents])
        for n, (_, parents) in enumerate(edges)
    ]
    frame = build_records(SEED_POOL, drafts, activity)
    lake.write(
        SEED_POOL,
        activity,
        frame.with_columns(id=frame["id"].replace(list(frame["id"]), [e[0] for e in edges])),
    )


def depths(lake: Lake, start: str) -> dict[str, int]:
    return dict(Lineage(lake).ancestors([start]).nodes.select("id", "depth").iter_rows())


def test_depths_are_those_of_the_shortest_way(lake: Lake) -> None:
    """`d` is reached in one step and in three."""
    chain(lake, ("a", ["b", "d"]), ("b", ["c"]), ("c", ["d"]), ("d", ["e"]), ("e", []))
    assert depths(lake, "a") == {"a": 0, "b": 1, "d": 1, "c": 2, "e": 2}


def test_a_forged_cycle_ends(lake: Lake) -> None:
    chain(lake, ("a", ["b"]), ("b", ["c"]), ("c", ["a", "c", "b"]))
    assert depths(lake, "a") == {"a": 0, "b": 1, "c": 2}
    assert parents_of(trace(lake, "a").to_json()) == {
        "a": {("b", "seed")},
        "b": {("c", "seed")},
        "c": {("a", "seed"), ("c", "seed"), ("b", "seed")},
    }
    assert "a" in shown(lake, "a")


def test_an_ancestor_that_is_no_row_ends_its_branch(lake: Lake) -> None:
    """Models and datasets are named as parents, but are no rows."""
    store(lake, SEED_POOL, [Draft(seed_draft().content, [Parent("b2:model", "answered_by")])])
    record = Lineage(lake).find("q:")
    assert (record.table, record.experiment, record.iteration) == (SEED_POOL.name, "demo", 0)
    (parent,) = trace(lake, record.id).parents
    assert (parent.id, parent.role, parent.table, parent.parents) == ("b2:model", "answered_by", "", [])


def test_the_model_that_wrote_a_path_is_one_hop_away(lake: Lake) -> None:
    """The checkpoint's record where the lake has one with those weights, else the model's own id."""
    known = known_ancestry(lake)
    _, (checkpoint,) = store(lake, FINE_TUNED_CHECKPOINT, [trained("b2:fake", "act:0")])
    store(lake, FINE_TUNED_CHECKPOINT, [trained("b2:other", "act:0")], iteration=1)
    generator = trace(lake, known.paths[0]).parents[-1]
    assert (generator.id, generator.role) == (checkpoint, "generated_by")
    assert (generator.columns["model_id"], generator.parents) == ("b2:fake", [])
    assert f"generated by {checkpoint}  model b2:fake" in shown(lake, known.paths[0])


def trained(model_id: str, dataset: str) -> Draft:
    """A checkpoint of those weights, trained on that dataset."""
    content = {
        "model_id": model_id,
        "base_model_id": "b2:base",
        "dataset_activity_id": dataset,
        "examples": 1,
        "steps": 1,
    }
    measures = {"path": "m", "tokens": 1, "seconds": 1.0, "first_loss": 1.0, "final_loss": 1.0, "log": []}
    return Draft(content, [Parent(dataset, "trained_on"), Parent("b2:base", "initialised_from")], measures)


def test_a_withdrawn_ancestor_keeps_its_place_and_says_nothing(lake: Lake) -> None:
    known = known_ancestry(lake)
    (manifest,) = lake.manifests(VOTED_ANSWERS.name)
    lake.withdraw(manifest, {known.vote: "rev:1"})
    vote = trace(lake, known.example).parents[0]
    assert (vote.id, vote.role, vote.table) == (known.vote, "voted_answer", VOTED_ANSWERS.name)
    assert (vote.revoked, vote.columns, vote.activity) == (True, {}, {})
    assert {parent.id for parent in vote.parents} == {known.question, *known.paths}
    assert f"voted answer {known.vote}  revoked\n" in shown(lake, known.example).replace(" \n", "\n")
    assert trace(lake, known.vote).revoked


def test_a_chain_of_a_thousand_records_can_be_traced_and_shown(lake: Lake) -> None:
    chain(lake, *((f"r{n:04}", [f"r{n + 1:04}"]) for n in range(1000)))
    tree = trace(lake, "r0000")
    assert max(depth for depth, _, _ in tree.unfolded()) == 1000
    text = tree.json_text()
    assert text.count('"role": "seed"') == 1000 and text.endswith("]}")
    node = tree.to_json()
    for n in range(1000):
        assert node["id"] == f"r{n:04}"
        (node,) = node["parents"]
    drawn = shown(lake, "r0000")
    assert "r0020  (more parents: trace this id)" in drawn and "r0021" not in drawn
    assert len(Lineage(lake).descendants(["r1000"]).nodes) == 1001


def test_json_text_says_what_the_plain_data_says(lake: Lake) -> None:
    known = known_ancestry(lake, HOSTILE)
    tree = trace(lake, known.example)
    assert json.loads(tree.json_text()) == tree.to_json()
    assert tree.json_text().isascii()


def test_a_lattice_of_shared_ancestors_is_unfolded_once(lake: Lake) -> None:
    """Two parents a level: 2 ** 60 ways lead to the last of sixty levels."""
    chain(lake, *((f"{side}{n}", [f"l{n + 1}", f"r{n + 1}"]) for n in range(60) for side in "lr"))
    tree = trace(lake, "l0")
    assert sum(1 for _ in tree.unfolded()) == 1 + 2 * (2 * 60 - 1)
    assert len(tree.json_text()) < 100_000


def test_a_long_walk_is_quick(lake: Lake) -> None:
    """100,000 edges, of which a handful belong to the record."""
    drafts = [
        Draft(seed_draft(f"{n}?").content, [Parent(f"x:{n}.{k}", "seed") for k in range(5)])
        for n in range(20_000)
    ]
    _, ids = store(lake, SEED_POOL, drafts)
    started = time.process_time()
    assert len(trace(lake, ids[123]).parents) == 5
    assert time.process_time() - started < 2
    started = time.process_time()
    assert len(trace(lake, ids[124]).parents) == 5
    assert time.process_time() - started < 0.5, "the index is there"


# ---- in the terminal ------------------------------------------------------------------------------------


def test_the_tree_tells_the_story_from_example_to_file_and_line(lake: Lake) -> None:
    known = known_ancestry(lake)
    text = shown(lake, known.example)
    assert f"{known.example}  in the dataset as few_shot_cot, vote share 1.00" in text
    vote = "the vote is 2 by majority: 4 of 4 paths state an answer (2 × 4); share 1, margin 1"
    assert f"voted answer {known.vote}  {vote}" in text
    drawn = (
        "sample 3, sampled at temperature 0.7, seed 33, from the base model b2:fake after 2 demonstrations"
    )
    assert f"voted from {known.paths[3]}  {drawn}; finish reason stop: “1 + 1 = 2. The answer is 2.”" in text
    assert "sample 3 of 4, fake 1, T=0.7, top_p=1.0, top_k=0" in text
    assert f"seed {known.seed}  accepted from s.jsonl, line 7 (licence: MIT)" in text
    assert text.count("1 + 1 = 2. The answer is 2.") == 5, "each path is unfolded once"
    assert f"path {known.paths[0]}  (above)" in text


HOSTILE = (
    "\x1b[31mred\x1b[0m [bold]b[/bold] [link=http://e.vil]x[/link]\n"
    "├── seed:forged \x9b2J\r\u202egnp.exe :boom:"
)


def test_hostile_text_is_inert(lake: Lake) -> None:
    """Escape codes, markup, line breaks and reordering marks of a model or a file have no effect."""
    known = known_ancestry(
        lake, HOSTILE, question=HOSTILE, source_file=HOSTILE, licence=HOSTILE, voted_answer=HOSTILE
    )
    text = shown(lake, known.example)
    assert not set(text) & set("\x1b\x9b\r\u202e\x07")
    assert "[bold]b[/bold] [link=http://e.vil]x[/link]" in text
    assert ":boom:" in text
    assert not any(line.strip(" │└├─").startswith("seed:forged") for line in text.splitlines())


def test_a_vote_without_a_readable_answer_can_be_shown(lake: Lake) -> None:
    ballot = {
        "question_id": "q:1",
        "question": "1 + 1?",
        "rule": "majority",
        "voted_answer": None,
        "votes": [],
        "paths": [{"id": "gen:1", "answer": None}],
        "tie": False,
        "n_paths": 1,
        "n_valid": 0,
        "n_distinct_paths": 1,
    }
    _, (vote,) = store(lake, VOTED_ANSWERS, [Draft(ballot, (), {"vote_share": None, "margin": None})])
    assert "no vote: 0 of 1 paths state an answer" in shown(lake, vote)


# ---- what came of a record ------------------------------------------------------------------------------


def test_a_descent_leads_to_datasets_checkpoints_and_the_iterations_that_drew_from_them(lake: Lake) -> None:
    """Iteration 2 draws from the model of iteration 1, 3 from that of 2, and 4 from the base model."""
    known = known_ancestry(lake)
    (dataset,) = lake.manifests(FILTERED_DATASET.name)
    _, (first,) = store(lake, FINE_TUNED_CHECKPOINT, [trained("b2:first", dataset.activity.id)], iteration=1)
    store(lake, PROMOTION, [decided(first, promoted=True)], iteration=1)
    for iteration, model in ((2, "b2:first"), (3, "b2:second"), (4, "b2:base")):
        store(lake, RAW_GENERATIONS, [], iteration=iteration, model_id=model)
    store(lake, FINE_TUNED_CHECKPOINT, [trained("b2:second", "act:other")], iteration=2)
    descent = descend(lake, known.paths[1])
    assert {(count.table, count.rows) for count in descent.counts} == {
        (VOTED_ANSWERS.name, 1),
        (DECISIONS.name, 1),
        (FILTERED_DATASET.name, 1),
        (FINE_TUNED_CHECKPOINT.name, 1),
        (PROMOTION.name, 1),
    }
    assert [(one.activity_id, one.rows) for one in descent.datasets] == [(dataset.activity.id, 1)]
    assert [(one.id, one.model_id, one.promoted) for one in descent.checkpoints] == [
        (first, "b2:first", True)
    ]
    assert descent.later == [("demo", 2), ("demo", 3)]
    said = descent.to_json(every=True)
    assert known.vote in said["ids"] and "ids" not in descent.to_json()
    json.dumps(said)
    console = Console(file=io.StringIO(), width=200)
    console.print(descent_summary(descent))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5 descendants" in text
    assert f"checkpoint {first} of demo, iteration 1: promoted" in text
    assert "iteration 3 of demo used a model that was trained on it" in text


def decided(challenger: str, *, promoted: bool) -> Draft:
    """What the promotion gate said of a checkpoint."""
    content = {
        **dict.fromkeys(("reason", "challenger_model_id", "champion_model_id"), "b2:x"),
        **dict.fromkeys(("questions", "gained", "lost"), 1),
        "promoted": promoted,
    }
    measures = dict.fromkeys(PROMOTION.measures)
    return Draft(content, [Parent(challenger, "challenger")], measures)


def test_a_summary_names_some_descendants_and_all_when_asked(lake: Lake) -> None:
    chain(lake, *((f"q:{n:03}", ["q:root"]) for n in range(30)), ("q:root", []))
    descent = descend(lake, "q:root")

    def summary(*, every: bool) -> str:
        console = Console(file=io.StringIO(), width=200)
        console.print(descent_summary(descent, every=every))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    assert "q:019" in summary(every=False) and "q:020" not in summary(every=False)
    assert "and 10 more; --all lists them" in summary(every=False)
    assert "q:029" in summary(every=True) and "more" not in summary(every=True)


def test_the_commands_answer_on_a_finished_home(finished_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(finished_home.root))
    lake = finished_home.lake
    (pool, _) = lake.manifests(SEED_POOL.name)
    record = lake.read_whole(pool)["id"][0]
    run = CliRunner().invoke
    assert " edges, " in run(lineage_app, ["index"]).output
    assert f"{RAW_GENERATIONS.name}" in run(lineage_app, ["descendants", record[:20]]).output
    said = json.loads(run(lineage_app, ["descendants", record, "--json"]).output)
    assert {count["table"]: count["rows"] for count in said["counts"]}[RAW_GENERATIONS.name] == 8
    assert [checkpoint["promoted"] is None for checkpoint in said["checkpoints"]] == [False]
    later = lake.manifests(RAW_GENERATIONS.name)[1].activity.model_id
    assert bool(said["later"]) == (said["checkpoints"][0]["model_id"] == later)
