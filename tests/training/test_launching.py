"""Jobs in several processes by torchrun: what comes back, how it fails, and that all processes end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml
from kit.ranked_jobs import SETTINGS, job, write_all_rows
from kit.training import ENVIRONMENT, weights

from selfimprove_dagster.errors import BudgetSpent, ModelError, RankKilled, TrainingError
from selfimprove_dagster.experiment.sections import LaunchSection, TrainingSection
from selfimprove_dagster.families.preferences.settings import PolicyTrainingSection
from selfimprove_dagster.language_model.serving import free_port
from selfimprove_dagster.resources.trainer import run
from selfimprove_dagster.training.launching import (
    ENDPOINT,
    ON_EVERY_NODE,
    command,
    fsdp2_configuration,
    launch,
    strategy_arguments,
)
from selfimprove_dagster.training.policy import PolicyOutcome, optimise_policy, read_rollouts
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.settings import Launch, check_settings
from selfimprove_dagster.training.supervised import TokenisedExample, fine_tune

TWO = Launch(processes=2)
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
TRAINING: dict[str, Any] = {"start_from": "base", "steps": 4, "learning_rate": 1e-5, "schedule": "constant"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_all_rows(folder)
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ranks_in(folder: Path) -> dict[int, psutil.Process]:
    """The ranks that train in a folder, by their number."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1].startswith(str(folder)) and "RANK" in (own := process.environ()):
                found[int(own["RANK"])] = process
        except (psutil.Error, IndexError):
            continue
    return found


def all_end(folder: Path, limit: float = 20) -> bool:
    """Whether every rank in a folder ends in time."""
    deadline = time.monotonic() + limit
    while found := ranks_in(folder):
        if time.monotonic() > deadline:
            return not found
        time.sleep(0.1)
    return True


# What comes back


@pytest.mark.train
def test_a_step_of_dagster_trains_in_two_processes_and_hears_them(
    base: Path, rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    outcomes: list[PolicyOutcome] = []
    spec = job("grpo", base, rows, tmp_path / "model", TWO)

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["small-000"]))
    def trained() -> dg.MaterializeResult:
        paid = lambda money: seen.append(("paid", {"money": money}))  # noqa: E731
        outcomes.append(run(spec, on_log=lambda entry: seen.append(("log", entry)), on_paid=paid))
        return dg.MaterializeResult(metadata={"reward": outcomes[0].final_reward})

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([trained], partition_key="small-000", instance=instance)
        said = [entry.user_message for entry in instance.all_logs(done.run_id)]
    assert done.success
    (outcome,) = outcomes
    assert isinstance(outcome, PolicyOutcome) and outcome.path == tmp_path / "model"
    steps = SETTINGS["grpo"].steps
    assert [entry["step"] for kind, entry in seen if kind == "log"] == [*range(1, steps + 1)]
    assert [kind for kind, _ in seen].count("paid") == steps
    assert [{**entry} for entry in outcome.log] == [
        {name: value for name, value in entry.items() if name not in ("tokens", "steps")}
        for kind, entry in seen
        if kind == "log"
    ]
    assert len(read_rollouts(outcome.rollouts)) == steps * 8
    assert any("2 processes train together" in line for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.train
@pytest.mark.rotates
def test_two_nodes_train_what_two_processes_train_after_a_kill(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts on one machine are two nodes for torchrun."""
    twice = tmp_path / "twice.sh"
    twice.write_text('"$@" & other=$!\n"$@" && wait $other\n')
    monkeypatch.setenv(ON_EVERY_NODE, f"sh {twice}")
    monkeypatch.setenv(ENDPOINT, f"127.0.0.1:{free_port()}")
    nodes = launch(job("supervised", base, rows, tmp_path / "nodes", Launch(1, nodes=2)))

    spec = job("supervised", base, rows, tmp_path / "killed", TWO)
    place = tmp_path / "killed.launch"

    def kill(entry: dict[str, float]) -> None:
        if entry["step"] == 3:
            ranks_in(place)[1].kill()

    with pytest.raises(RankKilled, match=r"rank 1 of 2 processes was ended by SIGKILL") as raised:
        launch(spec, on_log=kill)
    assert str(place) in str(raised.value) and raised.value.may_pass
    assert all_end(place)
    heard: list[dict[str, float]] = []
    resumed = launch(spec, on_log=heard.append)
    # The news of step 3 may come late: then the checkpoint of step 4 was written before the kill.
    assert [entry["step"] for entry in heard] in ([3, 4, 5], [5]), (
        "from a checkpoint, of which every second step has one"
    )
    assert weights(resumed.path) == weights(nodes.path)
    assert not place.exists()


# How it fails


@pytest.mark.train
def test_an_error_of_a_rank_arrives_as_itself(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        launch(job("supervised", tmp_path / "nowhere", rows, tmp_path / "model", TWO))
    (folder,) = (tmp_path / "model.launch").iterdir()
    assert "ModelError" in (folder / "rank-0.log").read_text()


@pytest.mark.train
@pytest.mark.rotates
def test_a_listener_that_raises_ends_all_ranks(base: Path, rows: Path, tmp_path: Path) -> None:
    spec = job("grpo", base, rows, tmp_path / "model", TWO, steps=200, save_every=100)
    asked: list[float] = []

    def spend(money: float) -> None:
        asked.append(money)
        if len(asked) == 3:
            raise BudgetSpent("nothing is left")

    with pytest.raises(BudgetSpent, match="nothing is left"):
        launch(spec, on_paid=spend)
    assert len(asked) == 3
    assert all_end(tmp_path / "model.launch", limit=2)
    assert not (tmp_path / "model").exists()


@pytest.mark.train
@pytest.mark.rotates
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_all_ranks_end_with_the_process_that_launched_them(
    base: Path, rows: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    spec = job("supervised", base, rows, tmp_path / "model", TWO, steps=5000, save_every=5000)
    script = """
import json, sys
from selfimprove_dagster.training.launching import launch
from selfimprove_dagster.work.spec import Spec
launch(Spec(**json.load(sys.stdin)), on_log=lambda entry: print(entry["step"], flush=True))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(spec.to_json()))
        process.stdin.close()
        assert process.stdout.readline() == "1.0\n" or process.stdout.readline()
        assert sorted(ranks_in(tmp_path / "model.launch")) == [0, 1]
        process.send_signal(ending)
    assert all_end(tmp_path / "model.launch")


def test_other_than_the_wanted_processes_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(output: str, how: Launch | None) -> None:
        settings = replace(SETTINGS["supervised"], launch=how)
        fine_tune(base, [TokenisedExample([1, 5], [7, 2])], tmp_path / output, settings, seed=0, device="cpu")  # type: ignore[arg-type]

    with pytest.raises(TrainingError, match=r"1 process trains, and the settings ask for 2"):
        train("one", TWO)
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"2 processes train, and the settings ask for 4"):
        train("two", Launch(2, nodes=2))
    with pytest.raises(TrainingError, match=r"2 processes train, and the settings ask for 1"):
        train("two", None)
    assert [*tmp_path.iterdir()] == []


# Settings


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises((TrainingError, ValueError)) as raised:
        make()
    return str(raised.value)


def test_settings_that_do_not_fit_are_refused_in_words(base: Path, tmp_path: Path) -> None:
    four = replace(SETTINGS["supervised"], batch_size=4)
    for how, words in (
        (Launch(3), "batch_size is 4 and 3 processes share a batch; it must be a multiple of 3"),
        (Launch(0), "launch.processes is 0"),
        (Launch(2, nodes=0), "launch.nodes is 0"),
        (Launch(2, strategy="zero3"), "launch.strategy is 'zero3'"),  # type: ignore[arg-type]
    ):
        assert words in refused(lambda how=how: check_settings(replace(four, launch=how), "cpu", "float32"))  # type: ignore[misc]
    fsdp2 = Launch(2, strategy="fsdp2")
    assert "needs GPUs" in refused(lambda: strategy_arguments(fsdp2, on_cpu=True))
    policy: Any = replace(SETTINGS["grpo"], launch=fsdp2)
    prompts = [TokenisedPrompt([1])]
    words = refused(
        lambda: optimise_policy(base, prompts, lambda *_: [], tmp_path / "m", policy, reward_id="", seed=0)
    )
    assert "Use ddp" in words
    section = {**TRAINING, "batch_size": 4}
    assert "choose a multiple of 3" in refused(lambda: TrainingSection(**section, launch={"processes": 3}))
    assert "use ddp" in refused(
        lambda: PolicyTrainingSection(**section, launch={"processes": 2, "strategy": "fsdp2"})
    )
    assert ON_EVERY_NODE in refused(lambda: command(Launch(8, nodes=2), tmp_path))


def test_one_process_is_the_default_and_leaves_no_trace_in_what_is_recorded() -> None:
    assert "launch" not in TrainingSection(**TRAINING, batch_size=4).model_dump()
    assert "launch" not in SETTINGS["supervised"].determining
    assert "launch" not in replace(SETTINGS["supervised"], launch=Launch()).determining
    by_nodes = replace(SETTINGS["supervised"], launch=Launch(2, nodes=4)).determining
    assert by_nodes["launch"] == {"processes": 8, "strategy": "ddp"}
    assert by_nodes == replace(SETTINGS["supervised"], launch=Launch(8)).determining


def test_fsdp2_starts_from_the_configuration_of_trl(tmp_path: Path) -> None:
    """The file is one that accelerate reads, and its section one of which the trainer makes a plugin of FSDP2."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin
    from trl import SFTConfig

    whole = fsdp2_configuration()
    (tmp_path / "fsdp2.yaml").write_text(yaml.safe_dump(whole))
    read = load_config_from_file(str(tmp_path / "fsdp2.yaml"))
    assert read.fsdp_config == whole["fsdp_config"] and read.distributed_type == "FSDP"
    given = strategy_arguments(Launch(8, strategy="fsdp2"), on_cpu=False)
    arguments = SFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, **given)
    kept = {name: os.environ.get(name) for name in os.environ}
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    os.environ.clear()
    os.environ.update({name: value for name, value in kept.items() if value is not None})
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert str(plugin.state_dict_type).endswith("FULL_STATE_DICT")


def test_the_sections_in_the_docs_fit_one_machine_of_eight_and_several() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## Several processes")[2].partition("\n## ")[0]
    blocks = [
        block.strip("\n") for block in text.split("\n\n") if block.startswith("    ") and "launch:" in block
    ]
    found = [yaml.safe_load(block)["training"] for block in blocks]
    sections = [TrainingSection(**{**TRAINING, **training}).launch for training in found]
    assert sections == [
        LaunchSection(processes=8, strategy="fsdp2"),
        LaunchSection(processes=8, nodes=4, strategy="fsdp2"),
    ]
