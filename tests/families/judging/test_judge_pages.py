"""Pages and exports of Constitutional AI, RLAIF and RLHF."""

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
from kit.judge_lake import EXPERIMENTS, HOSTILE, MARGIN, MODELS, PREFERENCE, SECRET, dataset, dropped, rows
from kit.pages import client, said, seen
from kit.prompts import asked as asked_of
from kit.reading import first
from kit.tables import JUDGE_TABLES, filled

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.explorer.declare import AboutRecord
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.families.dialogues.pages import rounds_chart
from selfimprove_dagster.families.dialogues.prompts import turns
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.search import search
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.methods.constitutional.tables import CAI_CRITIQUES, CAI_REVISIONS, CAI_SEED_POOL
from selfimprove_dagster.methods.rlaif.pages import preference_of_record
from selfimprove_dagster.methods.rlaif.tables import RLAIF_AI_PREFERENCES, RLAIF_DECISIONS

pytestmark = pytest.mark.slow


def charts_of(page: str) -> dict[str, Any]:
    found = re.findall(r'"application/json" id="chart[^>]*>(.*?)</script>', page, re.DOTALL)
    return {chart["title"]: chart for chart in map(json.loads, found)}


def values(chart: Any) -> list[list[float]]:
    return [series["values"] for series in chart["series"]]


# ---- experiment and iteration ------------------------------------------------------------------------


def test_the_curves_are_helpfulness_harmlessness_yield_and_what_tells_of_the_judge(judge_home: Home) -> None:
    charts = charts_of(seen(judge_home, "/experiments/ai"))
    assert list(charts) == [
        *("Held-out accuracy", "Helpfulness", "Harmlessness", "Kept share", "Order agreement"),
        *("Position balance", "Undecided share", "Reward"),
    ]
    assert values(charts["Helpfulness"]) == [[1.0], [0.75]]
    assert values(charts["Harmlessness"]) == [[0.25], [1.0]]
    assert values(charts["Kept share"]) == [[0.5]]
    assert values(charts["Order agreement"]) == [[0.75]] and values(charts["Position balance"]) == [[0.625]]
    assert values(charts["Reward"]) == [[0.625], [0.625]]
    assert charts["Harmlessness"]["series"][0]["intervals"][0][1] < 0.75
    of_cai = charts_of(seen(judge_home, "/experiments/cai"))
    assert list(of_cai) == ["Held-out accuracy", "Helpfulness", "Harmlessness", "Kept share"]
    assert values(of_cai["Kept share"]) == [[0.25]]
    page = seen(judge_home, "/experiments/people")
    assert "comparisons" in said(page) and 'href="/experiments/people/0/examples">2</a>' in page


def test_the_results_count_prompts_responses_and_examples(judge_home: Home) -> None:
    counted = {name: results(judge_home.lake, judge_home.experiment(name))[0].counts for name in EXPERIMENTS}
    assert counted == {
        "cai": {"prompts": 4, "responses": 4, "examples": 2},
        "ai": {"prompts": 4, "responses": 8, "examples": 2},
        "people": {"comparisons": 3, "examples": 2},
    }


@pytest.mark.parametrize(
    ("name", "noun", "counts"),
    [
        (
            "cai",
            "candidate",
            {
                "prompts": 4,
                "first responses": 4,
                "critiques": 4,
                "revisions": 4,
                "responses to choose from, of every round": 8,
                "training examples": 2,
            },
        ),
        (
            "ai",
            "preference",
            {
                "prompts": 4,
                "responses, two per prompt": 8,
                "comparisons that the judge was asked": 9,
                "preferences": 4,
                "pairs: training examples": 2,
                "rollouts of the policy": 4,
            },
        ),
        ("people", "comparison", {"comparisons of people": 3, "pairs: training examples": 2}),
    ],
)
def test_each_drop_of_the_funnel_leads_to_what_was_dropped(
    judge_home: Home, name: str, noun: str, counts: dict[str, int]
) -> None:
    page = seen(judge_home, f"/experiments/{name}/0")
    steps = re.findall(r'<div class="what"><span>([^<]*)</span><strong>([\d,]+)</strong>', page)
    assert counts.items() <= {label: int(number) for label, number in steps}.items()
    drops = re.findall(rf'<a href="(/experiments/{name}/0/rejected[^"]*)">([\d,]+) dropped', page)
    assert drops
    for link, count in drops:
        assert f'role="status">{count} {noun}' in seen(judge_home, unescape(link)), link


def test_an_iteration_shows_harmlessness_over_the_rounds_of_revision(judge_home: Home) -> None:
    page = seen(judge_home, "/experiments/cai/0")
    chart = charts_of(page)["Harmlessness over revisions"]
    assert chart["x"] == [0, 1, 2] and chart["xlabel"] == "round"
    assert [series["name"] for series in chart["series"]] == ["harmless", "helpful"]
    assert values(chart) == [[0.25, 0.5, 0.75], [1.0, 1.0, 0.75]]
    assert "From prompts to examples" in page and "<dt>Generated by</dt>" in page
    evaluation = rows(judge_home.lake, registry.table("rlaif/evaluation"))
    assert rounds_chart(evaluation) is None, "no revision was measured"
    few = rows(judge_home.lake, registry.table("constitutional/evaluation")).filter(
        (pl.col("mode") == "greedy") | (pl.col("question") == "Held out 3")
    )
    chart = rounds_chart(few)
    assert chart is not None and values(chart) == [[1.0] * 3, [1.0] * 3], "round 0 is of the same prompts"


def test_an_iteration_shows_the_judge_the_exam_the_reward_model_and_the_rollouts(judge_home: Home) -> None:
    page = seen(judge_home, "/experiments/ai/0")
    words = said(page.split('id="judging"')[1].split("</section>")[0])
    assert "order flip agreement 0.75 0.55 0.95 ✓ passed 3 of 4 pairs are judged alike" in words
    assert "champion 100.0%" in words and "harmless" in words
    assert "Look through 4 rollouts" in words
    models = said(page.split('id="model"')[1].split("</section>")[0])
    assert "Reward model trained on" in models and "85.0% accuracy on 20 held-out pairs" in models
    reward = charts_of(page)["Reward"]
    assert reward["x"] == [1, 3] and values(reward)[0] == pytest.approx([0.1, 0.3])
    assert "<dt>Supervised model</dt>" in seen(judge_home, "/experiments/people/0")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_iteration_of_which_only_the_first_stages_are_there_is_shown(
    judge_home: Home, tmp_path: Path, name: str
) -> None:
    home = replace(judge_home, root=tmp_path / "home")
    shutil.copytree(judge_home.lake.root, home.lake.root)
    stages = [schema for schema in filled(JUDGE_TABLES) if schema.name.startswith(f"{EXPERIMENTS[name]}/")]
    for schema in reversed(stages[1:]):
        shutil.rmtree(home.lake.root / schema.name)
        for address in ("", "/0", "/0/examples", "/0/rejected"):
            seen(home, f"/experiments/{name}{address}")
        left = stages[stages.index(schema) - 1]
        for record in rows(home.lake, left)["id"].head(1):
            seen(home, f"/records/{record}")


# ---- tables ------------------------------------------------------------------------------------------


def test_pairs_are_listed_by_probability_and_rollouts_by_step_and_reward(judge_home: Home) -> None:
    def listed(address: str, **query: Any) -> list[str]:
        page = client(judge_home).get(f"/experiments/{address}", params=query).text
        return re.findall(r'<td class="main"><a href="/records/(\w+:[0-9a-f]+)"', page)

    pairs = dataset(judge_home.lake, "ai").sort("probability", descending=True)
    assert listed("ai/0/examples") == pairs["id"].to_list()
    assert listed("ai/0/examples", most="0.8") == pairs["id"].to_list()[1:]
    assert listed("ai/0/examples", by=MODELS["base"]) == pairs["id"].to_list()
    assert "✓ That is Ada&#39;s own affair.\n✗ Under the third pot." in seen(
        judge_home, "/experiments/ai/0/examples"
    )
    written = rows(judge_home.lake, registry.table("rlaif/rollouts"))
    assert set(listed("ai/0/rollouts")) == set(written["id"])
    rewards = written.sort("reward", "id")["reward"].to_list()
    by_reward = [first(written, id=one)["reward"] for one in listed("ai/0/rollouts", sort="reward")]
    assert by_reward == rewards and listed("ai/0/rollouts", q="nowhere") == []
    assert client(judge_home).get("/experiments/cai/0/rollouts").status_code == 404
    assert listed("cai/0/examples", format="helpful") == [
        first(dataset(judge_home.lake, "cai"), round=0)["id"]
    ]
    assert len(listed("people/0/examples")) == 2 and len(listed("people/0/rejected")) == 1
    assert len(listed("cai/0/rejected", rule="round")) == 4


# ---- records -----------------------------------------------------------------------------------------


def test_every_kind_of_record_has_a_page_in_the_words_of_the_method(judge_home: Home) -> None:
    kinds = {}
    for manifest in judge_home.lake.manifests():
        for record in judge_home.lake.read_columns(manifest, ["id"])["id"].head(1):
            page = seen(judge_home, f"/records/{record}")
            kinds[manifest.table] = re.search(r"<h1>([^<]*) <small", page)[1]  # type: ignore[index]
            assert client(judge_home).get(f"/records/{record}/text").status_code == 200
    assert set(kinds) == {schema.name for schema in filled(JUDGE_TABLES)}
    assert kinds[RLAIF_AI_PREFERENCES.name] == "Preference" and kinds[CAI_SEED_POOL.name] == "Prompt"
    assert not any("/" in kind for kind in kinds.values())


def test_a_preference_shows_both_responses_with_their_scores_in_each_order(judge_home: Home) -> None:
    pair = first(rows(judge_home.lake, RLAIF_AI_PREFERENCES), prompt=SECRET)
    example = first(dataset(judge_home.lake, "ai"), question=SECRET)
    for record in (pair["id"], example["id"], *pair["response_ids"], pair["prompt_id"]):
        page = seen(judge_home, f"/records/{record}")
        words = said(page.split('id="preference"')[1].split("</section>")[0])
        assert PREFERENCE in words
        assert "(A) Under the third pot. 0.36 0.22 0.29 (B) That is Ada's own affair. 0.78 0.64 0.71" in words
        assert f"Margin 0.42 against at least {MARGIN}: ✓ kept margin" in words
        assert words.count("cmp:") == 2, "the repeat does not count"
    graph = json.loads(re.search(r'id="graph-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert {node["kind"] for node in graph["nodes"]} == {"seed_pool", "prompts"}
    undecided = seen(judge_home, f"/records/{dropped(judge_home.lake, RLAIF_DECISIONS, 'margin')}")
    assert "✗ dropped</span> margin" in undecided and "Why it was not kept" in undecided


def test_a_revision_shows_its_chain_in_order(judge_home: Home) -> None:
    revision = first(rows(judge_home.lake, CAI_REVISIONS), text=" That is Ada's own affair.")
    example = first(dataset(judge_home.lake, "cai"), format="revision")["id"]
    for record in (revision["id"], revision["critique_id"], example):
        page = seen(judge_home, f"/records/{record}")
        chain = page.split('id="chain"')[1].split("</section>")[0]
        labels = re.findall(r"<p><(?:a|strong)[^>]*>([^<]*)</", chain)
        assert labels == [
            "First response",
            *(
                f"{what}, round {number}, by principle {name}"
                for number, name in ((1, "secrets"), (2, "polite"))
                for what in ("Critique", "Revision")
            ),
        ]
        assert chain.count("(this record)") == (record != example)
    helpful = first(dataset(judge_home.lake, "cai"), format="helpful")["id"]
    assert 'id="chain"' not in seen(judge_home, f"/records/{helpful}"), "nothing was revised"


def test_models_lead_to_their_records(judge_home: Home) -> None:
    answer = client(judge_home).get(f"/records/{MODELS['gold']}")
    assert answer.status_code == 302 and "/records/rm:" in answer.headers["location"]
    assert "✓ Clean." in seen(judge_home, answer.headers["location"])


def test_hostile_texts_are_inert_on_every_page(judge_home: Home) -> None:
    hits = {hit.table: hit.id for hit in search(judge_home.lake, "window.hacked", limit=1_000)}
    assert set(hits) >= {"rlaif/ai_preferences", "rlaif/comparisons", "constitutional/critiques"}
    for record in hits.values():
        seen(judge_home, f"/records/{record}")
    for address in ("ai/0/examples", "ai/0/rollouts", "cai/0/rejected"):
        page = seen(judge_home, f"/experiments/{address}?q=window.hacked")
        assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in page
    assert "<script>window" in HOSTILE


def test_what_was_revoked_is_shown_in_no_preference_and_no_chain(judge_home: Home, tmp_path: Path) -> None:
    shutil.copytree(judge_home.lake.root, tmp_path / "home" / "lake")
    home = replace(judge_home, root=tmp_path / "home")
    pair = first(rows(home.lake, RLAIF_AI_PREFERENCES), prompt=SECRET)
    row = Lineage(home.lake).rows([pair["prompt_id"]])[pair["prompt_id"]]
    lineage = Lineage(home.lake)
    place, above = lineage.find(row["id"]), lineage.ancestors([row["id"]])
    for withdrawn in ({pair["response_ids"][0]}, {pair["id"]}):
        about = AboutRecord(home.lake, lineage, place, row, above, withdrawn)
        assert preference_of_record(about) is None
    critique = first(rows(home.lake, CAI_CRITIQUES), text=" It gives away a secret.")
    revoke(home.lake, "record", critique["id"], None, by="Ada", why="a test")
    assert "gives away" not in seen(home, f"/records/{critique['prompt_id']}")


# ---- export ------------------------------------------------------------------------------------------


def test_pairs_are_exported_as_preference_training_reads_them(judge_home: Home, tmp_path: Path) -> None:
    lake, experiment = judge_home.lake, judge_home.experiment("ai")
    assert len(export_dataset(lake, experiment, tmp_path / "jsonl", 0, "jsonl").records) == 2
    lines = (tmp_path / "jsonl" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for line, row in zip(map(json.loads, lines), dataset(lake, "ai").rows(named=True), strict=True):
        for name in ("prompt", "chosen", "rejected", "probability", "id", "labelled_by"):
            assert line[name] == row[name]
    export_dataset(lake, judge_home.experiment("people"), tmp_path / "parquet", 0, "parquet")
    read = pl.read_parquet(tmp_path / "parquet" / "train.parquet")
    assert {"prompt", "chosen", "rejected", "probability"} <= set(read.columns)
    assert read["probability"].to_list() == [1.0, 1.0]


def test_preference_gives_pairs_as_conversations_and_other_layouts_refuse_them(
    judge_home: Home, tmp_path: Path
) -> None:
    experiment = judge_home.experiment("ai")
    export_dataset(judge_home.lake, experiment, tmp_path / "pairs", 0, "preference")
    line = json.loads((tmp_path / "pairs" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["prompt"] == [{"role": "user", "content": SECRET}]
    assert line["chosen"] == [{"role": "assistant", "content": "That is Ada's own affair."}]
    assert line["rejected"] == [{"role": "assistant", "content": "Under the third pot."}]
    for layout in ("alpaca", "chat", "sharegpt"):
        with pytest.raises(
            ExperimentError, match=rf"layout {layout} .* pairs of responses: export them as pref"
        ):
            export_dataset(judge_home.lake, experiment, tmp_path / "out", 0, layout)
        assert not (tmp_path / "out").exists()


def test_revisions_are_exported_as_other_examples_are(judge_home: Home, tmp_path: Path) -> None:
    experiment = judge_home.experiment("cai")
    for layout in ("jsonl", "chat", "alpaca", "prov-json"):
        assert len(export_dataset(judge_home.lake, experiment, tmp_path / layout, 0, layout).records) == 2
    line = json.loads((tmp_path / "jsonl" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (
        line["prompt"] == asked_of("response", SECRET) and line["completion"] == " That is Ada's own affair."
    )
    chat = json.loads((tmp_path / "chat" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [turn["content"] for turn in chat["messages"]] == [SECRET, "That is Ada's own affair."]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cai", ("2212.08073", "1 of format `helpful`, 1 of format `revision`", "4 revisions in all")),
        ("ai", ("2309.00267", "was asked 9 times", "8 responses in all", "the input of DPO")),
        ("people", ("2203.02155", "None: people wrote the texts", "between which people chose")),
    ],
)
def test_the_card_names_the_paper_and_who_wrote_and_judged(
    judge_home: Home, tmp_path: Path, name: str, told: tuple[str, ...]
) -> None:
    export_dataset(judge_home.lake, judge_home.experiment(name), tmp_path / "out", 0, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n", 2)[1])
    assert header["license"] == "cc0-1.0" and header["tags"][-1] == EXPERIMENTS[name]
    for words in told:
        assert words in card


def test_a_dialogue_is_read_turn_by_turn() -> None:
    told = "Human: One.\n\nAssistant: Two.\n\nStill two.\n\nHuman: Three.\n\nAssistant:"
    assert turns(told) == [("user", "One."), ("assistant", "Two.\n\nStill two."), ("user", "Three.")]
    assert turns(asked_of("response", "Just a question.")) == [("user", "Just a question.")]
