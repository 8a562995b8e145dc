"""Compute the identity of a model: a hash over the files that determine its outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from selfimprove_dagster.errors import ModelError

CHUNK_BYTES = 1 << 20


WEIGHT_PATTERN = "*.safetensors"


DESCRIPTION_FILES = ("config.json", "tokenizer.json")


def weights_hash(path: str | Path) -> str:
    """Return `b2:` and the 32 hex digits of the blake2b-16 over the directory's model files.

    It covers, in name order, every `*.safetensors`, and `config.json` and `tokenizer.json` if they exist,
    each with its name and its length in bytes. The directory's own name is not covered, so a copy of a model
    has the same hash. Files are read in pieces of 1 MiB. Raises ModelError if there is no safetensors file.
    """
    directory = Path(path)
    weights = sorted(directory.glob(WEIGHT_PATTERN)) if directory.is_dir() else []
    if not weights:
        raise ModelError(
            f"no {WEIGHT_PATTERN} in {directory}: give a model directory saved with safetensors "
            "(`model.save_pretrained(directory)`)"
        )
    described = [directory / name for name in DESCRIPTION_FILES if (directory / name).is_file()]
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(weights + described, key=lambda file: file.name):
        # The name and length separate the files, so that bytes cannot move from one file to the next.
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while piece := stream.read(CHUNK_BYTES):
                digest.update(piece)
    return f"b2:{digest.hexdigest()}"
