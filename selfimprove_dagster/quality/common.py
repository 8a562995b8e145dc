"""Define the checks of every table: files, schema, ids, parents."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import recompute_ids
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject
from selfimprove_dagster.table import Table

SAMPLED_IDS = 200


_ACTIVITY, _MODEL = "act", "b2"


_REWRITE = "Materialise the stage again"


def _files_intact(subject: Subject) -> Evidence:
    rows = []
    for file in subject.manifest.files:
        path = subject.manifest.directory / file.name
        rows.append((file.name, file.checksum, file_checksum(path) if path.is_file() else "missing"))
    return Evidence(
        pl.DataFrame(rows, schema=["id", "committed", "found"], orient="row"),
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="committed", column_B="found"),),
        found="are missing or differ from what was committed",
        allowed="every file must have the checksum in the manifest",
        unit="files",
    )


def _schema(subject: Subject) -> Evidence:
    expected = {name: str(dtype) for name, dtype in subject.schema.polars.items()}
    rows = []
    for path in subject.manifest.paths:
        found = {name: str(dtype) for name, dtype in pl.read_parquet_schema(path).items()}
        rows += [
            (name, found.get(name, "missing"), expected.get(name, "no such column"))
            for name in {**subject.schema.stored(found), **found}
        ]
    return Evidence(
        pl.DataFrame(rows, schema=["id", "type", "type_of_the_table"], orient="row").unique(
            maintain_order=True
        ),
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="type", column_B="type_of_the_table"),),
        found="are missing, unknown or of the wrong type",
        allowed="columns and types must match the table's schema",
        unit="columns",
    )


def _unique_ids(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id"),
        (Expect("ExpectColumnValuesToBeUnique", column="id"),),
        found="have the same id as another row",
        allowed="every id must occur once",
    )


def _ids_recompute(subject: Subject) -> Evidence:
    schema = subject.schema
    frame = subject.columns("id", "content_hash", "parents", "activity_id", "sample_index", *schema.content)
    sample = frame.sample(min(SAMPLED_IDS, frame.height), seed=0)
    computed = recompute_ids(schema, sample)
    return Evidence(
        sample.select("id", "content_hash").with_columns(
            computed["id"].alias("computed_id"), computed["content_hash"].alias("computed_hash")
        ),
        (
            Expect("ExpectColumnPairValuesToBeEqual", column_A="id", column_B="computed_id"),
            Expect("ExpectColumnPairValuesToBeEqual", column_A="content_hash", column_B="computed_hash"),
        ),
        found="have an id or a content hash that does not match their content",
        allowed="both must be hashes of the row's content",
        unit="sampled rows",
    )


def _parents_exist(subject: Subject) -> Evidence:
    edges = (
        subject.columns("id", "parents")
        .explode("parents", empty_as_null=False)
        .select("id", parent=pl.col("parents").struct.field("id").fill_null(""))
        .with_columns(tag=pl.col("parent").str.split(":").list.first())
    )
    wanted = edges.filter(pl.col("tag") != _MODEL)
    known = _known_ids(subject, set(wanted["tag"]))
    missing = wanted.join(known, left_on="parent", right_on="id", how="anti")
    absent = missing.group_by("id").agg(missing_parents=pl.len(), first_missing=pl.col("parent").first())
    rows = subject.columns("id").join(absent, on="id", how="left", maintain_order="left")
    return Evidence(
        rows.with_columns(pl.col("missing_parents").fill_null(0)),
        (Expect("ExpectColumnValuesToBeBetween", column="missing_parents", max_value=0),),
        found="name a parent that does not exist in the lake",
        allowed="every parent must be in this iteration, a seed, a checkpoint or a committed activity",
        observed={"edges": edges.height, "missing_parents": missing.height},
    )


def _known_ids(subject: Subject, tags: set[str]) -> pl.DataFrame:
    """Return the ids of all records that a row may descend from, for the tables with these tags."""
    experiment = subject.experiment.name
    ids = [pl.DataFrame(schema={"id": pl.String})]
    giver = subject.experiment.taught_by
    for table in registry.tables().values():
        if table.tag not in tags:
            continue
        for manifest in subject.lake.manifests(table.name, experiment):
            if _may_be_ancestor(subject, table, manifest):
                ids.append(subject.lake.read_columns(manifest, ["id"]))
        for manifest in subject.lake.manifests(table.name, giver) if giver else ():
            if manifest.activity.id in subject.manifest.activity.inputs:
                ids.append(subject.lake.read_columns(manifest, ["id"]))
    if _ACTIVITY in tags:
        activities = [manifest.activity.id for manifest in subject.lake.manifests("*/*", experiment)]
        ids.append(pl.DataFrame({"id": activities}, schema={"id": pl.String}))
    return pl.concat(ids)


def _may_be_ancestor(subject: Subject, table: Table, manifest: Manifest) -> bool:
    if table.method == "seeds":
        return True
    same_iteration = manifest.partition == subject.manifest.partition
    return table.method == subject.method and (same_iteration or table.read_later)


COMMON_CHECKS = (
    QualityCheck(
        "files_intact",
        True,
        "The files are identical to the committed ones, byte for byte.",
        f"{_REWRITE}; if it happens again, check the disk",
        _files_intact,
        foundation=True,
    ),
    QualityCheck(
        "schema",
        True,
        "Columns and their types match the table's schema.",
        f"{_REWRITE} with this version of the code",
        _schema,
        foundation=True,
    ),
    QualityCheck("unique_ids", True, "Every id occurs once.", f"{_REWRITE}", _unique_ids),
    QualityCheck(
        "ids_recompute",
        False,
        f"Ids and content hashes of {SAMPLED_IDS} sampled rows match the rows' content.",
        f"The rows or the hash function were changed since the rows were made: {_REWRITE.lower()}",
        _ids_recompute,
    ),
    QualityCheck(
        "parents_exist",
        True,
        "Every parent is a record or an activity in the lake.",
        f"An earlier stage was replaced since: {_REWRITE.lower()}",
        _parents_exist,
    ),
)
"""The checks in the order in which they run; all others depend on the first two."""
