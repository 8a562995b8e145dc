"""A home that was moved, or copied, to another folder works on; so does one whose rows hold absolute paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.homes import entered, environment_of, make_home
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster import addresses
from selfimprove_dagster.checkpoints.pruning import trained_models
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.replay import replay_sample
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.runs import run_iteration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["by address", "by absolute path"])
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with one iteration that was moved to another folder; earlier versions wrote absolute paths."""
    folder = tmp_path_factory.mktemp("before")
    home = make_home(folder, SMALL_EXPERIMENT)
    with entered(home) as patch:
        if request.param == "by absolute path":
            patch.setattr(Lake, "address_of", lambda lake, model: str(model))
        assert run_iteration(home, home.experiment("small"), 0) == []
    (row,) = home.lake.read(
        "lmsi/fine_tuned_checkpoint", {"experiment": "small", "iteration": "000"}
    ).to_dicts()
    assert Path(row["path"]).is_absolute() == (request.param == "by absolute path")
    target = tmp_path_factory.mktemp("after") / "there"
    shutil.move(folder, target)
    after = Home(root=target / "home", experiments=target / "experiments")
    with entered(after):
        yield after


def command(home: Home, *arguments: str) -> str:
    """What the installed command prints over a home."""
    done = subprocess.run(
        [Path(sys.executable).parent / "selfimprove", *arguments],
        env={**os.environ, **environment_of(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_next_iteration_starts_from_the_checkpoint_at_its_new_place(moved: Home) -> None:
    experiment = moved.experiment("small")
    champion = champion_before(moved.lake, experiment, 1)
    assert champion.iteration == 0 and Path(champion.path).is_relative_to(moved.root)
    assert run_iteration(moved, experiment, 1) == []
    (generations,) = (one for one in moved.lake.manifests("lmsi/raw_generations") if one.iteration == 1)
    assert generations.activity.model_id == champion.model_id
    report = verify(moved.lake)
    assert report.findings == [] and report.notes == []


def test_commands_find_the_checkpoint_at_its_new_place(moved: Home, tmp_path: Path) -> None:
    champion = champion_before(moved.lake, moved.experiment("small"), NEWEST)
    address = moved.lake.address_of(champion.path)
    assert address.startswith("checkpoints/small/")
    asked = ("Q: What is 2 + 2?", "--max-tokens", "8", "--model")
    assert command(moved, "generate", *asked, address) == command(moved, "generate", *asked, champion.path)
    command(moved, "export", "small", str(tmp_path / "model"), "--format", "checkpoint")
    assert [*(tmp_path / "model").glob("*.safetensors")]
    listed = trained_models(moved.lake, moved.experiment("small"))
    assert listed and all(one.path.is_dir() and one.is_checkpoint for one in listed)
    replayed = replay_sample(moved, "small-001", 8)
    assert replayed.agreement.value == 1.0 and replayed.differences == ()


def test_weights_that_were_changed_after_the_move_are_found(moved: Home, tmp_path: Path) -> None:
    """The copy's own weights are looked at, not those of the original, which are whole."""
    copy = Home(root=tmp_path / "copy" / "home", experiments=moved.experiments)
    shutil.copytree(moved.root, copy.root)
    champion = champion_before(copy.lake, copy.experiment("small"), NEWEST)
    assert Path(champion.path).is_relative_to(copy.root)
    (weights,) = Path(champion.path).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert {one.kind for one in verify(copy.lake).findings} == {"changed"}
    assert verify(moved.lake).findings == []


@pytest.mark.parametrize(
    ("stored", "there", "found"),
    [
        ("checkpoints/demo/000-lmsi-1", False, "{home}/checkpoints/demo/000-lmsi-1"),
        ("/srv/other/checkpoints/demo/000-lmsi-1", True, "{home}/checkpoints/demo/000-lmsi-1"),
        ("/srv/other/checkpoints/demo/000-lmsi-1", False, "/srv/other/checkpoints/demo/000-lmsi-1"),
        ("/models/base", True, "/models/base"),
        ("owner/model", True, "owner/model"),
        ("checkpoints/model", True, "checkpoints/model"),
        ("", True, ""),
    ],
)
def test_an_address_is_looked_for_in_the_home(tmp_path: Path, stored: str, there: bool, found: str) -> None:
    if there:
        (tmp_path / "checkpoints" / "demo" / "000-lmsi-1").mkdir(parents=True)
    assert addresses.folder_at(tmp_path, stored) == found.format(home=tmp_path)


def test_only_a_trained_model_of_the_home_has_an_address(tmp_path: Path) -> None:
    own = tmp_path / "checkpoints" / "demo" / "000-lmsi-1"
    assert addresses.address_of(tmp_path, own) == "checkpoints/demo/000-lmsi-1"
    for other in (
        own.parent,
        own / "part",
        tmp_path / "models" / "x",
        Path("/srv/checkpoints/demo/000-lmsi-1"),
    ):
        assert addresses.address_of(tmp_path, other) == str(other)
    assert addresses.address_of(tmp_path, "owner/model") == "owner/model"
