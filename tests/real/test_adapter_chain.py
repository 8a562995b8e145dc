"""LoRA on a chat model that people use: two methods of a chain train one adapter, which is examined and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit.adapters import logits
from kit.homes import entered, make_home
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.adapters import adapter_in
from selfimprove_dagster.language_model.weights import model_id

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "build" / "models" / "smollm2-135m-instruct"

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="no real model here: make real-model"),
]

ADAPTER = {"rank": 8, "alpha": 16, "dropout": 0.05}
ANYTHING = {"rule": "not_worse", "margin": 1.0}
CHAIN: dict[str, Any] = {
    "name": "adapters",
    "methods": ["lmsi", "curate"],
    "model": {"path": str(MODEL), "device": "cpu"},
    "budget": {"iterations": 1},
    "promotion": ANYTHING,
    "lmsi": {
        "seeds": {"file": "embedded"},
        "demonstrations": {
            "file": str(ROOT / "selfimprove_dagster/embedded/pools/word_problems.jsonl"),
            "count": 2,
        },
        "evaluation": {"file": "embedded", "rows": ":4", "majority_questions": 0},
        "sampling": {"questions": 4, "paths": 3, "max_tokens": 48, "prompt_format": "few_shot_cot"},
        "filter": {"minimum_vote_share": 0.0, "minimum_winning_votes": 1, "drop_ties": False},
        "training": {
            "steps": 4,
            "batch_size": 2,
            "max_length": 256,
            "learning_rate": 5e-4,
            "schedule": "constant",
            "adapter": ADAPTER,
        },
    },
    "curate": {
        "seeds": {"file": "embedded", "rows": "0:6", "licence": "Apache-2.0"},
        "pool": {"examples": 6},
        "generation": {"samples": 2, "questions": "all", "temperature": 0.7, "max_tokens": 24},
        "filters": [{"perplexity": {"at_most": 4000.0}}],
        "evaluation": {
            "file": "embedded",
            "rows": "0:4",
            "max_tokens": 12,
            "measure": "rouge_l",
            "licence": "Apache-2.0",
        },
        "training": {
            "steps": 4,
            "batch_size": 2,
            "max_length": 192,
            "learning_rate": 5e-4,
            "adapter": ADAPTER,
        },
    },
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One iteration of both methods."""
    home = make_home(tmp_path_factory.mktemp("real"), CHAIN)
    with entered(home):
        done = CliRunner().invoke(app, ["run", "adapters"])
    assert done.exit_code == 0, (done.output[-3000:], done.exception)
    return home


def trained(home: Home, method: str) -> dict[str, Any]:
    """The row of a checkpoint, with its folder for its address."""
    manifest = home.lake.manifest(f"{method}/fine_tuned_checkpoint", partition_of("adapters", 0))
    row = home.lake.read_ungated(manifest).row(0, named=True)
    return {**row, "path": home.lake.folder_at(row["path"])}


def test_two_methods_train_one_adapter(ran: Home) -> None:
    first, second = (trained(ran, method) for method in ("lmsi", "curate"))
    base = model_id(MODEL)
    assert (first["base_model_id"], second["base_model_id"]) == (base, first["model_id"])
    for row in (first, second):
        found = adapter_in(row["path"])
        assert found is not None and found.base_id == base
        assert model_id(row["path"]) == row["model_id"]
        assert sum(file.stat().st_size for file in Path(row["path"]).glob("*.safetensors")) < 20_000_000
    table = ran.lake.manifest("curate/evaluation", partition_of("adapters", 0))
    answers = ran.lake.read(table.table, table.partition)
    roles = dict(answers.select("role", "model_id").unique().iter_rows())
    assert roles == {"champion": first["model_id"], "challenger": second["model_id"], "base": base}


def test_the_champion_is_exported_merged(ran: Home, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = ("export", "adapters.curate", "--format", "checkpoint")
    with entered(ran):
        for options in ((str(tmp_path / "adapter"),), (str(tmp_path / "merged"), "--merged")):
            done = CliRunner().invoke(app, [*exported, *options])
            assert done.exit_code == 0, (done.output, done.exception)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name a colour."}], add_generation_prompt=True
    )
    ids = ids["input_ids"] if not isinstance(ids, list) else ids
    # In float64, since a forward pass in float32 is itself off by 8e-5 at logits of up to 38.
    theirs = logits(AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval().double(), ids)
    whole = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").double(), ids)
    plain = logits(AutoModelForCausalLM.from_pretrained(MODEL).double(), ids)
    assert (theirs - whole).abs().max() < 1e-4
    assert (plain - whole).abs().max() > 1e-3
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"
