"""Replay: what was recorded of a path is enough to draw it again, and a difference is found where it is."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.small_lake import make_experiment
from rich.console import Console

from selfimprove_dagster.cli.answers import replay_text
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.language_model import promise_of
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.lineage.replay import compare, replay, replay_sample
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.methods.lmsi.tables import FILTERED_DATASET, RAW_GENERATIONS, VOTED_ANSWERS
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.work.shards import recorded_options

PATHS = RAW_GENERATIONS.name


@pytest.fixture
def home(finished_home: Home, tmp_path: Path) -> Home:
    """A copy of the finished home's lake that may be changed."""
    shutil.copytree(finished_home.lake.root, tmp_path / "home" / "lake")
    (tmp_path / "home" / "checkpoints").symlink_to(finished_home.root / "checkpoints")
    return replace(finished_home, root=tmp_path / "home")


def paths_of(home: Home, iteration: int = 0) -> Manifest:
    return home.lake.manifest(PATHS, partition_of("small", iteration))


def change_activity(home: Home, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the manifest says of the activity that drew the paths of iteration 0."""
    file = paths_of(home).directory / "manifest.json"
    data = json.loads(file.read_text())
    change(data["activity"])
    file.write_text(json.dumps(data))


# ---- two real iterations --------------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [0, 1])
@pytest.mark.parametrize("alone", [False, True])
def test_a_sample_is_drawn_again_token_by_token(finished_home: Home, iteration: int, alone: bool) -> None:
    again = replay_sample(finished_home, f"small-{iteration:03d}", 20, alone=alone)
    assert (again.agreement.correct, again.agreement.total) == (20, 20)
    assert len({path.id for path in again.paths}) == 20
    assert again.differences == ()
    assert again.promise == promise_of("transformers")
    assert again.model_id == paths_of(finished_home, iteration).activity.model_id
    assert "20 of 20 paths are identical, token by token: 100.0%" in shown(again)


def test_the_lot_of_a_sample_is_always_the_same(finished_home: Home) -> None:
    small, large = (replay_sample(finished_home, "small-000", size) for size in (3, 6))
    ids = [path.id for path in large.paths]
    assert {path.id for path in small.paths} <= set(ids)
    assert ids != paths_of_frame(finished_home)["id"].head(6).to_list()


def paths_of_frame(home: Home) -> pl.DataFrame:
    return home.lake.read(PATHS, partition_of("small", 0))


def test_of_an_example_its_path_is_drawn_again(finished_home: Home) -> None:
    example = finished_home.lake.read(FILTERED_DATASET.name, partition_of("small", 0)).row(0, named=True)
    again = replay(finished_home, example["id"])
    path = next(edge["id"] for edge in example["parents"] if edge["role"] == "path")
    assert [(one.id, one.equal) for one in again.paths] == [(path, True)]


def test_of_a_vote_every_path_is_drawn_again(finished_home: Home) -> None:
    vote = finished_home.lake.read(VOTED_ANSWERS.name, partition_of("small", 1)).row(0, named=True)
    again = replay(finished_home, vote["id"])
    assert {one.id for one in again.paths} == {ballot["id"] for ballot in vote["paths"]}
    assert all(one.equal for one in again.paths)


def test_a_record_without_a_path_is_refused(finished_home: Home) -> None:
    seed = finished_home.lake.read_ungated(finished_home.lake.manifests(SEEDS.name)[0])["id"][0]
    with pytest.raises(RecordNotFound, match="is not a completion and was not made from one"):
        replay(finished_home, seed)


def test_what_a_replay_needs_is_recorded(finished_home: Home) -> None:
    about = paths_of(finished_home).activity.about
    assert about["engine_options"]["engine"] == "transformers"
    assert about["dtype"] == "float32"
    assert about["device"] == "cpu" or about["device"].startswith("cuda")


def test_the_address_of_a_server_is_not_recorded(tmp_path: Path) -> None:
    server = {"url": "http://user:secret@127.0.0.1:8000/v1"}
    section = make_experiment(
        tmp_path, model={"path": "embedded", "engine": "openai", "server": server}
    ).model
    assert "secret" in str(section.engine_options())
    assert "secret" not in str(recorded_options(section))
    assert recorded_options(section)["engine"] == "openai"


# ---- tampered with --------------------------------------------------------------------------------------


def test_a_tampered_token_is_found_at_its_position(home: Home) -> None:
    manifest = paths_of(home)
    frame = pl.read_parquet(manifest.paths[0], hive_partitioning=False)
    tokens = frame["token_ids"].to_list()
    tokens[0][3] += 1
    frame.with_columns(pl.Series("token_ids", tokens, dtype=frame["token_ids"].dtype)).write_parquet(
        manifest.paths[0]
    )
    again = replay(home, frame["id"][0])
    (path,) = again.paths
    assert (path.equal, path.position) == (False, 3)
    assert path.gap == pytest.approx(0, abs=1e-5), "it is drawn as it was; the record lies"
    assert "0 of 1 paths" in shown(again)
    assert "differs from token 3 on" in shown(again)


def test_a_tampered_text_is_found(home: Home) -> None:
    manifest = paths_of(home)
    frame = pl.read_parquet(manifest.paths[0], hive_partitioning=False)
    frame.with_columns(text=pl.lit("\x1b[31mThe answer is 7.")).write_parquet(manifest.paths[0])
    again = replay(home, frame["id"][0])
    (path,) = again.paths
    assert (path.equal, path.position) == (False, None)
    text = shown(again)
    assert "the tokens are equal, but the text differs" in text and "\x1b" not in text


def test_another_temperature_gives_other_paths(home: Home) -> None:
    change_activity(home, lambda activity: activity["parameters"].update(temperature=3.0))
    again = replay_sample(home, "small-000", 20)
    assert again.agreement.correct < 10
    assert any(path.gap is not None and path.gap > 0.1 for path in again.paths)


def test_another_engine_or_device_is_said(home: Home) -> None:
    def older(activity: dict[str, Any]) -> None:
        activity["parameters"]["engine"] = "transformers 1.0"
        activity["about"].update(device="cuda:7", dtype="bfloat16")

    change_activity(home, older)
    again = replay_sample(home, "small-000", 2)
    assert any("it was transformers 1.0" in line for line in again.differences)
    assert any("it was cuda:7" in line for line in again.differences)
    assert any("it was bfloat16" in line for line in again.differences)


def test_paths_whose_options_were_not_recorded_are_drawn_with_those_of_the_experiment(home: Home) -> None:
    def forget(activity: dict[str, Any]) -> None:
        for name in ("engine_options", "device", "dtype"):
            del activity["about"][name]

    change_activity(home, forget)
    again = replay_sample(home, "small-000", 2)
    assert again.agreement.correct == 2
    assert all(line.endswith("it was not recorded") for line in again.differences)


def test_another_model_at_that_place_is_refused_with_both_hashes(home: Home) -> None:
    activity = paths_of(home).activity
    other = paths_of(home, 1).activity
    if other.model_id == activity.model_id:
        pytest.skip("the first checkpoint was not promoted")
    change_activity(home, lambda changed: changed["about"].update(model_path=other.about["model_path"]))
    with pytest.raises(
        ModelError, match=f"is {other.model_id}, but these paths were generated by {activity.model_id}"
    ):
        replay_sample(home, "small-000", 1)


def test_a_model_that_is_gone_is_named(home: Home) -> None:
    change_activity(home, lambda activity: activity["about"].update(model_path="/nowhere/model"))
    with pytest.raises(
        ModelError, match=r"is missing: .*/nowhere/model.* Put b2:[0-9a-f]+ back at /nowhere/model"
    ):
        replay_sample(home, "small-000", 1)


# ---- comparing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "drawn", "position", "gap"),
    [
        ([1, 2, 3], [1, 2, 3], None, None),
        ([1, 2, 3], [1, 5, 3], 1, 0.5),
        ([1, 2, 3], [1, 2], 2, None),
        ([1, 2], [1, 2, 3], 2, None),
        ([], [4], 0, None),
        ([], [], None, None),
    ],
)
def test_paths_are_compared_token_by_token(
    recorded: list[int], drawn: list[int], position: int | None, gap: float | None
) -> None:
    row = {"id": "gen:1", "token_ids": recorded, "text": "", "logprobs": [-1.0] * len(recorded)}
    found = compare(row, Generation(drawn, [-1.5] * len(drawn), "", "stop"))
    assert (found.position, found.gap) == (position, gap)
    assert found.equal == (position is None)


def shown(again: Any) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    console.print(replay_text(again))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
