"""Hashes of files, read in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 20


def file_hash(file: Path) -> str:
    """`b2:` and the 32 hex digits of the blake2b-16 of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces(file):
        digest.update(piece)
    return tagged(digest)


def add_file(digest: hashlib.blake2b, file: Path) -> None:
    """Add a file with its name and length, so that bytes cannot move from one file to the next."""
    digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
    for piece in pieces(file):
        digest.update(piece)


def pieces(file: Path) -> Iterator[bytes]:
    """Yield the content of a file in pieces of 1 MiB."""
    with file.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            yield piece


def tagged(digest: hashlib.blake2b) -> str:
    """Return a hash as ids have it, `b2:` and its hex digits."""
    return f"b2:{digest.hexdigest()}"
