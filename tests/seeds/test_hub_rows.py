"""Data sets by name, from a server on this machine that answers as the Hugging Face Hub does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.data_hub import COMMIT, hub_of
from kit.small_lake import make_experiment

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.hub_rows import HubDataset

NAME = f"hf:people/sums/main/train@{COMMIT}"
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files:
  - {split: train, path: other/train-*}
---
"""
READ = """
import json, sys
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.hub_rows import streamed
from selfimprove_dagster.seeds.files import read_questions
from selfimprove_dagster.seeds.settings import QuestionFile
for name in sys.argv[1:]:
    try:
        print(json.dumps([(one.question, one.source_file, one.source_line)
            for one in read_questions(QuestionFile(file=name))[0]]))
    except SeedFileError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], list[str]]]:
    root = tmp_path_factory.mktemp("hub")
    for name, count in (("main/train", 5), ("main/test", 2), ("other/train", 1)):
        path = root / "people" / "sums" / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"question": [f"{name} {n}?" for n in range(count)]}).write_parquet(path)
    (root / "people" / "sums" / "README.md").write_text(CARD)
    with hub_of(root) as (url, asked):
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
        home = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path_factory.mktemp("cache")), **offline}
        yield {**os.environ, **home, "HF_HUB_DISABLE_TELEMETRY": "1"}, asked


def read(environment: dict[str, str], *names: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ, *names], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_data_set_is_read_at_its_commit_and_again_without_a_network(
    served: tuple[dict[str, str], list[str]],
) -> None:
    environment, _ = served
    rows = [[f"main/train {number}?", NAME, number + 1] for number in range(5)]
    found, missing = read(environment, NAME, f"hf:people/sums/third/train@{COMMIT}")
    assert found == rows
    assert "cannot be read: " in missing and "'third' not found. Available: ['main', 'other']" in missing
    environment = {**environment, "HF_HUB_OFFLINE": "1"}
    other = NAME.replace(COMMIT, "f" * 40)
    found, wrong = read(environment, NAME, other)
    assert found == rows
    assert wrong == f"{other} cannot be read: this commit is not in the cache, and the Hub cannot be reached"


@pytest.mark.slow
def test_a_name_without_a_commit_is_answered_with_complete_names(
    served: tuple[dict[str, str], list[str]],
) -> None:
    environment, asked = served
    names = [f"hf:people/sums/{name}@{COMMIT}" for name in ("main/train", "main/test", "other/train")]
    alone, config = read(environment, "hf:people/sums", "hf:people/sums/main/train@main")
    assert alone == (
        "hf:people/sums needs a split and the whole hash of a commit, so that its rows never change; write "
        + " or ".join(names)
    )
    assert config.endswith(
        f"needs the whole hash of a commit, so that its rows never change; write {names[0]} or {names[1]}"
    )
    shown = subprocess.run(
        [sys.executable, "-m", "selfimprove_dagster.cli", "seeds", "inspect", NAME],
        env={**environment, "HF_HOME": environment["HF_HOME"] + "-2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert shown.returncode == 0 and "question: main/train 2?" in shown.stdout, shown.stderr
    assert "main/train 3?" not in shown.stdout
    assert not [*Path(environment["HF_HOME"] + "-2").rglob("*.arrow")], "nothing is downloaded whole"
    assert asked


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"hf:a/b/train@{COMMIT}", HubDataset("a/b", None, "train", COMMIT)),
        (NAME, HubDataset("people/sums", "main", "train", COMMIT)),
    ],
)
def test_a_complete_name_has_a_split_and_a_commit(text: str, parsed: HubDataset) -> None:
    assert HubDataset.of(text) == parsed and str(parsed) == text


@pytest.mark.parametrize("text", ["hf:", "hf:people", "hf:a/b/c/d/e@1", "hf:a/b/train@"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(SeedFileError, match="is no name of a data set; write hf:owner/name/split@commit"):
        HubDataset.of(text)


def test_a_data_set_stays_a_name_in_an_experiment(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, seeds={"file": NAME})
    assert experiment.model_dump()["seeds"]["file"] == NAME
