"""Pages of a method that declares nothing but tables, and of one that is no longer installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
import yaml
from kit.pages import client, inert
from kit.small_lake import store
from pydantic import Field

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.explorer.declare import Block, Pages
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.method import Method, Paper, Stage
from selfimprove_dagster.table import SOURCE, TEXT, Table, decisions

BEGINNINGS = Table("stories/beginnings", "begin", noun="beginning", content={"opening": TEXT, **SOURCE})
STORIES = Table(
    "stories/stories",
    "story",
    noun="story",
    content={"beginning_id": TEXT, "text": TEXT},
    measures={"joy": pl.Float64},
)
DECISIONS = decisions("stories/decisions")
DATASET = Table(
    "stories/filtered_dataset", "ex", noun="good story", content={"prompt": TEXT, "completion": TEXT}
)

HOSTILE = "<script>window.hacked = 1</script>"


class StoryExperiment(Experiment):
    """Stories from beginnings."""

    ends_with = "filtered_dataset"
    method: Literal["stories"] = Field(description="the method")


def _unused(context: Any) -> Any:
    raise AssertionError("no stage runs in these tests")


METHOD = Method(
    name="stories",
    experiment=StoryExperiment,
    title="Stories",
    papers=[Paper("On Stories", "0000.00001")],
    presets={name: Preset({}, ()) for name in ("paper", "practical")},
    stages=[
        Stage([BEGINNINGS], _unused),
        Stage([STORIES], _unused, after=["beginnings"]),
        Stage([DECISIONS, DATASET], _unused, after=["stories"]),
    ],
)

Install = Callable[[Method[Any] | None], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that makes the registry find this method next to the shipped ones, or find it no longer."""
    shipped = {**registry.methods()}

    def found(method: Method[Any] | None) -> None:
        methods = {**shipped, **({method.name: method} if method else {})}
        monkeypatch.setattr(registry, "methods", lambda: methods)
        registry.tables.cache_clear()
        registry.pipeline_order.cache_clear()

    METHOD.check()
    found(METHOD)
    yield found
    monkeypatch.undo()
    registry.forget()


@pytest.fixture
def home(tmp_path: Path, install: Install) -> Home:
    """An iteration with one beginning, three stories, and two of them in the dataset."""
    home = Home(root=tmp_path / "home", experiments=tmp_path / "experiments")
    home.experiments.mkdir()
    settings = {"name": "demo", "method": "stories", "model": {"path": "embedded"}}
    (home.experiments / "demo.yaml").write_text(yaml.safe_dump(settings))
    source = {"source_file": "beginnings.jsonl", "source_line": 1, "licence": "MIT"}
    _, (opening,) = store(home.lake, BEGINNINGS, [Draft({"opening": "Once upon a time", **source})])
    texts = ["A fox laughed.", HOSTILE, "A dull day."]
    _, stories = store(
        home.lake,
        STORIES,
        [
            Draft(
                {"beginning_id": opening, "text": text}, [Parent(opening, "beginning")], measures={"joy": 0.5}
            )
            for text in texts
        ],
    )
    rule: dict[str, Any] = {"stage": "stories", "rule": "joy", "nearest_id": None}
    store(
        home.lake,
        DECISIONS,
        [
            Draft(
                {**rule, "candidate_id": story, "kept": text != texts[2], "reason": "it is joyful or not"},
                [Parent(story, "decided")],
                measures={"score": 0.5, "threshold": 0.1},
            )
            for story, text in zip(stories, texts, strict=True)
        ],
    )
    examples = [
        Draft({"prompt": "Once upon a time", "completion": text}, [Parent(story, "story")], measures={})
        for story, text in zip(stories[:2], texts, strict=False)
    ]
    store(home.lake, DATASET, examples)
    return home


def page(home: Home, address: str, status: int = 200) -> str:
    answer = client(home).get(address)
    assert answer.status_code == status, (address, answer.text)
    inert(answer.text)
    return unescape(answer.text)


def ids(home: Home, table: Table) -> list[str]:
    (manifest,) = home.lake.manifests(table.name)
    return home.lake.read_ungated(manifest)["id"].to_list()


def steps(shown: str) -> dict[str, str]:
    return dict(re.findall(r'<div class="what"><span>([^<]*)</span><strong>([\d,]+)</strong>', shown))


def test_the_page_of_an_experiment_counts_the_rows_of_each_table(home: Home) -> None:
    shown = page(home, "/experiments/demo")
    headings = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', shown.split("</table>")[0])
    assert headings == ["iteration", "beginnings", "stories", "good stories", "state"]
    assert 'href="/experiments/demo/0/examples">2</a>' in shown
    charts = re.findall(r'"application/json" id="chart[^>]*>(.*?)</script>', shown, re.DOTALL)
    values = {chart["title"]: chart["series"][0]["values"] for chart in map(json.loads, charts)}
    assert values == {"Beginnings": [1], "Stories": [3], "Good stories": [2]}


def test_an_iteration_is_a_funnel_of_its_tables_in_their_own_nouns(home: Home) -> None:
    shown = page(home, "/experiments/demo/0")
    assert "From beginnings to good stories" in shown
    assert steps(shown) == {
        "beginnings": "1",
        "stories": "3",
        "candidates": "3",
        "pass the rule joy": "2",
        "good stories": "2",
    }
    assert "no model yet" not in shown, "the method trains none"
    assert "1 dropped" in shown and "stories/decisions" in shown


def test_examples_and_dropped_candidates_are_listed_with_their_texts(home: Home) -> None:
    listed = page(home, "/experiments/demo/0/examples")
    assert "Good stories of iteration 0" in listed and "2 good stories" in listed
    assert re.findall(r"A fox laughed|A dull day", listed) == ["A fox laughed"]
    assert "1 good story<" in page(home, "/experiments/demo/0/examples?q=FOX").replace(", 1 to 1", "")
    dropped = page(home, "/experiments/demo/0/rejected?of=decisions&rule=joy")
    assert "A dull day." in dropped and "it is joyful or not" in dropped and "1 candidate" in dropped
    assert "has no rollouts" in page(home, "/experiments/demo/0/rollouts", 404)


def test_records_are_called_by_the_noun_of_their_table(home: Home) -> None:
    for table in (BEGINNINGS, STORIES, DATASET, DECISIONS):
        record = ids(home, table)[0]
        assert f"<h1>{table.noun.capitalize()} <small" in page(home, f"/records/{record}")
    shown = page(home, f"/records/{ids(home, DATASET)[0]}")
    graph = json.loads(re.search(r'id="graph-data">(.*?)</script>', shown, re.DOTALL)[1])  # type: ignore[index]
    assert {node["label"] for node in graph["nodes"]} == {
        "beginning: Once upon a time",
        "story: A fox laughed.",
        "good story: A fox laughed.",
    }

    story = ids(home, STORIES)[0]
    revoke(home.lake, "record", story, None, by="Ada", why="a test")
    assert "<h1>Story <small" in (gone := page(home, f"/records/{story}")) and "fox" not in gone


def test_a_block_of_the_method_is_shown_with_its_own_template(
    home: Home, install: Install, tmp_path: Path
) -> None:
    template = tmp_path / "joy.html"
    template.write_text(
        '<section><h2 id="joy">Joy</h2><p>{{ shown.joy | figure }} in {{ here }}</p></section>'
    )
    block = Block(template, lambda lake, stages: {"joy": lake.read_ungated(stages["stories"])["joy"].mean()})
    nothing = Block(template, lambda lake, stages: None)
    install(replace(METHOD, pages=Pages(blocks=[block, nothing])))
    shown = page(home, "/experiments/demo/0")
    assert shown.count('<h2 id="joy">Joy</h2><p>0.5 in /experiments/demo/0</p>') == 1


def test_the_dataset_is_exported_with_a_card(home: Home, tmp_path: Path) -> None:
    experiment = home.experiment("demo")
    assert len(export_dataset(home.lake, experiment, tmp_path / "out", 0, "huggingface").records) == 2
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == "mit"
    assert '"On Stories", arXiv:0000.00001' in card and "| `beginnings.jsonl` | `MIT` | 1 |" in card
    export_dataset(home.lake, experiment, tmp_path / "chat", 0, "chat")
    line = json.loads((tmp_path / "chat" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["messages"][0] == {"role": "user", "content": "Once upon a time"}


def test_a_lake_is_readable_after_its_method_is_gone(home: Home, install: Install) -> None:
    install(None)
    assert "cannot be read" in page(home, "/")
    shown = page(home, "/experiments/demo/0")
    assert steps(shown)["stories"] == "3" and steps(shown)["pass the rule joy"] == "2"
    assert "A fox laughed." in page(home, "/experiments/demo/0/examples")
    assert "A dull day." in page(home, "/experiments/demo/0/rejected")
    for table in (BEGINNINGS, STORIES, DECISIONS, DATASET):
        page(home, f"/records/{ids(home, table)[0]}")
    shown = page(home, f"/records/{ids(home, STORIES)[0]}")
    assert "<h1>Stories <small" in shown and "A fox laughed." in shown
