"""Which weights are deleted after an iteration, and what is said where they are missed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kit.homes import entered, make_home
from kit.small_lake import promotion_draft, store
from safetensors.numpy import save_file
from typer.testing import CliRunner

from selfimprove_dagster import embedded, registry
from selfimprove_dagster.checkpoints.pruning import prune, to_rebuild
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import held, partition_of
from selfimprove_dagster.lake.records import Draft
from selfimprove_dagster.language_model.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MERGED, OVER
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.pruned import pruned
from selfimprove_dagster.quality.outcomes import _model_hash
from selfimprove_dagster.table import sentence_of
from selfimprove_dagster.training import folders

METHOD = registry.method("rlhf")
MODELS = ("supervised_checkpoint", "reward_model", "fine_tuned_checkpoint")
REBUILD = "selfimprove checkpoints rebuild demo --iteration 0"
SETTINGS = {
    "name": "demo",
    "method": "rlhf",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded"},
}


def home_with(folder: Path, keep: Any = None, *others: dict[str, Any]) -> Home:
    more = {} if keep is None else {"checkpoints": {"keep": keep}}
    return make_home(folder, {**SETTINGS, **more}, *others)


def folder_of(home: Home, iteration: int, stage: str = "fine_tuned_checkpoint") -> Path:
    return home.root / "checkpoints" / "demo" / f"{iteration:03d}-{stage}"


def write_weights(folder: Path, number: float) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / folders.DETERMINANTS).write_text('{"seed": 1}')
    (folder / "loss.png").write_bytes(b"curve")
    save_file({"weight": np.full(3, number, dtype=np.float32)}, folder / "model.safetensors")
    return model_id(folder)


def run(home: Home, iteration: int, promoted: bool, without: str = "") -> None:
    """Commit what an iteration commits: three models, and the decision on the last of them."""
    for stage in METHOD.stages:
        name, table = stage.name, stage.table
        drafts = []
        if name in MODELS:
            folder = folder_of(home, iteration, name)
            content = dict.fromkeys(table.content, 1) | {
                "model_id": write_weights(folder, iteration * 10 + MODELS.index(name)),
                "base_model_id": "b2:base",
                "dataset_activity_id": "act:none",
            }
            drafts = [Draft(content, measures=dict.fromkeys(table.measures) | {"path": str(folder)})]
        elif name == "promotion":
            draft = promotion_draft(str(iteration), promoted)
            drafts = [
                Draft(
                    draft.content,
                    measures={**draft.measures, "challenger_path": str(folder_of(home, iteration))},
                )
            ]
        if name != without:
            store(home.lake, table, drafts, iteration=iteration)


def left(home: Home) -> set[tuple[int, str]]:
    """The models whose weights are on the disk: iteration and stage."""
    found = (home.root / "checkpoints" / "demo").glob("*/model.safetensors")
    return {(int(one.parent.name[:3]), one.parent.name[4:]) for one in found}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (None, {0, 2, 3}),  # two that were promoted, and the last
        ("champion", {0, 2, 3}),
        (1, {2, 3}),  # the champion, and the last
        (3, {1, 2, 3}),
    ],
)
def test_checkpoints_are_kept_as_the_experiment_says_and_no_models_in_between(
    tmp_path: Path, keep: Any, kept: set[int]
) -> None:
    home = home_with(tmp_path, keep)
    for iteration, promoted in enumerate([True, False, True, False]):
        run(home, iteration, promoted)
    done = prune(home, "demo")
    assert left(home) == {(iteration, "fine_tuned_checkpoint") for iteration in kept}
    assert len(done.models) == 12 - len(kept)
    assert f"pruned the weights of {12 - len(kept)} models" in str(done)
    assert str(prune(home, "demo")) == "there are no weights to prune"


def test_all_are_kept_where_the_experiment_says_so(tmp_path: Path) -> None:
    home = home_with(tmp_path, "all")
    run(home, 0, False)
    prune(home, "demo")
    assert left(home) == {(0, stage) for stage in MODELS}


def test_what_is_known_of_a_pruned_model_stays(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    before = verify(home.lake).digest
    prune(home, "demo")
    folder = folder_of(home, 0, "reward_model")
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "loss.png", "pruned.json", folders.DETERMINANTS)
    }
    report = verify(home.lake)
    assert report.digest == before
    assert not [one for one in report.findings if "weights" in one.problem]
    assert sorted(one.table for one in report.notes if one.kind == "pruned") == [
        "rlhf/reward_model",
        "rlhf/supervised_checkpoint",
    ]
    assert all(REBUILD in one.problem for one in report.notes if one.kind == "pruned")


@pytest.mark.parametrize("read", [model_folder, model_id])
def test_a_reader_of_pruned_weights_gets_the_command_that_rebuilds_them(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    prune(home, "demo")
    with pytest.raises(ModelError, match=f"checkpoints.keep: champion.*{REBUILD}"):
        read(folder_of(home, 0, "reward_model"))


def test_the_check_of_a_pruned_checkpoint_still_passes(tmp_path: Path) -> None:
    home = home_with(tmp_path, 1)
    run(home, 0, False)
    known = model_id(folder_of(home, 0))
    run(home, 1, False)
    prune(home, "demo")
    assert _model_hash(str(folder_of(home, 0))) == (known, None)
    row = home.lake.read("rlhf/fine_tuned_checkpoint", partition_of("demo", 0)).row(0, named=True)
    said = sentence_of(METHOD.table("fine_tuned_checkpoint"), row)
    assert "its weights were pruned (checkpoints.keep: 1)" in said
    assert REBUILD in said


def test_an_iteration_in_which_a_stage_is_missing_keeps_its_models(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    run(home, 1, False, without="promotion")
    prune(home, "demo")
    assert left(home) == {(0, "fine_tuned_checkpoint"), *((1, stage) for stage in MODELS)}


def test_nothing_is_pruned_while_a_partition_is_written(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    written = home.lake.manifest("rlhf/evaluation", partition_of("demo", 0))
    with held(written.directory):
        assert "is being written by another process" in str(prune(home, "demo"))
    assert left(home) == {(0, stage) for stage in MODELS}


def test_a_model_that_another_experiment_names_is_kept(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    other = {**SETTINGS, "name": "other", "model": {"path": str(folder_of(home, 0, "reward_model"))}}
    (home.experiments / "other.yaml").write_text(yaml.safe_dump(other))
    broken = f"model: {{path: {folder_of(home, 0, 'supervised_checkpoint')}}}\nsteps: oops\n"
    (home.experiments / "broken.yaml").write_text(broken)
    prune(home, "demo")
    assert left(home) == {(0, stage) for stage in MODELS}


def test_a_folder_outside_of_the_home_is_kept(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a")
    run(home, 0, True)
    copied = Home(root=tmp_path / "b", experiments=home.experiments)
    shutil.copytree(home.root / "lake", copied.root / "lake")
    assert prune(copied, "demo").models == ()
    assert left(home) == {(0, stage) for stage in MODELS}


def test_a_revocation_makes_an_older_checkpoint_the_champion_which_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_with(tmp_path, 1)
    for iteration, promoted in enumerate([True, True, False]):
        run(home, iteration, promoted)
    from selfimprove_dagster.loop import champion

    monkeypatch.setattr(champion, "tainted_models", lambda lake, experiment: {"b2:1": "revoked"})
    prune(home, "demo")
    assert left(home) == {(0, "fine_tuned_checkpoint"), (2, "fine_tuned_checkpoint")}


KILLED = """
import os, sys
from pathlib import Path
from selfimprove_dagster.checkpoints import pruning
from selfimprove_dagster.home.home import Home

write, unlink = pruning.write_atomically, Path.unlink
root, experiments, at = sys.argv[1:]

def write_and_die(*arguments):
    write(*arguments)
    os._exit(9)

def unlink_or_die(path, **options):
    if path.suffix == ".safetensors":
        os._exit(9)
    unlink(path, **options)

if at == "mark":
    pruning.write_atomically = write_and_die
else:
    Path.unlink = unlink_or_die
pruning.prune(Home(root=Path(root), experiments=Path(experiments)), "demo")
"""
"""Prunes, and dies as soon as the mark of a model is written, or before the first weights are deleted."""


@pytest.mark.parametrize("at", ["mark", "unlink"])
def test_a_killed_pruning_leaves_no_model_with_a_part_of_its_weights(tmp_path: Path, at: str) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    done = subprocess.run([sys.executable, "-c", KILLED, home.root, home.experiments, at], check=False)
    assert done.returncode == 9
    marked = [stage for stage in MODELS if pruned(folder_of(home, 0, stage))]
    assert len(marked) == 1
    with pytest.raises(ModelError, match="were pruned"):
        model_id(folder_of(home, 0, marked[0]))
    prune(home, "demo")
    assert left(home) == {(0, "fine_tuned_checkpoint")}


def test_a_pruned_model_is_trained_again_into_its_folder(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, True)
    prune(home, "demo")
    (experiment,) = home.chain("demo")
    assert [one.table.split("/")[1] for one in to_rebuild(home, experiment, 0)] == [*MODELS[:2]]
    folder, determinants = folder_of(home, 0, "reward_model"), {"seed": 1}
    assert not folders.is_finished(folder, determinants)
    with pytest.raises(TrainingError, match="other seed"):
        folders.is_finished(folder, {"seed": 2})
    finished = tmp_path / "finished"
    again = write_weights(finished, MODELS.index("reward_model"))
    folders.publish(finished, folder)
    assert model_id(folder) == again == to_model(home, "reward_model")
    assert folders.is_finished(folder, determinants)
    assert not [*folder.parent.glob(".*")]


def to_model(home: Home, stage: str) -> str:
    """The id of a model as the lake has it."""
    rows = home.lake.read(METHOD.table(stage).name, partition_of("demo", 0))
    return str(rows["model_id"][0])


def test_an_adapter_over_a_merged_copy_is_exported_with_a_note(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    run(home, 0, promoted=True)
    (table,) = [one.table for one in METHOD.stages if one.name == "fine_tuned_checkpoint"]
    exported = ("export", "demo", "--format", "checkpoint")
    for iteration, base in ((1, embedded.BASE_MODEL), (2, tmp_path / f"000-adapter{MERGED}float32")):
        if not base.exists():
            shutil.copytree(embedded.BASE_MODEL, base)
        run(home, iteration, promoted=True, without="fine_tuned_checkpoint")
        folder = folder_of(home, iteration)
        (folder / "model.safetensors").rename(folder / ADAPTER_WEIGHTS)
        (folder / ADAPTER_CONFIG).write_text(json.dumps({"base_model_name_or_path": str(base)}))
        (folder / folders.DETERMINANTS).write_text(json.dumps({OVER: model_id(base)}))
        content = {
            "model_id": model_id(folder),
            "base_model_id": model_id(base),
            "dataset_activity_id": "act:none",
        }
        row = Draft(
            dict.fromkeys(table.content, 1) | content,
            measures=dict.fromkeys(table.measures) | {"path": str(folder)},
        )
        store(home.lake, table, [row], iteration=iteration)
        output = tmp_path / f"exported-{iteration}"
        with entered(home):
            done = CliRunner().invoke(app, [*exported, str(output), "--iteration", str(iteration)])
        assert done.exit_code == 0, (done.output, done.exception)
        for text in (done.output, (output / "README.md").read_text()):
            said = " ".join(text.split())
            assert ("lies over a merged copy" in said) == (iteration == 2)
            assert ("export demo DIR --format checkpoint --merged` writes a whole model" in said) == (
                iteration == 2
            )
