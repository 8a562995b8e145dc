"""Every shipped method end to end on a chat model that people use, which `make real-model` fetches.

The model's weights are dequantised from Q4_1. The experiments are as small as they can be, so that their figures mean
nothing: they show that conversations, stages, training and exams work on a model of that kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from kit.sampling import chosen_methods
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Message, merged, messages_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.pruned import pruned

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "build" / "models" / "smollm2-135m-instruct"
EXPERIMENTS = ROOT / "selfimprove_dagster" / "experiments" / "real"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="no real model here: make real-model"),
]


def test_every_method_has_an_experiment() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} == {*registry.methods()}


# All of them take longer than the twelve minutes of these tests.
@pytest.mark.matrix
@pytest.mark.parametrize(
    "name", chosen_methods(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")), rotating=9)
)
def test_an_iteration_runs_to_its_end(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    surroundings = {
        "SELFIMPROVE_REAL_MODEL": str(MODEL),
        "SELFIMPROVE_HOME": str(home),
        "SELFIMPROVE_EXPERIMENTS": str(EXPERIMENTS),
        "DAGSTER_HOME": str(home / "dagster"),
    }
    command = [sys.executable, "-m", "selfimprove_dagster.cli", "run", name]
    done = subprocess.run(
        command, env={**os.environ, **surroundings}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in surroundings.items():
            patch.setenv(variable, value)
        _has_read_conversations_and_trained(Home.from_environment(), name)


def _has_read_conversations_and_trained(home: Home, name: str) -> None:
    method = registry.method(name)
    manifests = {one.table: one for one in home.lake.manifests(f"{name}/*", name)}
    assert {table.name for table in method.tables.values() if table.is_asset} <= {*manifests}
    drawn = [one for one in manifests.values() if registry.is_drawn(one.table) and one.rows]
    assert drawn or not any(table.draw for table in method.tables.values())
    for manifest in drawn:
        rows = home.lake.read_whole(manifest).drop_nulls("seed")
        asked = manifest.activity.parameters["prompting"]
        assert asked["chat"] is True
        for row in rows.head(3).iter_rows(named=True):
            _is_rendered_once(row["prompt"], row["prompt_token_ids"], asked.get("system", ""))
        ended = rows.filter(pl.col("finish_reason") == "stop")
        assert ended["text"].str.contains("<|im_", literal=True).sum() == 0, manifest.table
    trained = [
        Path(home.lake.folder_at(row["path"]))
        for table in method.tables.values()
        if table.holds_model and "reward" not in table.stage
        for row in home.lake.read_whole(manifests[table.name]).iter_rows(named=True)
    ]
    kept = [folder for folder in trained if pruned(folder) is None]
    assert kept or not trained  # models from the middle of an iteration are pruned after it
    for folder in kept:
        _answers(folder)


def _is_rendered_once(prompt: str, ids: list[int], system: str) -> None:
    """The stored tokens are those of the model's own template, up to where the assistant goes on."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    first = [Message("system", system)] if system else []
    *messages, last = [one._asdict() for one in merged([*first, *messages_of(prompt)])]
    begun = last["content"] if last["role"] == "assistant" else ""
    if not begun:
        messages.append(last)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(ids) == expected + begun


def _answers(folder: Path) -> None:
    """Plain transformers loads what was trained, and its chat template is that of the base."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(MODEL).chat_template
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name a colour."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        drawn = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert drawn.shape[1] > asked["input_ids"].shape[1]
    assert json.loads((folder / "determinants.json").read_text())
