"""Pushes to the hub: what goes, what is refused, what is recorded, and that `revoke` names what left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from kit.homes import enter, environment_of
from kit.hub import GOOD_TOKEN, Hub, hub_here
from typer.testing import CliRunner, Result

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import PushError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.hub import pushes
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.weights import model_id

DATASET, MODEL = "datasets/ada/sums", "models/ada/adder"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, for which the environment has a token."""
    from huggingface_hub import constants

    with hub_here() as found:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        yield found


@pytest.fixture
def home(finished_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of a home with two iterations, from which nothing left."""
    shutil.copytree(finished_home.root, tmp_path / "home")
    return enter(Home(tmp_path / "home", finished_home.experiments), monkeypatch)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def said(*arguments: str) -> str:
    found = ask(*arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def export(*options: str, name: str = "ada/sums") -> tuple[str, ...]:
    return ("export", "small", "--push", name, *options)


def test_a_pushed_dataset_is_the_exported_folder_with_its_card(home: Home, hub: Hub, tmp_path: Path) -> None:
    told = said(*export("--iteration", "0"))
    said("export", "small", str(tmp_path / "out"), "--iteration", "0")
    repository = hub.repositories[DATASET]
    files = {name: (tmp_path / "out" / name).read_bytes() for name in ("README.md", "data/train.parquet")}
    assert repository.files == files and len(repository.commits) == 1
    assert repository.visibility == "private"
    (found,) = pushes(home)
    assert [one.commit for one in found.revisions] == [repository.head]
    assert repository.head in told and "the dataset ada/sums" in told
    rows = home.lake.read("lmsi/filtered_dataset", partition_of("small", 0))
    kept = pl.read_parquet(home.pushed / f"{found.name}.records.parquet")
    assert kept["id"].to_list() == rows["id"].to_list() and found.rows == len(rows)
    assert (found.experiment, found.iteration, found.table) == ("small", 0, "lmsi/filtered_dataset")


def test_a_pushed_checkpoint_has_its_weights_and_a_card(home: Home, hub: Hub) -> None:
    said(*export("--format", "checkpoint", "--iteration", "1", "--public", name="ada/adder"))
    repository = hub.repositories[MODEL]
    row = home.lake.read("lmsi/fine_tuned_checkpoint", partition_of("small", 1)).row(0, named=True)
    folder = Path(home.lake.folder_at(row["path"]))
    assert repository.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} | {"README.md"} == {*repository.files}
    assert repository.visibility == "public"
    card = repository.files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n", 2)[1])["tags"] == ["self-improvement", "lmsi"]
    assert row["model_id"] in card and "| `seeds.jsonl` | `Apache-2.0` | 24 |" in card
    assert "2210.11610" in card and f"selfimprove lineage trace {row['id']}" in card
    assert "| `the checkpoint of this iteration` | `greedy` | 40 | `" in card
    for both in ("| 0 | `lmsi` |", "| 1 | `lmsi` |"):
        assert both in card, "the data of the checkpoint that it started from, too"
    assert str(home.root) not in card and str(folder.parent) not in card
    (found,) = pushes(home)
    assert (found.model_id, found.kind, found.rows) == (row["model_id"], "model", 1)


@pytest.mark.parametrize("layout", ["chat", "parquet", "prov-json"])
def test_every_layout_is_pushed_with_a_card_that_names_its_file(home: Home, hub: Hub, layout: str) -> None:
    said(*export("--format", layout))
    files = hub.repositories[DATASET].files
    (config,) = yaml.safe_load(files["README.md"].decode().split("---\n", 2)[1])["configs"]
    assert config["data_files"] in files


def test_a_dry_run_shows_what_would_go_and_asks_nobody(
    home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    told = said(*export("--dry-run", "--iteration", "0"))
    size = home.lake.live_rows(home.lake.manifest("lmsi/filtered_dataset", partition_of("small", 0)))
    assert "Nothing was pushed" in told and f"{size} records" in told
    assert "data/train.parquet  " in told and "| `seeds.jsonl` | `Apache-2.0` | 24 |" in told
    told = said(*export("--dry-run", "--format", "checkpoint", name="ada/adder"))
    assert "model.safetensors  " in told and "the model ada/adder" in told
    assert hub.moments == [] and hub.repositories == {} and pushes(home) == []


def test_a_repeated_push_uploads_and_commits_nothing(home: Home, hub: Hub) -> None:
    first, again = (said(*export()).rpartition("pushed to ")[2] for _ in range(2))
    assert first == again
    assert len(hub.uploads) == 1 and len(hub.repositories[DATASET].commits) == 1
    assert len(pushes(home)) == 1


def test_another_iteration_is_another_revision_and_another_record(home: Home, hub: Hub) -> None:
    said(*export("--iteration", "0"))
    said(*export("--iteration", "1"))
    found = pushes(home)
    assert [one.iteration for one in found] == [0, 1]
    assert len({one.revisions[0].commit for one in found}) == 2
    said(*export("--iteration", "0"))
    assert [len(one.revisions) for one in pushes(home)] == [2, 1], "it went back, in a revision of its own"


# ---- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "match"),
    [
        (None, "HF_TOKEN is not set"),
        ("hf_wrong", "HF_TOKEN is wrong or has expired"),
        ("hf_readOnly", "HF_TOKEN may not write there"),
    ],
)
def test_a_missing_or_wrong_token_is_named_and_nothing_leaves(
    home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, match: str
) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    found = ask(*export())
    assert isinstance(found.exception, PushError) and match in str(found.exception)
    assert token is None or token not in str(found.exception) + found.output
    assert hub.repositories == {} and pushes(home) == []


def test_without_a_network_nothing_leaves_and_the_error_says_what_to_do(
    home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    found = ask(*export())
    assert isinstance(found.exception, PushError)
    assert f"{address} does not answer" in str(found.exception) and "run the command again" in str(
        found.exception
    )
    assert pushes(home) == []


def test_a_name_that_is_none_is_named(home: Home, hub: Hub) -> None:
    found = ask(*export(name="no/such/name"))
    assert isinstance(found.exception, PushError) and "give owner/name" in str(found.exception)
    assert hub.moments == []


def test_a_folder_and_a_push_are_not_asked_for_together(home: Home, tmp_path: Path) -> None:
    for arguments in (
        ["export", "small"],
        [*export(), str(tmp_path / "out")],
        ["export", "small", str(tmp_path / "out"), "--dry-run"],
    ):
        assert ask(*arguments).exit_code == 2
    assert not (tmp_path / "out").exists()


# ---- kills ---------------------------------------------------------------------------------------------


def program(home: Home, hub: Hub, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **environment_of(home),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": GOOD_TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "selfimprove_dagster.cli", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "moment"),
    [
        ("after", "create"),
        ("before", "upload"),
        ("after", "upload"),
        ("before", "commit"),
        ("after", "commit"),
    ],
)
def test_a_push_that_is_killed_is_finished_by_the_next(home: Home, hub: Hub, when: str, moment: str) -> None:
    arguments = export("--format", "checkpoint", "--iteration", "0", name="ada/adder")
    running: list[subprocess.Popen[str]] = []

    def kill(now: str) -> None:
        if now == moment and running:
            running.pop().send_signal(signal.SIGKILL)
            raise ConnectionAbortedError

    setattr(hub, when, kill)
    running.append(first := program(home, hub, *arguments))
    first.communicate(timeout=120)
    assert first.returncode == -signal.SIGKILL
    begun = pushes(home)
    assert len(begun) == (moment != "create"), "it is recorded before anything is uploaded"
    assert all(one.revisions == () and "not finished" in one.place for one in begun)
    uploaded = list(hub.uploads)
    second = program(home, hub, *arguments)
    told, _ = second.communicate(timeout=120)
    assert second.returncode == 0, told
    repository = hub.repositories[MODEL]
    (found,) = pushes(home)
    assert [one.commit for one in found.revisions] == [repository.head]
    assert len(repository.commits) == 1, "what was committed is not committed again"
    assert {*found.files} == {*repository.files}
    assert not {*uploaded} & {*hub.uploads[len(uploaded) :]}, "what was uploaded is not uploaded again"


def test_the_token_is_written_nowhere(home: Home, hub: Hub) -> None:
    told = said(*export()) + said(*export("--format", "checkpoint", name="ada/adder"))
    assert GOOD_TOKEN not in told
    for path in home.root.rglob("*"):
        if path.is_file():
            assert GOOD_TOKEN.encode() not in path.read_bytes(), path
    for repository in hub.repositories.values():
        assert all(GOOD_TOKEN.encode() not in data for data in repository.files.values())


# ---- revoke --------------------------------------------------------------------------------------------


def test_revoke_names_where_its_rows_and_tainted_models_left(home: Home, hub: Hub) -> None:
    rows = home.lake.read("lmsi/filtered_dataset", partition_of("small", 0))
    example = rows["id"][0]
    revoking = ("lineage", "revoke", "--record", example, "--why", "the author asked")
    assert "left in" not in said(*revoking)
    said(*export("--iteration", "0"))
    said(*export("--iteration", "0", "--format", "chat", name="bob/talk"))
    said(*export("--iteration", "0", "--format", "checkpoint", name="ada/adder"))
    one, two, model = pushes(home)
    expected = [
        f"1 of these rows left in {one.place}",
        f"1 of these rows left in {two.place}",
        f"the tainted model {model.model_id} left in {model.place}",
    ]
    told = said(*revoking)
    assert [line for line in told.splitlines() if " left in " in line] == expected
    assert one.revisions[0].commit in told and one.revisions[0].at in told
    told = said(*revoking, "--yes", "--purge")
    assert [line for line in told.splitlines() if " left in " in line] == expected, (
        "after the purge as before"
    )


def test_a_tainted_checkpoint_is_not_exported(home: Home, hub: Hub) -> None:
    example = home.lake.read("lmsi/filtered_dataset", partition_of("small", 0))["id"][0]
    said("lineage", "revoke", "--record", example, "--why", "asked", "--yes")
    found = ask(*export("--format", "checkpoint", "--iteration", "0", name="ada/adder"))
    assert "the checkpoint is tainted and is not exported: it was trained on 1 examples" in str(
        found.exception
    )
    assert hub.moments == []


def test_a_checkpoint_is_exported_as_a_folder_that_transformers_opens(home: Home, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said("export", "small", str(tmp_path / "out"), "--format", "checkpoint", "--iteration", "0")
    row = home.lake.read("lmsi/fine_tuned_checkpoint", partition_of("small", 0)).row(0, named=True)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir()), "it is a copy"
    assert model_id(tmp_path / "out") == row["model_id"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 512
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|end|>"
    found = ask("export", "small", str(tmp_path / "other"), "--format", "checkpoint", "--iteration", "7")
    assert "experiment small has no checkpoint in iteration 7" in str(found.exception)
    assert not (tmp_path / "other").exists()


def test_records_of_pushes_are_plain_files(home: Home, hub: Hub) -> None:
    said(*export())
    (found,) = pushes(home)
    data = json.loads((home.pushed / f"{found.name}.json").read_text())
    assert data["repo"] == "ada/sums" and data["endpoint"] == hub.url
    assert data["files"].keys() == hub.repositories[DATASET].files.keys()
