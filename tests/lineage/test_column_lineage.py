"""Which column comes from which: all of them are accounted for, and Dagster shows it."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.methods.lmsi.tables import FILTERED_DATASET, VOTED_ANSWERS
from selfimprove_dagster.table import Table

pytestmark = pytest.mark.slow

NAMES_OF_A_ROW = {"id", "content_hash", "activity_id", "sample_index"}
"""Columns of every table that name a row and come from no other column."""


@pytest.mark.parametrize("table", registry.tables())
def test_every_column_is_accounted_for_and_names_columns_that_exist(table: str) -> None:
    assert set(registry.table(table).sources) == set(registry.tables()[table].polars) - NAMES_OF_A_ROW
    for sources in registry.table(table).sources.values():
        for source, column in sources:
            assert column in registry.tables()[source].polars
            assert source != table
        assert len(sources) == len(set(sources))


def test_the_columns_of_an_example_lead_to_what_was_generated_and_voted() -> None:
    columns = registry.table(FILTERED_DATASET.name).sources
    assert columns["completion"] == [("lmsi/raw_generations", "text"), ("lmsi/voted_answers", "voted_answer")]
    assert registry.table(VOTED_ANSWERS.name).sources["voted_answer"] == [("lmsi/raw_generations", "text")]


@pytest.mark.parametrize("schema", registry.tables().values(), ids=lambda schema: schema.name)
def test_columns_of_the_same_name_have_the_same_type_as_their_source(schema: Table) -> None:
    for column, sources in registry.table(schema.name).sources.items():
        if len(sources) == 1 and sources[0][1] == column:
            assert schema.polars[column] == registry.tables()[sources[0][0]].polars[column]


def test_what_an_activity_read_is_what_its_columns_are_said_to_come_from(finished_home: Home) -> None:
    """The declaration against what real iterations did."""
    made = {manifest.activity.id: manifest for manifest in finished_home.lake.manifests()}
    seen = set()
    for manifest in made.values():
        read = {made[source].table for source in manifest.activity.inputs} - {manifest.table}
        said = {
            source for sources in registry.table(manifest.table).sources.values() for source, _ in sources
        }
        assert read <= said, manifest.table
        seen |= {(manifest.table, source) for source in read}
    assert ("lmsi/filtered_dataset", "lmsi/perplexity_scores") in seen
    assert ("lmsi/promotion", "lmsi/evaluation") in seen


def test_sources_lie_upstream_of_their_asset() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        table = "/".join(key.path)
        upstream = {"/".join(found.path) for found in graph.get_ancestor_asset_keys(key)}
        for sources in registry.table(table).sources.values():
            for source, _ in sources:
                assert source in upstream or source.startswith("seeds/"), f"{table} from {source}"


@pytest.fixture
def instance(finished_home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(finished_home.dagster))
    with dg.DagsterInstance.get() as opened:
        yield opened


def metadata_of(instance: dg.DagsterInstance, stage: str) -> dict[str, dg.MetadataValue]:
    event = instance.get_latest_materialization_event(dg.AssetKey(["lmsi", stage]))
    assert event is not None and event.asset_materialization is not None
    return dict(event.asset_materialization.metadata)


def test_dagster_keeps_the_column_lineage_of_each_materialisation(instance: dg.DagsterInstance) -> None:
    shown = metadata_of(instance, "filtered_dataset")["dagster/column_lineage"]
    assert isinstance(shown, dg.TableColumnLineageMetadataValue)
    assert list(shown.column_lineage.deps_by_column["completion"]) == [
        dg.TableColumnDep(dg.AssetKey(["lmsi", "raw_generations"]), "text"),
        dg.TableColumnDep(dg.AssetKey(["lmsi", "voted_answers"]), "voted_answer"),
    ]
    for stage in ("seed_pool", "voted_answers", "fine_tuned_checkpoint", "promotion"):
        assert "dagster/column_lineage" in metadata_of(instance, stage)


def test_dagster_knows_columns_and_their_lineage_before_any_run() -> None:
    for asset in defs.resolve_asset_graph().asset_nodes:
        sources = registry.table("/".join(asset.key.path)).sources
        assert "dagster/column_schema" in asset.metadata
        assert ("dagster/column_lineage" in asset.metadata) == any(sources.values())


def test_stages_link_to_the_lineage_pages(instance: dg.DagsterInstance, finished_home: Home) -> None:
    for stage in ("filtered_dataset", "fine_tuned_checkpoint", "promotion"):
        link = metadata_of(instance, stage)["lineage"]
        assert link == dg.MetadataValue.url("http://127.0.0.1:3001/experiments/small/1")
    manifest = finished_home.lake.manifests(FILTERED_DATASET.name)[-1]
    first = finished_home.lake.read_ungated(manifest)["id"][0]
    listed = metadata_of(instance, "filtered_dataset")["preview_records"].value
    assert (
        f"[`{first}`](http://127.0.0.1:3001/records/{first}): `selfimprove lineage trace {first}`" in listed
    )
