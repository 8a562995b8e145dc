"""Iterations whose champions are adapters: what starts from them, and every command that meets one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from kit.adapters import logits
from kit.homes import entered, make_home
from kit.small_lake import SMALL_EXPERIMENT
from typer.testing import CliRunner

from selfimprove_dagster import embedded
from selfimprove_dagster.checkpoints.pruning import prune, trained_models
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.adapters import adapter_in
from selfimprove_dagster.language_model.folder import base_folder
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.lineage.replay import replay_sample
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.pruned import pruned
from selfimprove_dagster.runs import run_iteration

pytestmark = [pytest.mark.train, pytest.mark.slow]

ADAPTER = {"rank": 8, "alpha": 16, "dropout": 0.05}
GOES_ON: dict[str, Any] = {
    **SMALL_EXPERIMENT,
    "name": "goes_on",
    "training": {"steps": 6, "batch_size": 8, "learning_rate": 2e-3, "adapter": ADAPTER},
}
MERGES: dict[str, Any] = {
    **GOES_ON,
    "name": "merges",
    "training": {**GOES_ON["training"], "adapter": {**ADAPTER, "start": "merge"}},
}
ITERATIONS = {"goes_on": 2, "merges": 3}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two iterations that go on with one adapter, and three that merge it, over a copy of the embedded model."""
    folder = tmp_path_factory.mktemp("adapters")
    base = shutil.copytree(embedded.BASE_MODEL, folder / "base")
    home = make_home(folder, *({**one, "model": {"path": str(base)}} for one in (GOES_ON, MERGES)))
    with entered(home):
        for name, iterations in ITERATIONS.items():
            for iteration in range(iterations):
                assert run_iteration(home, home.experiment(name), iteration) == []
    return home


@pytest.fixture
def spoilt(built: Home, tmp_path: Path) -> Iterator[Home]:
    """The same, which a test may spoil: paths are recorded in it, so that it is put back rather than copied."""
    folder = built.root.parent
    shutil.copytree(folder, tmp_path / "kept")
    yield built
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def base_of(home: Home) -> Path:
    return home.root.parent / "base"


def trained(home: Home, name: str, iteration: int) -> dict[str, Any]:
    """The row of a checkpoint, with its folder for its address."""
    manifest = home.lake.manifest("lmsi/fine_tuned_checkpoint", partition_of(name, iteration))
    row = home.lake.read_ungated(manifest).row(0, named=True)
    return {**row, "path": home.lake.folder_at(row["path"])}


def ask(home: Home, *arguments: str) -> Result:
    with entered(home):
        return CliRunner().invoke(app, [*arguments])


def said(home: Home, *arguments: str) -> str:
    found = ask(home, *arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def test_the_next_iteration_goes_on_with_the_adapter(built: Home) -> None:
    first, second = (trained(built, "goes_on", iteration) for iteration in (0, 1))
    base = model_id(base_of(built))
    assert (first["base_model_id"], second["base_model_id"]) == (base, first["model_id"])
    for row in (first, second):
        found = adapter_in(row["path"])
        assert found is not None and found.base_id == base
        assert model_id(row["path"]) == row["model_id"]
        assert found.config["base_model_name_or_path"] == str(base_of(built))
    assert sum(file.stat().st_size for file in Path(second["path"]).glob("*.safetensors")) < 1_000_000


def test_a_champion_generates_and_is_examined_with_its_adapter(built: Home) -> None:
    first, second = (trained(built, "goes_on", iteration) for iteration in (0, 1))
    paths = built.lake.manifest("lmsi/raw_generations", partition_of("goes_on", 1))
    assert paths.activity.model_id == first["model_id"]
    answers = built.lake.read(*_table(built, "lmsi/evaluation", "goes_on", 1))
    roles = dict(answers.select("role", "model_id").unique().iter_rows())
    assert roles["champion"] == first["model_id"]
    assert roles["challenger"] == second["model_id"]
    assert roles["base"] == model_id(base_of(built))


def _table(home: Home, table: str, name: str, iteration: int) -> tuple[str, dict[str, str]]:
    manifest = home.lake.manifest(table, partition_of(name, iteration))
    return manifest.table, dict(manifest.partition)


def test_paths_of_a_champion_are_drawn_again(built: Home) -> None:
    with entered(built):
        again = replay_sample(built, "goes_on-001", 12)
    assert (again.agreement.correct, again.agreement.total) == (12, 12)


def test_iterations_that_merge_train_each_a_new_adapter(built: Home) -> None:
    rows = [trained(built, "merges", iteration) for iteration in range(3)]
    bases = [Path(adapter.base) for row in rows if (adapter := adapter_in(row["path"])) is not None]
    merged = [Path(f"{row['path']}.merged-float32") for row in rows[:2]]
    assert bases == [base_of(built), *merged]
    assert [row["base_model_id"] for row in rows[1:]] == [row["model_id"] for row in rows[:2]]
    champion = champion_before(built.lake, built.experiment("merges"), NEWEST)
    assert champion.path == rows[2]["path"]


def test_an_adapter_is_exported_as_peft_opens_it_and_merged(built: Home, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ITERATIONS:
        exported = ("export", name, "--format", "checkpoint")
        said(built, *exported, str(tmp_path / f"{name}-adapter"))
        said(built, *exported, "--merged", str(tmp_path / f"{name}-merged"))
        theirs = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / f"{name}-adapter")).eval()
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-merged")
        plain = AutoModelForCausalLM.from_pretrained(base_of(built))
        ids = AutoTokenizer.from_pretrained(tmp_path / f"{name}-merged")("Tom has 12 pens. He buys 3.")[
            "input_ids"
        ]
        assert (logits(theirs, ids) - logits(whole, ids)).abs().max() < 1e-4
        assert (logits(plain, ids) - logits(whole, ids)).abs().max() > 1e-2
        cards = [(tmp_path / f"{name}-{kind}" / "README.md").read_text() for kind in ("adapter", "merged")]
        libraries = [yaml.safe_load(card.split("---\n", 2)[1])["library_name"] for card in cards]
        assert libraries == ["peft", "transformers"]
        assert not (tmp_path / f"{name}-merged" / "adapter_config.json").exists()


def test_an_adapter_over_a_model_of_this_machine_is_pushed_merged_alone(built: Home) -> None:
    pushed = ("export", "goes_on", "--format", "checkpoint", "--push", "ada/adder", "--dry-run")
    refused = ask(built, *pushed)
    assert "push the whole model with --merged" in str(refused.exception)
    shown = said(built, *pushed, "--merged")
    assert "model.safetensors" in shown and "adapter_config.json" not in shown
    assert "--merged belongs to" in ask(built, "export", "goes_on", "--merged", "out").output


def test_the_command_generate_opens_a_champion(built: Home) -> None:
    folder = trained(built, "goes_on", 1)["path"]
    assert said(built, "generate", "Q: Tom has 12 pens.\nA:", "--model", folder, "--max-tokens", "8").strip()


def test_a_changed_base_is_found_by_verify_and_by_the_next_iteration(spoilt: Home, tmp_path: Path) -> None:
    home = spoilt
    assert verify(home.lake).findings == []
    config = json.loads((base_of(home) / "config.json").read_text())
    before = model_id(base_of(home))
    (base_of(home) / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    findings = verify(home.lake, "goes_on").findings
    assert len(findings) == 2
    for finding in findings:
        assert before in finding.problem and model_id(base_of(home)) in finding.problem
    shutil.rmtree(base_of(home))
    refused = ask(home, "export", "goes_on", "--format", "checkpoint", str(tmp_path / "out"))
    assert "cannot be opened" in str(refused.exception) and before in str(refused.exception)


def test_a_moved_home_has_the_bases_of_its_adapters(spoilt: Home) -> None:
    moved = replace(spoilt, root=spoilt.root.rename(spoilt.root.with_name("moved")))
    with entered(moved):
        assert verify(moved.lake).findings == []
        folder = Path(trained(moved, "merges", 2)["path"])
        adapter = adapter_in(folder)
        assert adapter is not None and not Path(adapter.base).exists()
        assert moved.root in folder.parents and moved.root in base_folder(adapter).parents


def test_pruning_keeps_the_bases_of_the_adapters_that_stay(spoilt: Home, tmp_path: Path) -> None:
    home = spoilt
    rows = [trained(home, "merges", iteration) for iteration in range(3)]
    merged = [Path(f"{row['path']}.merged-float32") for row in rows[:2]]
    assert not prune(home, "merges").models  # all were promoted
    assert all(one.is_dir() for one in merged)
    assert said(home, "checkpoints", "list", "merges").count("merged") >= 2
    file = home.experiments / "merges.yaml"
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**settings, "checkpoints": {"keep": 1}}))
    done = prune(home, "merges")
    assert [one.iteration for one in done.models] == [0, 1]
    assert [one.is_dir() for one in merged] == [False, True]
    assert model_id(rows[2]["path"]) == rows[2]["model_id"]
    assert pruned(rows[0]["path"]) is not None
    rebuilt = ask(home, "checkpoints", "rebuild", "merges", "--iteration", "0")
    assert rebuilt.exit_code == 0, rebuilt.output
    assert model_id(rows[0]["path"]) == rows[0]["model_id"]
    assert "pruned" in said(home, "checkpoints", "list", "merges")


@pytest.mark.parametrize("name", ITERATIONS)
def test_a_purged_example_fells_the_adapters_that_learnt_from_it(spoilt: Home, name: str) -> None:
    """Those that went on from one too, whether it was continued or merged into the base of the next."""
    home = spoilt
    table, partition = _table(home, "lmsi/filtered_dataset", name, 0)
    row = home.lake.read(table, partition).row(0, named=True)
    output = said(home, "lineage", "revoke", "--record", row["id"], "--why", "asked", "--yes", "--purge")
    assert "1 of lmsi/filtered_dataset" in output and "weights of tainted checkpoints" in output
    assert row["id"] not in home.lake.read_whole(home.lake.manifest(table, partition))["id"]
    ids = {trained(home, name, iteration)["model_id"] for iteration in range(ITERATIONS[name])}
    assert ids <= {*tainted_models(home.lake, name)}
    assert champion_before(home.lake, home.experiment(name), NEWEST).path == str(base_of(home))
    assert len(trained_models(home.lake, home.experiment(name))) == ITERATIONS[name]
    assert not verify(home.lake).findings
