"""The identity of a model: a hash over what determines its output.

    weights_hash   what it computes: weights, config.json and tokenizer.json; of an adapter its settings and base, too
    model_id       also how it is asked and where its answers end: chat template, generation settings, the rest of
                   the tokenizer, LoRA adapter; equal to `weights_hash` where there is nothing of that kind

A model folder that was trained before ids covered those settings keeps the id under which lakes know it, its
`weights_hash`; `is_model` knows base models by it too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.adapters import ADAPTER_FILES, Adapter, adapter_in
from selfimprove_dagster.language_model.folder import base_folder
from selfimprove_dagster.language_model.hashing import add_file, file_hash, tagged
from selfimprove_dagster.pruned import check_weights

WEIGHT_PATTERN = "*.safetensors"


DESCRIPTION_FILES = ("config.json", "tokenizer.json")


MORE_CHAT_TEMPLATES = "additional_chat_templates/*.jinja"
"""Pattern of a folder's chat templates besides its default one."""


VOCABULARY_FILES = (
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
)
"""What a tokenizer is made of where there is no tokenizer.json."""


TOKENIZER_SETTINGS = ("add_bos_token", "add_eos_token")
"""Settings of a tokenizer that add tokens to a text."""


NO_OUTPUT = {"_from_model_config", "bos_token_id", "pad_token_id", "transformers_version", "use_cache"}
"""Generation settings that change no output, and whether there are any."""


COVERED = "id_covers"
"""Entry of a trained folder's determinants.json: what its id covers besides the files of `weights_hash`."""


def weights_hash(path: str | Path) -> str:
    """Return `b2:` and the 32 hex digits of the blake2b-16 over the directory's model files.

    It covers, in name order, every `*.safetensors`, and `config.json` and `tokenizer.json` if they exist,
    each with its name and its length in bytes. The directory's own name is not covered, so a copy of a model
    has the same hash. Files are read in pieces of 1 MiB. Raises ModelError if there is no safetensors file, or the base
    of an adapter is missing or changed.
    """
    return tagged(_weights_digest(Path(path)))


def model_id(path: str | Path, adapter: str | Path | None = None) -> str:
    """Return the id under which lakes know the model in a directory, of the form of `weights_hash`.

    `adapter` is the folder of a LoRA adapter that the model is opened with. Raises ModelError like
    `weights_hash`, for settings that are not JSON, and for a folder without an adapter.
    """
    return _ids(Path(path), adapter)[1]


def is_model(path: str | Path, known: str, adapter: str | Path | None = None) -> bool:
    """Return whether a lake knows the model in a directory by this id, of today or of earlier versions.

    An id of earlier versions covers neither settings nor the adapter. Raises ModelError like `model_id`.
    """
    return known in _ids(Path(path), adapter) or (adapter is not None and known == model_id(path))


def output_settings(directory: Path) -> dict[str, Any]:
    """Everything but the files of `weights_hash` that changes what the model in `directory` is asked or answers.

    Empty for a base model that is completed as text and ends where its configuration says. The same settings
    in another file (a chat template of its own, or in tokenizer_config.json) are the same here.
    """
    tokenizer = _read(directory / "tokenizer_config.json")
    found: dict[str, Any] = {
        "chat_template": _chat_templates(directory, tokenizer.get("chat_template")),
        "generation": _generation_settings(directory),
        "tokenizer": {
            name: tokenizer[name] for name in TOKENIZER_SETTINGS if tokenizer.get(name) is not None
        },
    }
    if not (directory / "tokenizer.json").is_file():
        files = [directory / name for name in VOCABULARY_FILES]
        found["vocabulary"] = {file.name: file_hash(file) for file in files if file.is_file()}
    return {name: value for name, value in found.items() if value}


def suggested_sampling(directory: Path) -> dict[str, float]:
    """Return the sampling settings that a model's generation_config.json suggests; stages use the experiment's."""
    settings = _read(directory / "generation_config.json")
    named = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: settings[name] for name in named if settings.get(name) is not None}


def parameters(folder: Path) -> int:
    """Return the number of parameters in a model folder, read from the headers of its safetensors files.

    Those of an adapter are counted with those of its base.
    """
    adapter = adapter_in(folder)
    base = 0 if adapter is None else parameters(base_folder(adapter))
    files = ((file, file.stat().st_mtime_ns) for file in folder.glob(WEIGHT_PATTERN))
    return base + sum(prod(shape) for one in files for shape in _shapes(*one).values())


def weight_bytes(folder: Path) -> int:
    """Return the size of the weights in a model folder on the disk."""
    return sum(file.stat().st_size for file in folder.glob(WEIGHT_PATTERN))


def matrices(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the shapes of the layers in a model folder whose weights are matrices, by the names of the layers."""
    found = {}
    for file in folder.glob(WEIGHT_PATTERN):
        for name, shape in _shapes(file, file.stat().st_mtime_ns).items():
            if name.endswith(".weight") and len(shape) == 2:
                found[name.removesuffix(".weight")] = (shape[0], shape[1])
    return found


@lru_cache(maxsize=256)
def _shapes(file: Path, changed: int) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a file, from its header; `changed` is when the file was."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def _ids(directory: Path, adapter: str | Path | None) -> tuple[str, str]:
    """Return the `weights_hash` and the `model_id` of a directory, whose files are read once."""
    digest = _weights_digest(directory)
    weights = tagged(digest)
    if covered := {} if _has_old_id(directory) else output_settings(directory):
        digest.update(json.dumps(covered, sort_keys=True, ensure_ascii=False).encode())
    if adapter is not None:
        digest.update(f"adapter\0{_adapter_hash(Path(adapter))}".encode())
    return weights, tagged(digest)


def _adapter_hash(folder: Path) -> str:
    files = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()]
    if not any(file.stem == "adapter_model" for file in files):
        raise ModelError(f"no adapter_model.safetensors in {folder}: give the folder of a LoRA adapter")
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        add_file(digest, file)
    return tagged(digest)


def _weights_digest(directory: Path) -> hashlib.blake2b:
    check_weights(directory)
    weights = sorted(directory.glob(WEIGHT_PATTERN)) if directory.is_dir() else []
    if not weights:
        raise ModelError(
            f"no {WEIGHT_PATTERN} in {directory}: give a model directory saved with safetensors "
            "(`model.save_pretrained(directory)`)"
        )
    described = [directory / name for name in DESCRIPTION_FILES if (directory / name).is_file()]
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(weights + described, key=lambda file: file.name):
        add_file(digest, file)
    if (adapter := adapter_in(directory)) is not None:
        digest.update(f"over\0{_base_id(adapter)}\0{adapter.determining}".encode())
    return digest


def _base_id(adapter: Adapter) -> str:
    """Return the id of an adapter's base. Raises ModelError if it is missing, or another one than in training."""
    base = base_folder(adapter)
    if adapter.base_id is None:
        return model_id(base)
    if not is_model(base, adapter.base_id):
        raise ModelError(
            f"the adapter {adapter.folder} was trained over {adapter.base_id}, and its base {base} is now "
            f"{model_id(base)}: put {adapter.base_id} back there, or train the adapter again"
        )
    return adapter.base_id


def _has_old_id(directory: Path) -> bool:
    """Whether the folder was trained before ids covered more than the files of `weights_hash`."""
    determinants = directory / "determinants.json"
    return determinants.is_file() and COVERED not in _read(determinants)


def _chat_templates(directory: Path, configured: Any) -> dict[str, str]:
    """Name → text: of the files, which come before what tokenizer_config.json has `configured`."""
    files = [directory / "chat_template.jinja", *sorted(directory.glob(MORE_CHAT_TEMPLATES))]
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    if "chat_template" in texts:
        texts["default"] = texts.pop("chat_template")
    if texts or not configured:
        return texts
    if isinstance(configured, str):
        return {"default": configured}
    return {one["name"]: one["template"] for one in configured}


def _generation_settings(directory: Path) -> dict[str, Any]:
    """The generation settings that differ from what the model's configuration says."""
    settings, config = _read(directory / "generation_config.json"), _read(directory / "config.json")
    own_ends = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    if _ends(settings.get("eos_token_id")) == _ends(own_ends):
        settings.pop("eos_token_id", None)
    return {
        name: value
        for name, value in settings.items()
        if name not in NO_OUTPUT and value is not None and value is not False
    }


def _ends(named: int | list[int] | None) -> list[int]:
    return [] if named is None else [named] if isinstance(named, int) else sorted(set(named))


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
