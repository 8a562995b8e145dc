"""Another threshold, or a better parser, is applied to all that was generated, and nothing is drawn again."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from selfimprove_dagster.answers.answers import Reading
from selfimprove_dagster.answers.languages import Conventions
from selfimprove_dagster.assets.partitions import add_iterations
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.methods.lmsi import stages
from selfimprove_dagster.methods.lmsi.tables import FILTERED_DATASET, RAW_GENERATIONS, VOTED_ANSWERS
from selfimprove_dagster.table import Table

pytestmark = pytest.mark.slow

PARTITION = {"experiment": "small", "iteration": "000"}


@pytest.fixture
def home(finished_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the finished home, without its checkpoints."""
    home = Home(root=tmp_path / "home", experiments=tmp_path / "experiments")
    shutil.copytree(finished_home.root / "lake", home.root / "lake")
    shutil.copytree(finished_home.experiments, home.experiments)
    monkeypatch.setenv("SELFIMPROVE_HOME", str(home.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(home.experiments))
    return home


def materialise(*stages: str) -> None:
    """The named stages of iteration 0 and no others, as from the Dagster UI."""
    with dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, "lmsi", ["small-000"])
        outcome = defs.resolve_job_def("lmsi_iteration").execute_in_process(
            instance=instance,
            partition_key="small-000",
            asset_selection=[dg.AssetKey(["lmsi", stage]) for stage in stages],
        )
    assert outcome.success


def rows(home: Home, schema: Table) -> tuple[Manifest, pl.DataFrame]:
    manifest = home.lake.manifest(schema.name, PARTITION)
    return manifest, home.lake.read_ungated(manifest)


def written(manifest: Manifest) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in manifest.directory.glob("[!.]*[!s].*")}


def test_another_threshold_is_applied_to_the_same_paths(home: Home) -> None:
    generated, paths = rows(home, RAW_GENERATIONS)
    before, (_, examples) = written(generated), rows(home, FILTERED_DATASET)
    file = home.experiments / "small.yaml"
    file.write_text(
        yaml.safe_dump({**yaml.safe_load(file.read_text()), "filter": {"minimum_vote_share": 0.9}})
    )
    materialise("filtered_dataset")
    again, same_paths = rows(home, RAW_GENERATIONS)
    assert written(again) == before and again == generated
    assert same_paths["id"].equals(paths["id"])
    dataset, stricter = rows(home, FILTERED_DATASET)
    assert dataset.activity.parameters["filter"]["minimum_vote_share"] == 0.9
    assert 0 < len(stricter) < len(examples) and stricter["vote_share"].min() >= 0.9
    drawn = {edge["id"] for parents in stricter["parents"] for edge in parents if edge["role"] == "path"}
    assert drawn <= set(paths["id"])


def test_a_better_parser_is_applied_to_the_same_texts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, paths = rows(home, RAW_GENERATIONS)
    before, (_, votes) = written(generated), rows(home, VOTED_ANSWERS)

    def last_word(texts: pl.Series) -> pl.Series:
        return texts.str.strip_chars(" .\n").str.split(" ").list.last()

    def read(texts: pl.Series, _: Conventions) -> list[Reading | None]:
        return [Reading(answer, "last word") for answer in last_word(texts)]

    monkeypatch.setattr(stages, "read_answers", read)
    materialise("voted_answers", "filtered_dataset")
    again, same_paths = rows(home, RAW_GENERATIONS)
    assert written(again) == before and again == generated
    _, reparsed = rows(home, VOTED_ANSWERS)
    assert reparsed["question_id"].equals(votes["question_id"])
    parsed = {ballot["id"]: ballot["answer"] for row in reparsed["paths"] for ballot in row}
    texts = dict(paths.select("id", "text").iter_rows())
    assert parsed == dict(zip(texts, last_word(pl.Series(list(texts.values()))), strict=True))
    assert set(same_paths["id"]) == parsed.keys()
