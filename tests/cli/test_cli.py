"""The command line on the embedded model: run an iteration, look at it, trace, export, resume, be refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest
from kit.homes import environment_of, make_home
from kit.small_lake import LMSI, SMALL_EXPERIMENT

from selfimprove_dagster import registry
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import recompute_ids
from selfimprove_dagster.quality.suites import checks_of

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]

EXPERIMENT = {**SMALL_EXPERIMENT, "budget": {"iterations": 1}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("cli"), EXPERIMENT)


@pytest.fixture(scope="module")
def selfimprove(home: Home) -> Command:
    """Runs the installed command in a process of its own."""
    program = Path(sys.executable).parent / "selfimprove"

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *arguments],
            env={**os.environ, **environment_of(home)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def finished(home: Home, selfimprove: Command) -> str:
    """What `run` printed for one whole iteration."""
    return selfimprove("run", "small").stdout


def test_run_ends_with_the_table_and_the_reason_to_stop(finished: str) -> None:
    assert "iteration budget spent: 1 of 1 iterations are done" in finished
    assert "24" in finished and "192" in finished
    assert "Differences of the preset from the paper" in finished
    assert "transformers: each row has its own seed" in finished
    assert "champion: " in finished


def test_every_stage_is_committed_and_every_id_can_be_recomputed(home: Home, finished: str) -> None:
    committed = {manifest.table for manifest in home.lake.manifests(experiment="small")}
    assert set(LMSI) <= committed
    for manifest in home.lake.manifests(experiment="small"):
        rows = home.lake.read_ungated(manifest)
        again = recompute_ids(registry.tables()[manifest.table], rows)
        assert rows["id"].to_list() == again["id"].to_list()
        assert rows["content_hash"].to_list() == again["content_hash"].to_list()


def test_every_check_left_its_outcome(home: Home, finished: str) -> None:
    for table in LMSI:
        checks = checks_of(registry.table(table))
        (manifest,) = home.lake.manifests(table, "small")
        assert {check.name for check in home.lake.checks(manifest)} == {check.name for check in checks}


def test_catalog_opens_with_plain_duckdb(home: Home, finished: str) -> None:
    with duckdb.connect(str(home.root / "lake" / "catalog.duckdb"), read_only=True) as connection:
        paths, votes = connection.execute(
            "SELECT (SELECT count(*) FROM lmsi.raw_generations), (SELECT count(*) FROM lmsi.voted_answers)"
        ).fetchone() or (0, 0)
    assert (paths, votes) == (192, 24)


def test_trace_leads_from_an_example_to_file_and_line(
    home: Home, selfimprove: Command, finished: str
) -> None:
    (manifest,) = home.lake.manifests("lmsi/filtered_dataset", "small")
    example = home.lake.read_ungated(manifest).row(0, named=True)
    tree = selfimprove("lineage", "trace", example["id"][:20]).stdout
    assert "seeds.jsonl, line" in tree
    assert "transformers" in tree and "T=0.8" in tree
    data = json.loads(selfimprove("lineage", "trace", example["id"], "--json").stdout)
    (vote,) = [parent for parent in data["parents"] if parent["role"] == "voted_answer"]
    assert sum(parent["role"] == "voted_from" for parent in vote["parents"]) == 8
    (question,) = [parent for parent in vote["parents"] if parent["role"] == "question"]
    assert question["columns"]["question"] == example["question"]
    assert question["parents"][0]["table"] == "seeds/accepted"


def test_export_keeps_ids_and_describes_itself(selfimprove: Command, finished: str, tmp_path: Path) -> None:
    selfimprove("export", "small", str(tmp_path / "out"))
    rows = pl.read_parquet(tmp_path / "out" / "data" / "train.parquet")
    assert rows["id"].str.starts_with("ex:").all()
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    refused = selfimprove("export", "small", str(tmp_path / "out"), code=1)
    assert "exists already" in refused.stderr


@pytest.mark.rotates
def test_evaluate_measures_the_champion(selfimprove: Command, finished: str) -> None:
    printed = selfimprove("evaluate", "small").stdout
    assert "greedy" in printed and "majority" in printed


def test_bad_seed_lines_are_named(selfimprove: Command, finished: str, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(b'{"question": "How many?"}\n{broken\n{"question": ""}\n{"question": "\xff"}\n')
    printed = selfimprove("seeds", "import", "small", str(file)).stdout
    assert "1 seeds imported, 3 lines rejected" in printed
    assert all(f"mixed.jsonl, line {line}" in printed for line in (2, 3, 4))


def test_errors_are_one_line(selfimprove: Command, home: Home) -> None:
    assert "there is no experiment 'nothing'" in selfimprove("status", "nothing", code=1).stderr
    (home.experiments / "wrong.yaml").write_text("name: wrong\nsampling: {pathz: 3}\n")
    refused = selfimprove("status", "wrong", code=1).stderr
    assert "sampling.pathz" in refused and "paths" in refused and "Traceback" not in refused


@pytest.mark.rotates
def test_a_killed_run_goes_on_to_the_same_ids(home: Home, finished: str, tmp_path: Path) -> None:
    other = make_home(tmp_path, EXPERIMENT)
    program = str(Path(sys.executable).parent / "selfimprove")
    process = subprocess.Popen(
        [program, "run", "small"],
        env={**os.environ, **environment_of(other)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    shards = other.root / "lake" / "lmsi" / "raw_generations"
    while not list(shards.glob("*/*/part-*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not other.lake.exists("lmsi/promotion", {"experiment": "small", "iteration": "000"})

    done = subprocess.run(
        [program, "run", "small"],
        env={**os.environ, **environment_of(other)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for table in LMSI:
        (undisturbed,), (resumed,) = home.lake.manifests(table, "small"), other.lake.manifests(table, "small")
        ids = [
            lake.read_ungated(m)["id"].to_list()
            for lake, m in ((home.lake, undisturbed), (other.lake, resumed))
        ]
        assert ids[0] == ids[1], table


@pytest.mark.rotates
def test_a_model_writes_with_tools(selfimprove: Command) -> None:
    question = "Q: Tom has 14 pens. He buys 9 more. How many pens does he have?\nA: Let's think step by step."
    said = selfimprove("generate", question, "--tools", "Calculator", "--max-tokens", "40").stdout
    assert said.replace("\n", "").startswith("Q: Tom has 14 pens. He buys 9 more.")
    assert "The answer is" in said.replace("\n", " ")
    refused = selfimprove("generate", question, "--tools", "Sorcery", code=1).stderr
    assert "'Sorcery' is none of Calculator, Calendar, WikiSearch, QA, MT" in refused.replace("\n", " ")


@pytest.mark.rotates
def test_a_model_refines_its_answers(selfimprove: Command, tmp_path: Path) -> None:
    prompts, out = (
        ["Ruben ate my pie. What do you call Ruben?", "The film is at four. When is the film?"],
        tmp_path / "steps.jsonl",
    )
    said = selfimprove(
        "generate", *prompts, "--improve", "self-refine", "--rounds", "2", "--out", str(out)
    ).stdout
    assert "1 feedback:" in said and said.count("stopped after") == 2
    steps = [json.loads(line) for line in out.read_text().splitlines()]
    assert {step["task"] for step in steps} == {*prompts}
    assert [step["kind"] for step in steps].count("outcome") == 2
    assert all(
        step["text"] in said.replace("\n", " ") or len(step["text"]) > 60 for step in steps if step["text"]
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--improve", "pit", "--tools", "Calculator"], "--improve refines answers without tools"),
        (["--improve", "wish"], "--improve 'wish' is unknown: use one of self-refine, reflexion, pit"),
        (["--out", "steps.jsonl"], "--out records the steps of --improve"),
        (
            ["--improve", "pit", "--out", "/no/such/folder/steps.jsonl"],
            "No such file or directory; name another",
        ),
    ],
)
def test_what_cannot_be_refined_is_refused(selfimprove: Command, options: list[str], reason: str) -> None:
    refused = selfimprove("generate", "What is it?", *options, code=1).stderr
    assert reason in refused.replace("\n", " ")
