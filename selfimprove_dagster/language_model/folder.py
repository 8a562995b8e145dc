"""Where a model lies: a folder of this machine, a GGUF file, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selfimprove_dagster.addresses import folder_at
from selfimprove_dagster.environment import home_folder
from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.store import bring_model
from selfimprove_dagster.language_model.adapters import ADAPTER_CONFIG, Adapter, adapter_in
from selfimprove_dagster.language_model.gguf import dequantised, is_gguf
from selfimprove_dagster.pruned import check_weights

_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


_OTHER_FORMATS = ["original/*", "consolidated*"]
"""The same weights once more, as the model's makers keep them."""


_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


def model_folder(path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """The folder of the model at `path`: that folder, that of a GGUF file (dequantised once into the home's
    folder `models`), that of a trained model by its address in this home (see `selfimprove_dagster.addresses`), or
    that of a hub name `owner/model` or `owner/model@revision`, downloaded first with weights in safetensors alone.

    A hub name without a revision is that of its first download in this home. Raises ModelError where there is no
    such folder, file or name, or the folder has no config.json or no weights, as after they were pruned, or those of
    an adapter whose base is missing.
    """
    folder = Path(path).expanduser()
    if is_gguf(folder) and folder.is_file():
        folder = dequantised(folder.absolute(), home_folder() / "models")
    else:
        trained = Path(folder_at(home_folder(), str(path))).expanduser()
        bring_model(home_folder(), trained)
        if not folder.is_dir():
            folder = trained if trained.is_dir() else _from_hub(str(path), trust_remote_code)
    check_weights(folder)
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(
                f"{folder} is an adapter without config.json and the tokenizer's files: copy them from its base"
            )
        raise ModelError(f"no config.json in {folder}: give a model folder, or a hub name like owner/model")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"no *.safetensors in {folder}: give a model folder saved with safetensors; weights in other "
            "formats are not loaded"
        )
    if (adapter := adapter_in(folder)) is not None:
        base_folder(adapter)
    return folder


def base_folder(adapter: Adapter) -> Path:
    """Return the folder of the model that an adapter belongs to.

    Raises ModelError where it is missing, or an adapter itself.
    """
    named = f"the base {adapter.base}" + (f" ({adapter.base_id})" if adapter.base_id else "")
    remedy = (
        "put that model back there, or write the folder that it has now into base_model_name_or_path of "
        f"{adapter.folder / ADAPTER_CONFIG}"
    )
    try:
        base = model_folder(adapter.base)
    except ModelError as error:
        raise ModelError(
            f"the adapter {adapter.folder} belongs to {named}, which cannot be opened: {error}; {remedy}"
        ) from error
    if adapter_in(base) is not None:
        raise ModelError(
            f"the adapter {adapter.folder} belongs to {named}, which is an adapter itself, and adapters are not "
            "stacked: export the base with --merged and name that folder"
        )
    return base


def lasting_name(folder: Path) -> tuple[str, str | None]:
    """Return how other programs find the model of a folder: its Hub name with the revision, or its path without one."""
    commit = revision_of(folder)
    if commit is None:
        return str(folder.absolute()), None
    return folder.parents[1].name.removeprefix("models--").replace("--", "/", 1), commit


def revision_of(folder: Path) -> str | None:
    """The commit of the hub that a model folder was downloaded from; None for any other folder."""
    commit = folder.name if folder.parent.name == "snapshots" else ""
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None


def _from_hub(path: str, trust_remote_code: bool) -> Path:
    missing = (
        f"no model at {path}: there is no such directory, {{}}; give a directory with config.json, the "
        "tokenizer's files and *.safetensors, a GGUF file, or a hub name like owner/model"
    )
    name = _HUB_NAME.fullmatch(path)
    if name is None or is_gguf(path):
        raise ModelError(missing.format("and this is no name on the Hugging Face hub"))
    from huggingface_hub import snapshot_download

    pins = home_folder() / "models" / "revisions.json"
    revision = name["revision"] or _pinned(pins).get(name["name"])
    patterns = _HUB_FILES + (["*.py"] if trust_remote_code else [])
    try:
        folder = Path(
            snapshot_download(
                name["name"], revision=revision, allow_patterns=patterns, ignore_patterns=_OTHER_FORMATS
            )
        )
    except Exception as error:  # the hub's client has many, from its own to those of the network below
        said = f"and the Hugging Face hub says: {first_line(error)}"
        raise ModelError(missing.format(said)) from error
    if revision is None and (found := revision_of(folder)):
        _pin(pins, name["name"], found)
    return folder


def _pinned(pins: Path) -> dict[str, str]:
    """Hub name → commit of its first download."""
    try:
        return dict(json.loads(pins.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _pin(pins: Path, name: str, revision: str) -> None:
    from filelock import FileLock

    pins.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(pins.with_suffix(".lock")):
        known = {name: revision, **_pinned(pins)}
        fresh = temporary_path(pins)
        fresh.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        fresh.replace(pins)


def positions_of(folder: Path, *, trust_remote_code: bool = False) -> int:
    """Return the maximum sequence length, in tokens, of the model in `folder`; 2**30 if it is not specified.

    Raises ModelError for a configuration that transformers cannot read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"transformers cannot read the configuration in {folder}: {first_line(error)}"
        ) from error
    return most_positions(config)


def most_positions(config: Any) -> int:
    """Return the maximum sequence length in a transformers configuration, whatever its architecture calls it."""
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", None) or 1 << 30)
