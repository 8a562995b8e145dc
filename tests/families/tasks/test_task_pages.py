"""Pages and exports of Self-Instruct and Unnatural Instructions."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kit.pages import client, seen
from kit.tables import TASK_TABLES, filled
from kit.task_lake import HOSTILE

from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.families.tasks import tables as t
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.methods.self_instruct.pages import nearest_tasks
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_CANDIDATE_TASKS,
    SI_FILTERED_DATASET,
    SI_POOL_DECISIONS,
    SI_RAW_GENERATIONS,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
)
from selfimprove_dagster.table import Table

pytestmark = pytest.mark.slow

METHODS = {"si": "self_instruct", "ui": "unnatural_instructions"}


def rows(home: Home, schema: Table, iteration: int = 0) -> pl.DataFrame:
    experiment = "si" if schema.name.startswith("self") else "ui"
    return home.lake.read_ungated(home.lake.manifest(schema.name, partition_of(experiment, iteration)))


# ---- experiment and iteration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("si", ["Held-out accuracy", "Pool", "Yield", "Kept share", "Diversity", "Perplexity"]),
        ("ui", ["Held-out accuracy", "Pool", "Yield", "Kept share", "Diversity"]),
    ],
)
def test_the_curves_are_those_of_the_method_with_the_yield_and_where_it_stops(
    task_home: Home, name: str, titles: list[str]
) -> None:
    page = seen(task_home, f"/experiments/{name}")
    found = re.findall(r'"application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    charts = {chart["title"]: chart for chart in map(json.loads, found)}
    assert list(charts) == titles
    measured = results(task_home.lake, task_home.experiment(name))
    stop, yields = charts["Yield"]["series"]
    assert yields["values"] == [row.counts["accepted"] / row.counts["candidates"] for row in measured]  # type: ignore[operator]
    assert stop["values"] == [0.01, 0.01]
    assert charts["Pool"]["series"][0]["values"] == [row.counts["tasks in pool"] for row in measured]
    assert all(None not in series["values"] for chart in charts.values() for series in chart["series"])
    headings = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', page.split("</table>")[0])
    assert headings[1:5] == ["tasks in pool", "candidates", "accepted", "examples"]
    assert "by vote" not in page and "argin" not in page


def test_of_questions_nothing_about_tasks_is_shown(finished_home: Home) -> None:
    page = seen(finished_home, "/experiments/small/1")
    assert 'id="pool"' not in page and "tasks in the pool" not in page


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("iteration", [0, 1])
def test_each_drop_of_the_funnel_leads_to_what_was_dropped(
    task_home: Home, name: str, iteration: int
) -> None:
    page = seen(task_home, f"/experiments/{name}/{iteration}")
    steps = re.findall(r'<div class="what"><span>([^<]*)</span><strong>([\d,]+)</strong>', page)
    counts = dict(reversed(steps))  # the first of a label
    method = METHODS[name]
    for label, stage in (
        ("tasks in the pool", "seed_pool"),
        ("candidates read out of them", "candidate_tasks"),
        ("accepted tasks", "accepted_tasks"),
        ("training examples", "filtered_dataset"),
    ):
        manifest = task_home.lake.manifest(f"{method}/{stage}", partition_of(name, iteration))
        assert counts[label] == f"{manifest.rows:,}", label
    drops = re.findall(rf'<a href="(/experiments/{name}/{iteration}/rejected[^"]*)">([\d,]+) dropped', page)
    assert {link.split("of=")[1].split("&amp;")[0] for link, _ in drops} == {"tasks", "instances"}
    for link, count in drops:
        assert f'role="status">{count} ' in seen(task_home, unescape(link)), link
    assert "What is asked for" in page and "Words of an instruction" in page
    assert "data-chart" in page and "charts.js" in page


def test_a_banned_task_is_found_among_what_left_the_pool(task_home: Home, tmp_path: Path) -> None:
    shutil.copytree(task_home.lake.root, tmp_path / "home" / "lake")
    home = replace(task_home, root=tmp_path / "home")
    manifest = home.lake.manifest(SI_POOL_DECISIONS.name, partition_of("si", 1))
    frame = pl.read_parquet(manifest.paths[0], hive_partitioning=False)
    changed = frame.with_columns(
        kept=pl.int_range(pl.len()) > 0, reason=pl.lit("banned by Ada: too <b>silly</b>")
    )
    changed.write_parquet(manifest.paths[0])
    page = seen(home, "/experiments/si/1/rejected?of=pool")
    assert 'role="status">1 task' in page and "banned by Ada: too &lt;b&gt;silly&lt;/b&gt;" in page
    assert 'rejected?of=pool">1 dropped' in seen(home, "/experiments/si/1")


@pytest.mark.parametrize("name", list(METHODS))
def test_an_iteration_of_which_only_the_first_stages_are_there_is_shown(
    task_home: Home, tmp_path: Path, name: str
) -> None:
    home = replace(task_home, root=tmp_path / "home")
    shutil.copytree(task_home.lake.root, home.lake.root)
    stages = [schema for schema in filled(TASK_TABLES) if schema.name.startswith(METHODS[name])]
    record = rows(home, stages[0], 1)["id"][0]
    for schema in reversed(stages[2:]):
        shutil.rmtree(home.lake.root / schema.name)
        for address in ("", "/1", "/1/examples", "/1/rejected", "/1/rejected?of=instances"):
            seen(home, f"/experiments/{name}{address}")
        seen(home, f"/records/{record}")
        left = stages[stages.index(schema) - 1]
        last = rows(home, left, 1)["id"]
        assert explain(home.lake, last[0]).verdict


# ---- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_tables_have_the_columns_of_the_method_and_none_of_votes(task_home: Home, name: str) -> None:
    examples = seen(task_home, f"/experiments/{name}/1/examples")
    dropped = seen(task_home, f"/experiments/{name}/1/rejected")
    scores = name == "si"
    for page in (examples, dropped):
        assert "ote share" not in page and "Readable answer" not in page
        assert ('data-label="ROUGE-L"' in page) == (scores and page is examples)
    assert 'data-label="output"' in examples and 'data-label="threshold"' in dropped
    assert re.findall(r'href="\?of=(\w+)"', dropped) == ["tasks", "instances", "pool", "tasks"]


def test_dropped_candidates_are_filtered_by_rule_score_and_words(task_home: Home) -> None:
    decisions = rows(task_home, SI_TASK_DECISIONS, 1).filter(rule="novelty", kept=False)

    def listed(**query: Any) -> list[str]:
        page = client(task_home).get("/experiments/si/1/rejected", params={"of": "tasks", **query}).text
        return re.findall(r'<td class="main"><a href="/records/(cand:[0-9a-f]+)"', page)

    by_score = decisions.sort("score", descending=True)["score"].to_list()
    assert set(listed(rule="novelty")) == set(decisions["candidate_id"])
    assert len(listed(rule="novelty", least=by_score[3])) == sum(score >= by_score[3] for score in by_score)
    word = rows(task_home, SI_CANDIDATE_TASKS, 1).filter(
        pl.col("id").is_in(decisions["candidate_id"].implode())
    )["instruction"][0]
    assert 0 < len(listed(q=word)) < len(listed())
    assert listed(of="'; DROP TABLE records; --") == listed(), "what there is not is passed over"
    examples = client(task_home).get("/experiments/si/1/examples?sort=-rouge&least=0.4").text
    shown = [float(one) for one in re.findall(r'data-label="ROUGE-L" class="number">([\d.]+)<', examples)]
    assert shown == sorted(shown, reverse=True) and min(shown) >= 0.4


# ---- records -----------------------------------------------------------------------------------------


def test_every_kind_of_record_has_a_page_in_the_words_of_its_method(task_home: Home) -> None:
    kinds = {}
    for manifest in task_home.lake.manifests():
        records = task_home.lake.read_columns(manifest, ["id"])["id"]
        if len(records):
            page = seen(task_home, f"/records/{records[0]}")
            kinds[manifest.table] = re.search(r"<h1>([^<]*) <small", page)[1]  # type: ignore[index]
            assert client(task_home).get(f"/records/{records[0]}/text").status_code == 200
    assert set(kinds) >= {schema.name for schema in filled(TASK_TABLES)}
    assert kinds["self_instruct/seed_pool"] == "Pool task"
    assert kinds["unnatural_instructions/paraphrases"] == "Paraphrase"
    assert not any("/" in kind for kind in kinds.values())


def test_a_candidate_is_shown_with_its_scores_and_the_ten_nearest_tasks(task_home: Home) -> None:
    scores = rows(task_home, SI_SIMILARITY_SCORES, 1).filter(kept=False).row(0, named=True)
    page = seen(task_home, f"/records/{scores['candidate_id']}")
    table = page.split('id="nearest"')[1].split("</table>")[0]
    assert re.findall(r'href="/records/([^"]*)"', table) == [near["id"] for near in scores["neighbours"]]
    found = [float(one) for one in re.findall(r'data-label="ROUGE-L" class="number">([\d.]+)', table)]
    assert found == [pytest.approx(near["rouge_l"], abs=1e-3) for near in scores["neighbours"]]
    assert len(found) == 10 and "the seed task of tasks.jsonl, line" in table and "✗ too near" in table
    assert "Not admitted" in page and "ROUGE-L 0.7" in page
    steps = page.split('id="steps"')[1]
    assert re.search(r'>novelty</td>.*?class="number">0\.7', steps, re.DOTALL)


def test_the_ancestry_of_an_example_is_its_main_line_and_what_prompts_showed(task_home: Home) -> None:
    example = rows(task_home, SI_FILTERED_DATASET, 1).filter(pl.col("rouge_l").is_not_null())["id"][-1]
    page = seen(task_home, f"/records/{example}")
    graph = json.loads(re.search(r'id="graph-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    kinds = {node["kind"] for node in graph["nodes"]}
    assert {"candidate_tasks", "accepted_tasks", "task_instances", "raw_generations", "seed_pool"} <= kinds
    assert len(graph["nodes"]) < 25 and "tasks" not in kinds, "what demonstrations come of is theirs to show"
    assert "Why it was kept" in page


def test_a_seed_task_shows_where_it_was_shown_and_a_completion_what_was_read_out_of_it(
    task_home: Home,
) -> None:
    seed = task_home.lake.read_ungated(task_home.lake.manifests(t.SEED_TASKS.name, "si")[0])["id"][0]
    assert "Use in prompts" in seen(task_home, f"/records/{seed}")
    drawn = rows(task_home, SI_RAW_GENERATIONS)["id"][0]
    page = seen(task_home, f"/records/{drawn}").split('id="fates"')[1].split("</section>")[0]
    read = rows(task_home, SI_CANDIDATE_TASKS).filter(completion_id=drawn)["id"]
    assert re.findall(r'href="/records/(cand:[^"]*)"', page) == read.to_list()


def test_hostile_instructions_are_inert_on_every_page(task_home: Home) -> None:
    hits = {hit.table: hit.id for hit in search(task_home.lake, "window.hacked", limit=1_000)}
    assert {table.split("/")[1] for table in hits} >= {"filtered_dataset", "candidate_tasks", "seed_pool"}
    for record in hits.values():
        seen(task_home, f"/records/{record}")
    for name in METHODS:
        for address in ("", "/1", "/1/examples?q=window.hacked", "/1/rejected?of=tasks&q=window.hacked"):
            seen(task_home, f"/experiments/{name}{address}")
    shown = seen(task_home, f"/records/{hits[SI_CANDIDATE_TASKS.name]}")
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in shown and "{{ 7 * 7 }}" in unescape(shown)
    assert "&lt;script&gt;" in seen(task_home, "/search?q=window.hacked")
    assert "<script>window" in HOSTILE


def test_of_a_revoked_neighbour_nothing_but_the_score_is_said(task_home: Home, tmp_path: Path) -> None:
    shutil.copytree(task_home.lake.root, tmp_path / "home" / "lake")
    home = replace(task_home, root=tmp_path / "home")
    scores = rows(home, SI_SIMILARITY_SCORES, 1).filter(kept=False).row(0, named=True)
    nearest = scores["neighbours"][0]["id"]
    row = Lineage(home.lake).rows([scores["candidate_id"]])[scores["candidate_id"]]
    told = nearest_tasks(Lineage(home.lake), row, {nearest})
    assert told is not None and told["tasks"][0]["text"] == told["tasks"][0]["name"] == "revoked"
    revoke(home.lake, "record", scores["candidate_id"], None, by="Ada", why="a test")
    assert "✗ Revoked" in seen(home, f"/records/{scores['candidate_id']}")


# ---- export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_exports_hold_the_columns_of_the_method_and_the_layouts_of_other_tools(
    task_home: Home, tmp_path: Path, name: str
) -> None:
    lake, experiment = task_home.lake, task_home.experiment(name)
    lines = {}
    for layout in ("jsonl", "alpaca", "chat"):
        written = len(export_dataset(lake, experiment, tmp_path / layout, None, layout).records)
        text = (tmp_path / layout / "train.jsonl").read_text(encoding="utf-8")
        lines[layout] = [json.loads(line) for line in text.splitlines()]
        assert written == len(lines[layout]) > 20
    measures = {"rouge_l", "perplexity"} if name == "si" else set()
    texts = {"id", "prompt", "completion", "format", "instruction", "input", "output"}
    for row, alpaca, chat in zip(*lines.values(), strict=True):
        assert set(row) == texts | measures
        assert alpaca == {key: row[key] for key in ("instruction", "input", "output", "id")}
        user, assistant = chat["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        said = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        assert user["content"] == said and assistant["content"] == row["output"]
        assert row["completion"] == f" {row['output']}"
    assert any(row["input"] == "" for row in lines["jsonl"]) == (name == "si")


@pytest.mark.parametrize(
    ("name", "paper", "licence", "told"),
    [
        ("si", "2212.10560", "cc-by-4.0", r"Of \d+ of them people wrote instruction, input and output"),
        ("ui", "2212.09689", "mit", "Instructions, inputs and outputs are the model's own"),
    ],
)
def test_the_card_names_the_paper_the_seed_files_and_both_filters(
    task_home: Home, tmp_path: Path, name: str, paper: str, licence: str, told: str
) -> None:
    export_dataset(task_home.lake, task_home.experiment(name), tmp_path / "out", None, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n", 2)[1])
    assert header["license"] == licence and header["tags"][-1] == METHODS[name]
    assert paper in card and re.search(told, card)
    seeds = task_home.lake.read_ungated(task_home.lake.manifests(t.SEED_TASKS.name, name)[0])
    assert f"| `{seeds['source_file'][0]}` | `{seeds['licence'][0]}` | {len(seeds)} |" in card
    assert card.count("| `duplicate` |") == 2 - (name == "si"), "of tasks, and of what was drawn for them"
    assert "vote" not in card and "`scripted 1`" in card
