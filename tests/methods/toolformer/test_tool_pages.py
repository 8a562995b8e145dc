"""Pages and exports of Toolformer."""

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
from kit.pages import client, said, seen
from kit.tool_lake import HOSTILE, ORCHARD, dropped, example_of, rows

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.pages import calls_of_record

pytestmark = pytest.mark.slow

# ---- experiment and iteration ------------------------------------------------------------------------


def test_the_curves_are_accuracy_with_tools_kept_calls_and_plain_perplexity(tool_home: Home) -> None:
    page = seen(tool_home, "/experiments/tf")
    found = re.findall(r'"application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    charts = {chart["title"]: chart for chart in map(json.loads, found)}
    assert list(charts) == ["Held-out accuracy", "Kept share", "Calls kept", "Perplexity of plain texts"]
    champion, challenger = (series["values"] for series in charts["Held-out accuracy"]["series"])
    assert (champion, challenger) == ([0.25, 0.5], [0.5, 0.5])
    assert "with their calls" in charts["Held-out accuracy"]["about"]
    assert charts["Calls kept"]["series"][0]["values"] == [5, 5]
    drawn = len(rows(tool_home.lake, t.TF_RAW_GENERATIONS))
    assert charts["Kept share"]["series"][0]["values"][0] == pytest.approx(5 / drawn)
    before, after = (series["values"][0] for series in charts["Perplexity of plain texts"]["series"])
    assert before == pytest.approx(12.061, abs=1e-3) and after == pytest.approx(12.182, abs=1e-3)
    assert 'href="/experiments/tf/0/examples">4</a>' in page and "by vote" not in page


@pytest.mark.parametrize(("name", "iteration"), [("tf", 0), ("tf", 1), ("lot", 0)])
def test_each_drop_of_the_funnel_leads_to_what_was_dropped(
    tool_home: Home, name: str, iteration: int
) -> None:
    page = seen(tool_home, f"/experiments/{name}/{iteration}")
    steps = re.findall(r'<div class="what"><span>([^<]*)</span><strong>([\d,]+)</strong>', page)
    counts = {label: int(number) for label, number in steps}
    assert counts["texts"] == 8 and counts["places where a call is likely enough"] == 9
    assert counts["calls sampled there"] == 63
    examples = rows(tool_home.lake, t.TF_FILTERED_DATASET, iteration, name)
    assert counts["texts with calls: training examples"] == len(examples)
    drops = re.findall(rf'<a href="(/experiments/{name}/{iteration}/rejected[^"]*)">([\d,]+) dropped', page)
    assert len(drops) >= 3
    for link, count in drops:
        assert f'role="status">{count} call' in seen(tool_home, unescape(link)), link
    assert "From texts to examples" in page and "Calls were drawn by" in page


def test_an_iteration_shows_examples_by_threshold_the_use_of_calls_and_the_best_and_worst(
    tool_home: Home,
) -> None:
    page = seen(tool_home, "/experiments/tf/0")
    calls = page.split('id="calls"')[1].split("</section>")[0]
    words = said(calls)
    assert "tool τ f 0.5 τ f 1.0 τ f 2.0 Calculator 3 3 3 Calendar 2 2 2" in words
    assert "champion 0.0% – – – – new checkpoint 100.0% 75.0% 75.0% 66.7% 33.3%" in words
    best = calls.split("The best calls of Calculator")[1].split("</table>")[0]
    saved = [float(one) for one in re.findall(r'data-label="saves" class="number">([\d.]+)', best)]
    assert saved == [3.4, 3.21, 3.1, 2.9, 0.4]
    worst = calls.split("The worst calls of Calculator")[1].split("</table>")[0]
    assert [float(one) for one in re.findall(r'data-label="saves" class="number">([\d.]+)', worst)] == saved[
        ::-1
    ]
    assert "[Calculator(14 * 25) → 350]" in unescape(best)
    assert 'id="calls"' not in seen(tool_home, "/experiments/tf/0/examples")


def test_an_iteration_of_which_only_the_first_stages_are_there_is_shown(
    tool_home: Home, tmp_path: Path
) -> None:
    home = replace(tool_home, root=tmp_path / "home")
    shutil.copytree(tool_home.lake.root, home.lake.root)
    stages = [schema for schema in t.TOOL_TABLES if schema.name.startswith("toolformer/")]
    for schema in reversed(stages[1:]):
        shutil.rmtree(home.lake.root / schema.name)
        for address in ("", "/1", "/1/examples", "/1/rejected"):
            seen(home, f"/experiments/tf{address}")
        left = stages[stages.index(schema) - 1]
        for record in rows(home.lake, left, 1)["id"].head(1):
            seen(home, f"/records/{record}")
            assert explain(home.lake, record).verdict


# ---- tables ------------------------------------------------------------------------------------------


def test_examples_are_filtered_by_tool_words_and_what_their_calls_save(tool_home: Home) -> None:
    def listed(**query: Any) -> list[str]:
        page = client(tool_home).get("/experiments/tf/0/examples", params=query).text
        return re.findall(r'<td class="main"><a href="/records/(ex:[0-9a-f]+)"', page)

    examples = rows(tool_home.lake, t.TF_FILTERED_DATASET).sort("loss_reduction", descending=True)
    assert listed() == examples["id"].to_list()
    assert listed(sort="saved") == examples["id"].reverse().to_list()
    of_calendar = examples.filter(pl.col("completion").str.contains("Calendar", literal=True))
    assert listed(tool="Calendar") == of_calendar["id"].to_list() and len(of_calendar) == 2
    assert listed(q="orchard 350") == [example_of(tool_home.lake, ORCHARD)["id"]]
    assert len(listed(least="3.15")) == 2 and listed(tool="'; DROP TABLE x; --") == []
    page = seen(tool_home, "/experiments/tf/0/examples")
    assert 'data-label="tools" dir="auto">Calculator, Calendar<' in page and "Calendar (2)" in page
    assert 'max="1"' not in page, "more than one nat can be saved"


def test_dropped_calls_are_filtered_by_tool_and_rule_and_sorted_by_what_they_save(tool_home: Home) -> None:
    def listed(**query: Any) -> list[str]:
        page = client(tool_home).get("/experiments/tf/0/rejected", params=query).text
        return re.findall(r'<td class="main"><a href="/records/(call:[0-9a-f]+)"', page)

    decided = rows(tool_home.lake, t.TF_DECISIONS).filter(~pl.col("kept"))
    results = rows(tool_home.lake, t.TF_TOOL_RESULTS)
    assert set(listed(rule="loss_reduction")) == set(decided.filter(rule="loss_reduction")["candidate_id"])
    of_calendar = results.filter(tool="Calendar")["id"].to_list()
    assert set(listed(tool="Calendar", rule="has_result")) == set(
        decided.filter(pl.col("candidate_id").is_in(of_calendar), rule="has_result")["candidate_id"]
    )
    best = listed()[0]
    assert best == dropped(tool_home.lake, "best_at_position"), "what saves most stands first"
    page = seen(tool_home, "/experiments/tf/0/rejected")
    for heading in ("tool", "rule", "saves", "threshold", "why"):
        assert f'data-label="{heading}"' in page
    assert "[Calculator(25 * 14) → 350]" in unescape(page) and "trees, ▸350 trees" in unescape(page)
    assert listed(q="about fifty"), "what could not be read is shown as it was written"


# ---- records -----------------------------------------------------------------------------------------


def test_every_kind_of_record_has_a_page_in_the_words_of_the_method(tool_home: Home) -> None:
    kinds = {}
    for manifest in tool_home.lake.manifests():
        records = tool_home.lake.read_columns(manifest, ["id"])["id"]
        if len(records):
            page = seen(tool_home, f"/records/{records[0]}")
            kinds[manifest.table] = re.search(r"<h1>([^<]*) <small", page)[1]  # type: ignore[index]
            assert client(tool_home).get(f"/records/{records[0]}/text").status_code == 200
    assert set(kinds) >= {schema.name for schema in t.TOOL_TABLES} - {t.TF_SEARCH_INDEX.name}
    assert kinds[t.TF_TOOL_RESULTS.name] == "Call" and kinds[t.SEED_TEXTS.name] == "Seed text"
    assert not any("/" in kind for kind in kinds.values())


def test_an_example_shows_its_calls_in_the_text_their_losses_and_its_ancestry(tool_home: Home) -> None:
    examples = rows(tool_home.lake, t.TF_FILTERED_DATASET)
    both = examples.filter(pl.col("calls").list.len() == 2).row(0, named=True)
    page = seen(tool_home, f"/records/{both['id']}")
    marked = page.split('id="calls"')[1]
    assert re.findall(r"<mark>(.*?)</mark>", marked) == [
        "[Calculator(12 * 3) → 36]",
        "[Calendar() → Today is Friday, March 5, 2021.]",
    ]
    text = unescape(
        re.sub(r"</?mark>", "", marked.split('<div class="said" dir="auto">')[1].split("</div>")[0])
    )
    assert text == both["completion"]
    for label, value in (("no call", 4.02), ("call alone", 3.9), ("with result", 0.5), ("saves", 3.4)):
        assert f'data-label="{label}" class="number">{value:g}<' in marked
    graph = json.loads(re.search(r'id="graph-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert {node["kind"] for node in graph["nodes"]} == {
        *("filtered_dataset", "tool_results", "raw_generations", "call_positions", "seed_pool", "texts")
    }
    assert "call: [Calculator(12 * 3) → 36]" in [node["label"] for node in graph["nodes"]]
    assert "What else came of its seed" in page and "Why it was kept" in page


def test_a_call_stands_in_its_text_whether_it_was_kept_or_not(tool_home: Home) -> None:
    beaten = dropped(tool_home.lake, "best_at_position")
    page = seen(tool_home, f"/records/{beaten}")
    assert "<mark>[Calculator(25 * 14) → 350]</mark>" in page and "Why it was not kept" in page
    assert "[Calculator(14 * 25) → 350] at the same position helps more" in unescape(page)
    assert "✗ dropped</span> best_at_position" in page
    unread = rows(tool_home.lake, t.TF_TOOL_RESULTS).filter(pl.col("arguments").is_null())["id"][0]
    assert "<mark>" not in seen(tool_home, f"/records/{unread}")
    text = rows(tool_home.lake, t.TF_SEED_POOL).filter(text=ORCHARD)["id"][0]
    fates = seen(tool_home, f"/records/{text}").split('id="fates"')[1].split("</section>")[0]
    assert fates.count("/records/call:") == 16


def test_hostile_texts_and_calls_are_inert_on_every_page(tool_home: Home) -> None:
    hits = {hit.table: hit.id for hit in search(tool_home.lake, "window.hacked", limit=1_000)}
    hits |= {f"{hit.table} ": hit.id for hit in search(tool_home.lake, "onerror", limit=1_000)}
    assert {table.split("/")[1].strip() for table in hits} >= {"filtered_dataset", "tool_results", "texts"}
    for record in hits.values():
        seen(tool_home, f"/records/{record}")
    for address in ("/0", "/0/examples?q=window.hacked", "/0/rejected?q=onerror"):
        seen(tool_home, f"/experiments/tf{address}")
    shown = seen(tool_home, f"/records/{hits[t.TF_FILTERED_DATASET.name]}")
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in shown
    assert "<mark>[Calculator(6 * 7) → 42]</mark>" in shown and "<script>window" in HOSTILE


def test_a_revoked_call_is_not_shown(tool_home: Home, tmp_path: Path) -> None:
    shutil.copytree(tool_home.lake.root, tmp_path / "home" / "lake")
    home = replace(tool_home, root=tmp_path / "home")
    call = dropped(home.lake, "best_at_position")
    row = Lineage(home.lake).rows([call])[call]
    assert calls_of_record(home.lake, row, {call}) is None
    assert calls_of_record(home.lake, row, {row["text_id"]}) is None
    revoke(home.lake, "record", call, None, by="Ada", why="a test")
    page = seen(home, f"/records/{call}")
    assert "✗ Revoked" in page and "25 * 14" not in page
    assert f'href="/records/{call}" dir="auto">' not in seen(home, "/experiments/tf/0/rejected")


# ---- export ------------------------------------------------------------------------------------------


def test_exports_hold_the_annotated_text_after_an_empty_prompt(tool_home: Home, tmp_path: Path) -> None:
    lake, experiment = tool_home.lake, tool_home.experiment("tf")
    assert export_dataset(lake, experiment, tmp_path / "jsonl", 0, "jsonl") == 4
    lines = (tmp_path / "jsonl" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    examples = lake.read(t.TF_FILTERED_DATASET.name, partition_of("tf", 0))
    for line, row in zip(map(json.loads, lines), examples.iter_rows(named=True), strict=True):
        assert (line["prompt"], line["completion"], line["text"]) == ("", row["completion"], row["question"])
        named = {"id", "prompt", "completion", "format", "text", "calls"}
        assert set(line) == named | {"loss_reduction", "loss_reductions"}
        assert line["calls"] == row["calls"]
    assert export_dataset(lake, experiment, tmp_path / "parquet", 0, "parquet") == 4
    assert pl.read_parquet(tmp_path / "parquet" / "train.parquet")["completion"].equals(
        examples["completion"]
    )


@pytest.mark.parametrize("layout", ["alpaca", "chat"])
def test_layouts_of_instructions_are_refused_with_those_that_fit(
    tool_home: Home, tmp_path: Path, layout: str
) -> None:
    with pytest.raises(ExperimentError, match=f"layout {layout} is for instructions.*jsonl, parquet or"):
        export_dataset(tool_home.lake, tool_home.experiment("tf"), tmp_path / "out", 0, layout)
    assert not (tmp_path / "out").exists()


def test_the_card_names_the_paper_the_tools_and_what_each_rule_did(tool_home: Home, tmp_path: Path) -> None:
    export_dataset(tool_home.lake, tool_home.experiment("tf"), tmp_path / "out", 0, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n", 2)[1])
    assert header["license"] == "cc0-1.0" and header["tags"][-1] == "toolformer"
    assert "2302.04761" in card and "63 calls in all" in card
    assert "5 calls: 3 of `Calculator` (version `1`), 2 of `Calendar` (version `1`)" in card
    assert "| `texts.jsonl` | `CC0-1.0` | 8 |" in card and "`scripted 1`" in card
    for rule in ("has_result", "repeated_call", "loss_reduction", "best_at_position", "texts_per_tool"):
        assert card.count(f"| `{rule}` |") == 1
