"""Curation: files of prompts and examples, the vote, and an iteration with filters in two orders."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from kit.homes import make_home
from kit.judging_home import materialise
from kit.small_lake import activity_of
from pins.small_experiments import EXPERIMENTS

from selfimprove_dagster import registry
from selfimprove_dagster.families.voting.counting import recount
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import build_records
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.methods.curate.curate import short_answers
from selfimprove_dagster.methods.curate.files import examples
from selfimprove_dagster.methods.curate.settings import ExampleFile
from selfimprove_dagster.methods.curate.stages import count_votes
from selfimprove_dagster.methods.curate.tables import VOTED_ANSWERS
from selfimprove_dagster.seeds.files import split
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.shards import Rows, Shard

TABLES = [
    table.name
    for stage in registry.method("curate").stages
    for table in stage.assets
    if table.stage not in ("fine_tuned_checkpoint", "evaluation", "promotion")
]


# ---- files ---------------------------------------------------------------------------------------------


def read(folder: Path, *rows: Any, **settings: Any) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """The texts of the examples in a file of these rows, and the rejected lines."""
    file = folder / "mine.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    found, rejected = split(examples(ExampleFile(file=str(file), **settings)))
    texts = [(row["source_line"], row["instruction"], row["input"], row["output"]) for row in found]
    return texts, [(one.source_line, one.reason) for one in rejected]


def test_a_line_is_a_prompt_or_a_finished_example(tmp_path: Path) -> None:
    found, rejected = read(
        tmp_path,
        {"instruction": "Say hello."},
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Add.", "input": "1, 2", "output": "4"},
        {"instruction": "Reverse.", "instances": [{"input": "ab", "output": "ba"}, {"input": "cd"}]},
        {"instruction": "Say hello.", "output": None},
        {"instruction": ""},
        {"input": "no prompt"},
    )
    assert found == [
        (1, "Say hello.", "", None),
        (2, "Add.", "1, 2", "3"),
        (3, "Add.", "1, 2", "4"),
        (4, "Reverse.", "ab", "ba"),
        (4, "Reverse.", "cd", None),
    ]
    assert [line for line, _ in rejected] == [5, 6, 7]
    assert rejected[0][1] == "duplicate of line 1"


def test_fields_have_the_names_of_the_users_file(tmp_path: Path) -> None:
    found, rejected = read(
        tmp_path,
        {"question": "Why?", "answer": "Because."},
        instruction_field="question",
        output_field="answer",
    )
    assert (found, rejected) == ([(1, "Why?", "", "Because.")], [])


def test_lines_of_plain_text_are_prompts(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Why?\nHow?\n")
    found, _ = split(examples(ExampleFile(file=str(file))))
    assert [(row["instruction"], row["output"]) for row in found] == [("Why?", None), ("How?", None)]


# ---- the vote ------------------------------------------------------------------------------------------


def test_the_share_of_a_vote_is_of_all_answers(tmp_path: Path) -> None:
    """1 readable of 4 is 0.25, not 1.0 (2210.11610, section 3.1)."""
    rows = pl.DataFrame(
        [
            ("q:1", f"c:{at}", "?", "", text)
            for at, text in enumerate(["The answer is 4.", "No idea.", "", None])
        ],
        schema=dict.fromkeys(("question_id", "id", "instruction", "input", "output"), pl.String),
        orient="row",
    )
    experiment, activity = cast("Any", None), activity_of(VOTED_ANSWERS)
    shard: Shard[Any, Row] = Shard(Rows(rows), experiment, 0, activity, cast("Any", None))
    (row,) = build_records(VOTED_ANSWERS, count_votes(shard, how="stated"), activity).rows(named=True)
    assert (row["voted_answer"], row["n_paths"], row["n_valid"]) == ("4", 4, 1)
    assert (row["vote_share"], row["readable_share"], row["tie"], row["weights"]) == (0.25, 0.25, False, None)
    assert row["votes"] == [{"answer": "4", "count": 1}]
    assert [parent["role"] for parent in row["parents"]] == ["question", *["voted_from"] * 4]
    assert recount(row) is None
    assert "not" in str(recount({**row, "vote_share": 1.0}))


def test_what_votes() -> None:
    texts = pl.Series(["2 + 2 is 4. The answer is 4.", " Four\n cats ", "", None], dtype=pl.String)
    assert short_answers(texts, "stated").to_list()[0] == "4"
    assert short_answers(texts, "text").to_list()[1:] == ["four cats", None, None]


# ---- an iteration --------------------------------------------------------------------------------------

FOUR: list[Any] = [
    {"annotation": {"at_least": 7.0}},
    {"perplexity": {"at_most": 1.5}},
    {"self_consistency": {"at_least": 0.4, "answer": "text", "drop_ties": False}},
    {"novelty": {"at_most": 0.8}},
]


def settings_of(name: str, filters: list[Any], **changes: Any) -> dict[str, Any]:
    return {**deepcopy(EXPERIMENTS["curator"]), "filters": deepcopy(filters), "name": name, **changes}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Experiments that differ in the order of their filters, or ask for none, and one without generations."""
    home = make_home(
        tmp_path_factory.mktemp("curated"),
        settings_of("one", FOUR),
        settings_of("other", FOUR[::-1]),
        settings_of("given", ["duplicates"], generation={"samples": 0, "max_tokens": 24}),
    )
    for name in ("one", "other", "given"):
        materialise(home, name, *TABLES)
    return home


def rows(home: Home, name: str, stage: str) -> pl.DataFrame:
    (manifest,) = home.lake.manifests(f"curate/{stage}", name)
    return home.lake.read_whole(manifest)


def by_rule(decisions: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """By rule, in the order in which they ran, how many candidates reached it and how many it kept."""
    rules = decisions.group_by("rule", maintain_order=True).agg(pl.len(), pl.col("kept").sum())
    return {rule: (reached, kept) for rule, reached, kept in rules.iter_rows()}


BEFORE = ["readable", "held_out", "banned", "empty_output"]


def test_all_four_filters_run_in_the_order_of_the_file(curated: Home) -> None:
    texts = {}
    for name, filters in (("one", FOUR), ("other", FOUR[::-1])):
        decisions = rows(curated, name, "decisions")
        counts = by_rule(decisions)
        assert list(counts) == [*BEFORE, *(next(iter(one)) for one in filters)]
        for (_, kept), (reached, _) in zip(
            list(counts.values())[:-1], list(counts.values())[1:], strict=True
        ):
            assert reached == kept, "a filter sees what those before it kept"
        assert sum(kept < reached for reached, kept in counts.values()) >= 3, counts
        dataset = rows(curated, name, "filtered_dataset")
        assert len(dataset) == list(counts.values())[-1][1] > 0
        texts[name] = (counts, dataset)
    first, second = (rows(curated, name, "candidate_answers") for name in ("one", "other"))
    assert first["output"].equals(second["output"]), "the same answers are judged"
    assert texts["one"][0]["novelty"][0] < texts["other"][0]["novelty"][0]


def test_examples_have_the_scores_that_filters_read(curated: Home) -> None:
    dataset = rows(curated, "one", "filtered_dataset")
    assert dataset["rating"].min() >= 7.0 and dataset["perplexity"].max() <= 1.5  # type: ignore[operator]
    assert dataset["vote_share"].min() >= 0.4  # type: ignore[operator]
    plain = rows(curated, "given", "filtered_dataset")
    assert plain.select("rating", "perplexity", "vote_share").null_count().row(0) == (len(plain),) * 3


def test_decisions_of_novelty_name_the_nearest_answer(curated: Home) -> None:
    decisions = rows(curated, "other", "decisions").filter(~pl.col("kept"), rule="novelty")
    assert decisions["nearest_id"].null_count() == 0
    assert set(decisions["nearest_id"]) <= set(rows(curated, "other", "candidate_answers")["id"])


def test_stages_that_no_filter_reads_are_empty(curated: Home) -> None:
    for stage in ("raw_generations", "perplexity_scores", "ratings", "voted_answers"):
        assert rows(curated, "given", stage).is_empty(), stage
        assert not rows(curated, "one", stage).is_empty(), stage
    given_answers = rows(curated, "given", "candidate_answers")
    assert given_answers["given"].all() and len(given_answers) == len(rows(curated, "given", "seed_pool"))


def test_other_settings_are_tried_without_a_model(curated: Home) -> None:
    same = what_if(curated.lake, "one-000", ["perplexity.at_most=1.5"])
    assert same.kept_now == same.kept_then == len(rows(curated, "one", "filtered_dataset"))
    looser = what_if(curated.lake, "one-000", ["perplexity.at_most=100", "annotation.at_least=1"])
    assert looser.kept_now > looser.kept_then and looser.thresholds["perplexity.at_most"] == (1.5, 100)
    stricter = what_if(curated.lake, "one-000", ["self_consistency.at_least=1.0"])
    assert stricter.kept_now < stricter.kept_then and set(stricter.lost) == {"self_consistency"}
