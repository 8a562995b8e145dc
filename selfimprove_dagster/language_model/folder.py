"""Locate a model: a local folder, or a name on the Hugging Face Hub, which is downloaded into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError, first_line

_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def model_folder(path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """Return the folder of the model at `path`.

    A Hub name `owner/model` is downloaded first, with weights in safetensors only.

    Raises ModelError if there is no such folder or name, or the folder has no config.json or no weights.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _from_hub(path, folder, trust_remote_code)
    if not (folder / "config.json").is_file():
        raise ModelError(f"no config.json in {folder}: give a model folder, or a hub name like owner/model")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"no *.safetensors in {folder}: give a model folder saved with safetensors; weights in other "
            "formats are not loaded"
        )
    return folder


def _from_hub(path: str | Path, folder: Path, trust_remote_code: bool) -> Path:
    missing = (
        f"no model at {path}: there is no such directory, {{}}; give a directory with config.json, the "
        "tokenizer's files and *.safetensors, or a hub name like owner/model"
    )
    if folder.is_absolute() or len(folder.parts) != 2:
        raise ModelError(missing.format("and this is no name on the Hugging Face hub"))
    from huggingface_hub import snapshot_download

    patterns = _HUB_FILES + (["*.py"] if trust_remote_code else [])
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns))
    except Exception as error:  # the Hub's client raises many types, including those of the network libraries
        said = f"and the Hugging Face hub says: {first_line(error)}"
        raise ModelError(missing.format(said)) from error


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
