"""Datasets for other tools: what is written, what is refused, and that every row keeps its origin."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from kit.small_lake import known_ancestry, make_experiment

from selfimprove_dagster.errors import ExperimentError, GateClosed, PartitionMissing
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.export import export_dataset, last_dataset
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.revocations import Revocation
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.methods.lmsi.tables import FILTERED_DATASET


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make_experiment(tmp_path)


def test_json_lines_and_parquet_hold_the_same_rows(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known = known_ancestry(lake, text="Größe:\n2. The answer is 2.")
    assert len(export_dataset(lake, experiment, tmp_path / "lines", None, "jsonl").records) == 1
    assert len(export_dataset(lake, experiment, tmp_path / "table", 0, "parquet").records) == 1
    (line,) = (tmp_path / "lines" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (row,) = pl.read_parquet(tmp_path / "table" / "train.parquet").to_dicts()
    assert json.loads(line) == row
    assert row["completion"] == " Größe:\n2. The answer is 2."
    assert trace(lake, row["id"]).id == known.example


def test_a_hugging_face_folder_has_a_card_that_tells_where_its_rows_come_from(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known_ancestry(lake)
    export_dataset(lake, experiment, tmp_path / "out" / "demo", None, "huggingface")
    card = (tmp_path / "out" / "demo" / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "mit",
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "self-improvement", "lmsi"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": "data/train.parquet"}],
    }
    assert "| `s.jsonl` | `MIT` | 1 |" in body
    assert "`the base model` (`b2:fake`),\nengine `fake 1`, temperature 0.7,\n4 paths per question, 4" in body
    assert "| `duplicate` | none | 4 | 1 | 3 |" in body
    assert "## Quality checks\n\nNo checks were recorded." in body
    assert "## Revocations in force\n\nNone." in body
    assert len(pl.read_parquet(tmp_path / "out" / "demo" / "data" / "train.parquet")) == 1


def test_the_card_of_real_iterations_tells_filters_checks_versions_and_how_to_verify(
    finished_home: Home, tmp_path: Path
) -> None:
    lake, experiment = finished_home.lake, finished_home.experiment("small")
    export_dataset(lake, experiment, tmp_path / "out", 0, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    manifest = last_dataset(lake, experiment, 0)
    for check in lake.checks(manifest):
        assert f"| `{check.name}` | `{'passed' if check.passed else 'failed'}` |" in card
    assert "| `no_overlap_with_evaluation` | `passed` | `yes` |" in card
    assert "| `vote_share` | 0.25 |" in card
    for table in ("raw_generations", "voted_answers", "filtered_dataset"):
        made = lake.manifest(f"lmsi/{table}", manifest.partition).activity
        assert f"| `lmsi/{table}` | `{made.code_version}` | `{made.id}` |" in card
    assert f"| activity | `{manifest.activity.id}` |" in card
    digest = hashlib.blake2b((tmp_path / "out/data/train.parquet").read_bytes(), digest_size=16).hexdigest()
    assert f"| `data/train.parquet` | `b2:{digest}` |" in card
    assert "`selfimprove lineage verify small`" in card


def test_revoked_examples_stay_out_and_the_card_says_so(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known = known_ancestry(lake)
    revocation = Revocation(
        "seed", known.seed, None, (known.seed,), (), "Ada", "no <b>consent</b>", "2026-01-02"
    )
    lake.ledger.record(revocation)
    lake.withdraw(last_dataset(lake, experiment), {known.example: revocation.id})
    assert len(export_dataset(lake, experiment, tmp_path / "out", None, "huggingface").records) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| `{revocation.id}` | `seed` | `2026-01-02` | `no <b>consent</b>` | 1 |" in card


def test_prov_json_stands_beside_the_rows_it_is_about(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known = known_ancestry(lake)
    export_dataset(lake, experiment, tmp_path / "out", None, "prov-json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.jsonl", "dataset.prov.json"}
    document = json.loads((tmp_path / "out" / "dataset.prov.json").read_text())
    assert {known.example, known.vote, known.seed, *known.paths} <= set(document["entity"])
    (row,) = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert json.loads(row)["id"] == known.example


@pytest.mark.parametrize("licence", ["unknown", "", "my own: see below", "MIT\ntags: [forged]"])
def test_a_licence_that_is_no_identifier_is_called_other(
    lake: Lake, experiment: Experiment, tmp_path: Path, licence: str
) -> None:
    known_ancestry(lake, licence=licence, source_file="a\n# forged heading")
    export_dataset(lake, experiment, tmp_path / "out", None, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n", 2)[1])
    assert (header["license"], header["tags"][0]) == ("other", "synthetic")
    assert "\n# forged" not in card


def test_a_dataset_whose_check_failed_is_not_exported(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known_ancestry(lake)
    manifest = last_dataset(lake, experiment)
    lake.record_checks(manifest, [CheckOutcome("leak", False, True, "a held-out question is in it")])
    with pytest.raises(GateClosed, match="leak"):
        export_dataset(lake, experiment, tmp_path / "out", None, "jsonl")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_formats_are_named(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known_ancestry(lake)
    with pytest.raises(ExperimentError, match="exists already; choose a new folder"):
        export_dataset(lake, experiment, tmp_path, None, "jsonl")
    with pytest.raises(
        ExperimentError, match="no export format 'csv'; use one of huggingface, parquet, jsonl, prov-json"
    ):
        export_dataset(lake, experiment, tmp_path / "out", None, "csv")


def test_what_a_killed_export_left_does_not_get_into_the_next(
    lake: Lake, experiment: Experiment, tmp_path: Path
) -> None:
    known_ancestry(lake)
    (tmp_path / "out.partial" / "data").mkdir(parents=True)
    (tmp_path / "out.partial" / "data" / "train.parquet").write_bytes(b"half")
    export_dataset(lake, experiment, tmp_path / "out", None, "jsonl")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]
    assert not (tmp_path / "out.partial").exists()


def test_a_dataset_that_is_not_there_is_named(lake: Lake, experiment: Experiment) -> None:
    with pytest.raises(PartitionMissing, match="demo has no dataset yet; run it first"):
        last_dataset(lake, experiment)
    known_ancestry(lake)
    with pytest.raises(PartitionMissing, match="nothing committed for experiment demo, iteration 007"):
        last_dataset(lake, experiment, 7)
    assert last_dataset(lake, experiment).partition == partition_of("demo", 0)
    assert last_dataset(lake, experiment).table == FILTERED_DATASET.name
