"""Models in GGUF, the file format of llama.cpp: dequantised to a folder, which is then used like any other."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.hashing import file_hash
from selfimprove_dagster.language_model.quiet import quietly

ORIGIN = "gguf.json"
"""File of a dequantised folder: name, checksum and quantisation of the GGUF file that it was made from."""


def is_gguf(path: str | Path) -> bool:
    """Whether the path names a GGUF file."""
    return Path(path).suffix.lower() == ".gguf"


def quantisation(file: Path) -> str:
    """How most weights of a GGUF file are stored, such as `Q4_1`. Raises ModelError for another format."""
    from gguf import GGUFReader, LlamaFileType

    try:
        field = GGUFReader(file).get_field("general.file_type")
        kind = LlamaFileType(int(field.contents())) if field is not None else LlamaFileType.ALL_F32
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{file} is not a GGUF file that can be read: {first_line(error)}") from error
    return kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")


def dequantised(file: Path, models: Path) -> Path:
    """The folder below `models` that holds the model of a GGUF file; made on the first call.

    Its name is the file's checksum, so that a moved file is not dequantised again, and a changed one is.
    """
    from filelock import FileLock

    checksum = _checksum(file, *_state(file))
    folder = models / f"{file.stem}-{checksum.removeprefix('b2:')[:16]}"
    if folder.is_dir():
        return folder
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            dequantise(file, folder, checksum)
    return folder


def _state(file: Path) -> tuple[int, int]:
    """Size and time of change of a file: while they stay, its checksum is not computed again."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@cache
def _checksum(file: Path, size: int, changed: int) -> str:
    return file_hash(file)


def dequantise(file: Path, folder: Path, checksum: str | None = None) -> str:
    """Write the model of a GGUF file to `folder`: float32 safetensors, tokenizer and chat template.

    Returns the quantisation that the file had. `folder` appears whole or not at all. Raises ModelError for a
    file that transformers cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stored = quantisation(file)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(**place)
            model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"transformers cannot read {file}: {first_line(error)}") from error
    # The weights are plain numbers by now: a folder that calls itself quantised would not be loaded.
    model.hf_quantizer = None
    model.__dict__.pop("is_quantized", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with quietly():
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    origin = {"file": file.name, "checksum": checksum or file_hash(file), "quantisation": stored}
    (partial / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)
    return stored
