"""What every shipped method gets from the shared rooms, asked of an iteration of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import judging_home
from kit.homes import entered, make_home
from kit.pages import client, inert
from kit.sampling import chosen_methods
from pins.small_experiments import EXPERIMENTS as SMALL
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.explorer.tables import ROWS
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.method import Method

pytestmark = [pytest.mark.slow, pytest.mark.matrix]

SHARED = {
    "lmsi": ("finished_home", "small"),
    "constitutional": ("judge_home", "cai"),
    "rlaif": ("judge_home", "ai"),
    "rlhf": ("judge_home", "people"),
    "self_instruct": ("task_home", "si"),
    "unnatural_instructions": ("task_home", "ui"),
    "toolformer": ("tool_home", "tf"),
}
"""Methods of which a session has a lake: its fixture, and an experiment in it."""


def _improver(folder: Path) -> Home:
    """PIT up to its dataset; what it trains is tried with its stages."""
    home = judging_home.make_home(folder)
    judging_home.materialise(home, "pit", "pit/seed_pool", "pit/filtered_dataset")
    return home


def _untrained(name: str) -> Callable[[Path], Home]:
    def build(folder: Path) -> Home:
        home = make_home(folder, {**SMALL[name], "name": name})
        judging_home.run(home, name)
        return home

    return build


OWN: dict[str, tuple[Callable[[Path], Home], str]] = {
    "curate": (_untrained("curator"), "curator"),
    "pit": (_improver, "pit"),
    "refinement": (_untrained("refiner"), "refiner"),
    "self_knowledge": (_untrained("knows"), "knows"),
}
"""The others train nothing on the way to what is asked here: how an iteration is made, and its experiment."""


@dataclass(frozen=True)
class Made:
    """A method and an iteration of it; `lake` is that of the home."""

    method: Method[Any]
    home: Home
    experiment: str

    @property
    def lake(self) -> Lake:
        return self.home.lake

    @property
    def manifests(self) -> list[Manifest]:
        """The partitions of the method's own tables in iteration 0 that have rows, in the order of the pipeline."""
        own = [one for one in self.lake.manifests(f"{self.method.name}/*", self.experiment) if one.rows]
        return sorted(
            (one for one in own if one.iteration == 0), key=lambda one: registry.pipeline_order()[one.table]
        )

    @property
    def records(self) -> dict[str, str]:
        """The id of a row of each table."""
        return {one.table: self.lake.read_columns(one, ["id"])["id"][one.rows // 2] for one in self.manifests}

    def ask(self, *arguments: str) -> str:
        """What a command prints, without its line breaks."""
        with entered(self.home):
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())


@pytest.fixture(scope="module", params=chosen_methods(registry.methods()))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name: str = request.param
    if name in SHARED:
        fixture, experiment = SHARED[name]
        home: Home = request.getfixturevalue(fixture)
    else:
        build, experiment = OWN[name]
        home = build(tmp_path_factory.mktemp(name))
    return Made(registry.method(name), home, experiment)


def test_each_method_has_a_lake_here() -> None:
    assert {*SHARED, *OWN} == {*registry.methods()}


def test_its_fields_and_its_status_are_listed(made: Made) -> None:
    fields = made.ask("fields", made.method.name)
    assert "budget.iterations" in fields and "model.path" in fields
    status = made.ask("status", made.experiment)
    assert made.experiment in status and "state:" in status


def test_every_kind_of_row_is_traced_explained_and_has_descendants(made: Made) -> None:
    assert made.method.dataset is None or made.method.dataset.name in made.records
    for table, record in made.records.items():
        ancestor = trace(made.lake, record)
        assert (ancestor.id, ancestor.table) == (record, table)
        assert explain(made.lake, record).verdict, table
        for count in descend(made.lake, record).counts:
            assert count.rows > 0 and count.table in registry.tables(), table
    first, *_, last = made.records.values()
    assert last in made.ask("lineage", "trace", last)
    assert first in made.ask("lineage", "explain", first)
    assert made.ask("lineage", "descendants", first)


def test_its_lake_verifies(made: Made) -> None:
    assert "no findings" in made.ask("lineage", "verify", made.experiment)


def test_pages_call_its_rows_by_their_nouns(made: Made) -> None:
    pages = client(made.home)

    def page(address: str) -> str:
        answer = pages.get(address)
        assert answer.status_code == 200, (address, answer.text)
        inert(answer.text)
        return answer.text

    at = f"/experiments/{made.experiment}"
    assert made.experiment in page("/") and page(at) and page(f"{at}/0/rejected")
    if made.method.dataset is not None:
        pages_of_rows = ceil(max(one.rows for one in made.manifests) / ROWS)
        listed = "".join(page(f"{at}/0/examples?page={number}") for number in range(1, pages_of_rows + 1))
        assert any(record in listed for record in made.records.values())
    for table, record in made.records.items():
        noun = registry.table(table).noun
        assert f"<h1>{noun[0].upper()}{noun[1:]} <small" in page(f"/records/{record}"), table


def test_its_dataset_is_exported_with_a_card_or_is_said_to_be_none(made: Made, tmp_path: Path) -> None:
    dataset = made.method.dataset
    exporting = ("export", made.experiment, str(tmp_path / "out"), "--iteration", "0")
    if dataset is None:
        with pytest.raises(SelfImproveError, match="makes no dataset"):
            made.ask(*exporting)
        return
    made.ask(*exporting)
    header, body = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1:]
    assert made.method.name in yaml.safe_load(header)["tags"]
    for paper in made.method.papers:
        assert f'"{paper.title}", arXiv:{paper.arxiv}' in body
    (manifest,) = (one for one in made.manifests if one.table == dataset.name)
    assert f"`{manifest.activity.id}`" in body
    for decided in made.manifests:
        if decided.activity.parameters.get("decides") == manifest.activity.id:
            rules = made.lake.read_columns(decided, ["rule"])["rule"].unique()
            assert [rule for rule in rules if f"| `{rule}` |" not in body] == [], decided.table


def test_its_column_lineage_is_what_its_rows_were_made_of(made: Made, tmp_path: Path) -> None:
    known = registry.tables()
    for table in made.method.tables.values():
        sources = {source for of in table.sources.values() for source in of}
        assert {*table.sources} <= {*table.polars}, table.name
        assert [one for one in sources if one[1] not in known[one[0]].polars] == [], table.name
    for manifest in made.manifests:
        table = known[manifest.table]
        given = table.sources.get("parents", [])
        if all(column == "id" for _, column in given):  # else a column of ids says which rows they are
            parents = made.lake.read_columns(manifest, ["parents"])["parents"].explode().drop_nulls()
            allowed = {table.tag, "act", "b2"} | {known[source].tag for source, _ in given}
            if table.made_with:
                allowed.add(known[table.made_with].tag)
            assert {one["id"].split(":")[0] for one in parents} <= allowed, manifest.table
    made.ask("lineage", "openlineage", made.experiment, str(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    outputs = {output["name"]: output["facets"] for event in events for output in event["outputs"]}
    for manifest in made.manifests:
        facet = outputs[manifest.table].get("columnLineage", {"fields": {}})
        assert {*facet["fields"]} == {column for column, of in known[manifest.table].sources.items() if of}
