"""A folder with an adapter is a model: its id covers the base, and every engine opens both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.adapters import logits, make_adapter
from kit.training import make_base

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.experiment.opening import identity_of, opening_options
from selfimprove_dagster.experiment.sections import ModelSection, VllmSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.adapters import adapter_in, vllm_rank
from selfimprove_dagster.language_model.folder import lasting_name, model_folder, positions_of
from selfimprove_dagster.language_model.vllm_engine import with_adapter
from selfimprove_dagster.language_model.vllm_server import flags, lora_flags
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.readiness.machine import parameters

TOKENS = [1, 40, 41, 42, 43]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_adapter(make_base(folder / "base"), folder / "adapter")
    return folder


@pytest.fixture
def adapter(shared: Path, tmp_path: Path) -> Path:
    """An adapter and its base, which a test may spoil."""
    shutil.copytree(shared, tmp_path, dirs_exist_ok=True)
    changed(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    return tmp_path / "adapter"


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# ---- its id ------------------------------------------------------------------------------------------


def test_an_id_covers_adapter_and_base_and_no_place(adapter: Path, tmp_path: Path) -> None:
    known = model_id(adapter)
    assert known != model_id(tmp_path / "base")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "base", elsewhere / "model")
    shutil.copytree(adapter, elsewhere / "copy")
    changed(elsewhere / "copy" / "adapter_config.json", base_model_name_or_path=str(elsewhere / "model"))
    shutil.rmtree(tmp_path / "base")
    assert model_id(elsewhere / "copy") == known


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("lora_alpha", 9, False),
        ("use_rslora", True, False),
        ("lora_dropout", 0.5, True),
        ("peft_version", "1", True),
    ],
)
def test_an_id_covers_the_settings_that_change_the_output(
    adapter: Path, name: str, value: Any, same: bool
) -> None:
    known = model_id(adapter)
    changed(adapter / "adapter_config.json", **{name: value})
    assert (model_id(adapter) == known) is same


def test_the_order_of_its_targets_is_no_part_of_the_id(adapter: Path) -> None:
    known = model_id(adapter)
    changed(adapter / "adapter_config.json", target_modules=["down_proj", "q_proj"])
    turned = model_id(adapter)
    changed(adapter / "adapter_config.json", target_modules=["q_proj", "down_proj"])
    assert model_id(adapter) == turned == known


def test_an_adapter_of_others_has_the_id_of_whatever_base_is_there(adapter: Path, tmp_path: Path) -> None:
    recorded = model_id(adapter)
    (adapter / "determinants.json").unlink()
    assert model_id(adapter) == recorded
    make_base(tmp_path / "base", tied=False)
    assert model_id(adapter) != recorded


def test_a_base_that_changed_is_an_error_that_names_both(adapter: Path, tmp_path: Path) -> None:
    before = model_id(tmp_path / "base")
    make_base(tmp_path / "base", tied=False)
    with pytest.raises(ModelError) as error:
        model_id(adapter)
    said = str(error.value)
    assert before in said and model_id(tmp_path / "base") in said
    assert str(adapter) in said and "put" in said
    with pytest.raises(ModelError, match="is now"):
        open_language_model(adapter)


def test_a_base_that_is_missing_is_an_error_that_names_both(adapter: Path, tmp_path: Path) -> None:
    before = model_id(tmp_path / "base")
    shutil.rmtree(tmp_path / "base")
    for look in (model_folder, model_id, open_language_model):
        with pytest.raises(ModelError) as error:
            look(adapter)
        said = str(error.value)
        assert str(adapter) in said and str(tmp_path / "base") in said and before in said
        assert "base_model_name_or_path" in said


def test_adapters_are_not_stacked(adapter: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(adapter, tmp_path / "second"))
    changed(second / "adapter_config.json", base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="not stacked: export the base with --merged"):
        model_folder(second)


@pytest.mark.parametrize("text", ["{", '{"r": 8}'])
def test_settings_that_name_no_base_are_an_error(adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        model_folder(adapter)


def test_a_bare_adapter_is_told_what_it_lacks(adapter: Path) -> None:
    (adapter / "config.json").unlink()
    with pytest.raises(ModelError, match="copy them from its base"):
        model_folder(adapter)


def test_a_folder_of_the_hub_is_named_as_others_find_it(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    folder = tmp_path / "models--ada--my--model" / "snapshots" / commit
    assert lasting_name(folder) == ("ada/my--model", commit)
    assert lasting_name(tmp_path) == (str(tmp_path), None)


def test_the_revision_of_its_base_is_asked_for(adapter: Path) -> None:
    changed(adapter / "adapter_config.json", base_model_name_or_path="ada/model", revision="abc")
    found = adapter_in(adapter)
    assert found is not None and found.base == "ada/model@abc"


# ---- what engines open -------------------------------------------------------------------------------


def test_the_engine_computes_what_peft_does(adapter: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    opened = open_language_model(adapter, device="cpu")
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(adapter)).eval()
    expected = logits(theirs, TOKENS).log_softmax(-1)
    found = opened.score([TOKENS[:1]], [TOKENS[1:]])[0]
    for place, (token, value) in enumerate(zip(TOKENS[1:], found, strict=True)):
        assert value == pytest.approx(expected[place, token].item(), abs=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert (logits(plain, TOKENS) - logits(theirs, TOKENS)).abs().max() > 0.01
    assert opened.model_id == model_id(adapter)
    assert positions_of(adapter) == positions_of(tmp_path / "base")
    assert parameters(adapter) > parameters(tmp_path / "base")


def test_an_adapter_is_not_merged_into_weights_that_are_stored_quantised(
    adapter: Path, tmp_path: Path
) -> None:
    changed(tmp_path / "base" / "config.json", quantization_config={"quant_method": "gptq"})
    (adapter / "determinants.json").unlink()
    with pytest.raises(ModelError, match=r"stored quantised \(gptq\)"):
        open_language_model(adapter, device="cpu")


def test_vllm_loads_the_base_and_lays_the_adapter_over_it(adapter: Path, tmp_path: Path) -> None:
    assert with_adapter(adapter, None) == (tmp_path / "base", str(adapter))
    assert with_adapter(tmp_path / "base", None) == (tmp_path / "base", None)
    assert with_adapter(tmp_path / "base", "mine") == (tmp_path / "base", "mine")
    with pytest.raises(ModelError, match=r"leave out model\.vllm\.lora"):
        with_adapter(adapter, "mine")


def test_the_users_adapter_is_not_laid_over_a_champion(adapter: Path, tmp_path: Path) -> None:
    section = ModelSection(
        path=str(tmp_path / "base"), engine="vllm", vllm=VllmSection(lora=str(tmp_path / "mine"))
    )
    assert opening_options(section, adapter)["lora"] is None
    assert identity_of(section, adapter) == model_id(adapter)


@pytest.mark.parametrize(("rank", "most"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (512, 512)])
def test_a_server_takes_the_adapters_rank(adapter: Path, rank: int, most: int) -> None:
    changed(adapter / "adapter_config.json", r=rank)
    assert vllm_rank(adapter) == most
    assert flags(lora_flags(str(adapter))) == [
        "--enable-lora",
        "--max-lora-rank",
        str(most),
        "--lora-target-modules",
        "down_proj",
        "q_proj",
        "--lora-modules",
        f"adapter={adapter}",
    ]
    assert lora_flags(None) == {}


def test_a_rank_that_vllm_does_not_take_is_an_error(adapter: Path) -> None:
    changed(adapter / "adapter_config.json", r=8, rank_pattern={"q_proj": 600})
    with pytest.raises(ModelError, match="rank 600, and vLLM takes at most 512"):
        vllm_rank(adapter)
