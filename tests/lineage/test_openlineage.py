"""OpenLineage run events: one account of what was made from what, that other catalogs read."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import known_ancestry
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import ExperimentError, PartitionMissing
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.openlineage import OpenLineageMissing, run_events, write_events

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def events(finished_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Events:
    """What two real iterations told, as read back from the file."""
    pytest.importorskip("openlineage.client", reason="pip install 'selfimprove_dagster[openlineage]'")
    file = tmp_path_factory.mktemp("openlineage") / "events.jsonl"
    written = write_events(finished_home.lake, "small", file)
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(told) == written
    return told


def completed(events: Events, table: str) -> Events:
    return [event for event in events if (event["eventType"], event["job"]["name"]) == ("COMPLETE", table)]


def test_each_materialisation_starts_and_completes_once(events: Events, finished_home: Home) -> None:
    by_run: dict[str, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert len(by_run) == len(finished_home.lake.manifests())
    assert all(states == ["START", "COMPLETE"] for states in by_run.values())
    assert {event["job"]["namespace"] for event in events} == {"selfimprove.small"}


def test_inputs_and_outputs_are_tables_at_the_version_that_was_read(events: Events) -> None:
    first, second = completed(events, "lmsi/voted_answers")
    paths = [completed(events, "lmsi/raw_generations")[n]["outputs"][0] for n in range(2)]
    for event, path in zip((first, second), paths, strict=True):
        read = {source["name"]: source["facets"]["version"]["datasetVersion"] for source in event["inputs"]}
        assert set(read) == {"lmsi/raw_generations", "lmsi/seed_pool"}
        assert read["lmsi/raw_generations"] == path["facets"]["version"]["datasetVersion"]


def test_a_table_tells_its_columns_where_they_come_from_and_how_many_rows(
    events: Events, finished_home: Home
) -> None:
    output = completed(events, "lmsi/filtered_dataset")[0]["outputs"][0]
    assert "completion" in [field["name"] for field in output["facets"]["schema"]["fields"]]
    sources = output["facets"]["columnLineage"]["fields"]["completion"]["inputFields"]
    assert [(source["name"], source["field"]) for source in sources] == [
        ("lmsi/raw_generations", "text"),
        ("lmsi/voted_answers", "voted_answer"),
    ]
    manifest = finished_home.lake.manifests("lmsi/filtered_dataset")[0]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == manifest.rows


def test_checks_are_told_where_the_table_is_read(events: Events) -> None:
    (source,) = completed(events, "lmsi/fine_tuned_checkpoint")[0]["inputs"]
    checks = source["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {check["assertion"]: check["success"] for check in checks}["no_overlap_with_evaluation"] is True


def test_settings_and_model_of_a_run_are_told(events: Events) -> None:
    facet = completed(events, "lmsi/raw_generations")[0]["run"]["facets"]["executionParameters"]
    said = {parameter["key"]: parameter["value"] for parameter in facet["parameters"]}
    assert said["model_id"].startswith("b2:")
    assert json.loads(said["parameters.sampling"])["paths"] == 8


def test_the_same_lake_tells_the_same(events: Events, finished_home: Home, tmp_path: Path) -> None:
    write_events(finished_home.lake, "small", tmp_path / "again.jsonl")
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == events


def test_the_command_writes_a_new_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openlineage.client", reason="pip install 'selfimprove_dagster[openlineage]'")
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    lake = Lake(tmp_path / "lake")
    with pytest.raises(PartitionMissing, match="experiment demo has no committed tables"):
        write_events(lake, "demo", tmp_path / "events.jsonl")
    known_ancestry(lake)
    told = CliRunner().invoke(app, ["lineage", "openlineage", "demo", str(tmp_path / "events.jsonl")])
    assert told.exit_code == 0 and "14 events" in told.stdout
    with pytest.raises(ExperimentError, match="exists already"):
        write_events(lake, "demo", tmp_path / "events.jsonl")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("openlineage"):
            raise ImportError(name)
        return true_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OpenLineageMissing, match=r"pip install 'selfimprove_dagster\[openlineage\]'"):
        run_events(Lake(tmp_path), "demo")
