"""Store the lineage index: small immutable files in `<lake>/.lineage/`, one per committed partition or part of it.

A *segment* holds the names of a partition (the ids of its rows and of their parents), its edges in both
directions, and its sorted ids. A large partition has several, each over some of its files. It is built from the
columns `id` and `parents` only. Its file name contains the activity and the checksums of the Parquet files, so a
segment is stale exactly when the partition changed, and is then built again. Nothing depends on the folder: it may be
deleted at any time, and if it cannot be written, the segments are kept in memory.

It is fast because names are numbered once, in the order of a 64-bit hash: an edge is a pair of small numbers,
a step of a walk is two slices of a compressed sparse row, and many ids are looked up by one merge of sorted
numbers. A hash only locates an id; whole ids are compared, so a forged collision cannot change an answer.
Files are memory-mapped, so opening reads only their headers. On ten million edges and a busy two-core machine
(benchmarks/lineage.py) it is built at 1.2 million edges per second, takes 406 MB, and opens in 30 ms.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from selfimprove_dagster.errors import LakeError, LakeNotWritable
from selfimprove_dagster.lake.disk import file_checksum, write_atomically
from selfimprove_dagster.lake.partition import Manifest, read_parquet
from selfimprove_dagster.table import TRAINED_ON

FOLDER = ".lineage"


_FORMAT = 1


_ALIGNMENT = 64


_ABANDONED = 3600.0
"""Age in seconds after which a temporary file is assumed to be left by a killed process."""


Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ids:
    """Ids in the order of their hashes; `order` holds the original position of each."""

    texts: Any
    keys: Numbers
    order: Numbers

    @classmethod
    def of(cls, ids: pl.Series) -> Ids:
        keys = _keys(ids)
        order = np.argsort(keys, kind="stable")
        return cls(_arrow(ids.gather(order)), keys[order], order)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: Numbers) -> pl.Series:
        """Return the ids at these positions."""
        return pl.Series("id", self.texts.take(pa.array(positions)), pl.String)

    def matches(self, other: Ids) -> tuple[Numbers, Numbers]:
        """Return pairs of positions, in both objects, that hold the same id."""
        if len(other) < len(self):
            there, here = other.matches(self)
            return here, there
        if not len(self):
            return self.order[:0], self.order[:0]
        first = other.keys.searchsorted(self.keys)
        hit = (other.keys.take(first, mode="clip") == self.keys).nonzero()[0]
        if not len(hit):
            return hit, hit
        first = first[hit]
        at, there = _ranges(first, other.keys.searchsorted(self.keys[hit], side="right") - first)
        here = hit[at]
        same = (self.take(here) == other.take(there)).to_numpy()
        return here[same], there[same]


@dataclass(frozen=True)
class Segment:
    """Names and edges of one partition, as views of one buffer (a mapped file or memory)."""

    manifest: Manifest
    buffer: Any
    header: Mapping[str, Any]

    @classmethod
    def over(cls, manifest: Manifest, buffer: Any) -> Segment:
        """Open a buffer. Raises ValueError if it is not a complete segment of this format and hash."""
        end = bytes(buffer[:8])
        header = json.loads(bytes(buffer[8 : 8 + int(end, 16)]))
        if header["stamp"] != _stamp() or header["bytes"] != buffer.size:
            raise ValueError("a segment of another format, or truncated")
        return cls(manifest, buffer, header)

    def _array(self, name: str) -> Numbers:
        dtype, count, offset = self.header["arrays"][name]
        return np.frombuffer(self.buffer, dtype, count, offset)

    @property
    def edges(self) -> int:
        """Return the number of edges."""
        return int(self.header["arrays"]["parent"][1])

    @property
    def roles(self) -> list[str]:
        """Return the roles by their numbers."""
        return list(self.header["roles"])

    @cached_property
    def names(self) -> Ids:
        """Return the ids of the rows and of their parents."""
        texts, offsets = (pa.py_buffer(self._array(name)) for name in ("text", "text_start"))
        keys = self._array("key")
        texts = pa.LargeStringArray.from_buffers(len(keys), offsets, texts)
        return Ids(texts, keys, np.arange(len(keys)))

    @cached_property
    def file(self) -> Numbers:
        """Return for each name the number of the Parquet file that holds its row, or -1 without a row."""
        return self._array("file")

    @cached_property
    def datasets(self) -> set[str]:
        """Return the ids of the activities whose datasets checkpoints of this partition were trained on."""
        if TRAINED_ON not in self.roles:
            return set()
        trained = self._array("parent_role") == self.roles.index(TRAINED_ON)
        return set(self.names.take(self._array("parent")[trained]))

    def up(self, names: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return edges from names to their parents: positions in `names`, names of parents, roles."""
        at, edges = _slices(self._array("parent_start"), names)
        return at, self._array("parent")[edges], self._array("parent_role")[edges]

    def down(self, names: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return edges from names to their children: positions in `names`, names of children, roles."""
        at, edges = _slices(self._array("child_start"), names)
        return at, self._array("child")[edges], self._array("child_role")[edges]

    def beginning_with(self, prefix: str, limit: int) -> list[str]:
        """Return the ids of rows that start with the prefix, in order."""
        wanted = prefix.encode(errors="surrogatepass")
        order, text, start = (self._array(name) for name in ("by_id", "text", "text_start"))

        def id_at(position: int) -> bytes:
            name = order[position]
            return text[start[name] : start[name + 1]].tobytes()

        first = bisect_left(range(len(order)), wanted, key=id_at)
        found = (id_at(position) for position in range(first, min(first + limit, len(order))))
        return [record.decode() for record in found if record.startswith(wanted)]


def open_segments(root: Path, manifests: Sequence[Manifest]) -> list[Segment]:
    """Return the segment of each partition or part. Missing ones are built; files of removed partitions are deleted.

    Raises FileNotFoundError if a partition was replaced meanwhile.
    """
    folder = root / FOLDER
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    segments = [_opened(folder, manifest, names) for manifest in manifests]
    for name in names - {_file_name(manifest) for manifest in manifests}:
        _remove(folder / name)
    return segments


def build(manifest: Manifest) -> Segment:
    """Build the segment of a partition in memory.

    Raises FileNotFoundError if one of its files is missing, and LakeError if one cannot be read.
    """
    ids, files, counts, parents, roles = _columns(manifest)
    everyone = pa.concat_arrays([ids, parents]).dictionary_encode()
    keys = _keys(pl.Series(everyone.dictionary, dtype=pl.String))
    order = np.argsort(keys, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    numbered = rank[everyone.indices.to_numpy()]
    row_name, parent = numbered[: len(ids)], numbered[len(ids) :]
    file = np.full(len(order), -1, np.int32)
    file[row_name] = files
    texts = everyone.dictionary.take(pa.array(order))
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    mine = np.flatnonzero(file >= 0).astype(np.int32)
    in_order = pl.Series(texts.take(pa.array(mine)), dtype=pl.String).arg_sort().to_numpy()
    # Edges are sorted by their children's names; the edges of one row are a slice of the column `parents`.
    by_name = np.argsort(row_name)
    at, by_child = _ranges((np.cumsum(counts) - counts)[by_name], counts[by_name])
    child, parent = row_name[by_name][at], parent[by_child]
    role = roles.indices.to_numpy()[by_child].astype(np.min_scalar_type(len(roles.dictionary)))
    by_parent = np.argsort(parent, kind="stable")
    arrays = {
        "key": keys[order],
        "text_start": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        "text": np.frombuffer(texts.buffers()[2] or b"", np.uint8)[: lengths.sum()],
        "file": file,
        "by_id": mine[in_order],
        "parent_start": _starts(child, len(order)),
        "parent": parent,
        "parent_role": role,
        "child_start": _starts(parent, len(order)),
        "child": child[by_parent],
        "child_role": role[by_parent],
    }
    return Segment.over(manifest, _pack(roles.dictionary.to_pylist(), arrays))


def _columns(manifest: Manifest) -> tuple[Any, Numbers, Numbers, Any, Any]:
    """Return the ids, files and numbers of parents of rows, and the ids and encoded roles of all parents."""
    frames = []
    for number, path in enumerate(manifest.paths):
        try:
            frame = read_parquet(path, ["id", "parents"])
        except (pl.exceptions.PolarsError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise LakeError(f"{path} cannot be read ({error}); materialise {manifest.table} again") from error
        frames.append(frame.with_columns(file=pl.lit(number, pl.Int32)))
    rows = pl.concat(frames).drop_nulls("id")
    edges = rows["parents"].explode(empty_as_null=False, keep_nulls=False).struct
    return (
        _arrow(rows["id"]),
        rows["file"].to_numpy(),
        rows["parents"].list.len().fill_null(0).cast(pl.Int64).to_numpy(),
        _arrow(edges.field("id").fill_null("")),
        _arrow(edges.field("role").fill_null("")).dictionary_encode(),
    )


def _keys(ids: pl.Series) -> Numbers:
    return ids.hash().to_numpy()


def _arrow(texts: pl.Series) -> Any:
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    return array.cast(pa.large_string())


def _starts(names: Numbers, count: int) -> Numbers:
    """Return where the edges of each name start, and where the last ones end, given edges sorted by name."""
    starts = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(names, minlength=count), out=starts[1:])
    return starts


def _slices(starts: Numbers, names: Numbers) -> tuple[Numbers, Numbers]:
    return _ranges(starts[names], starts[names + 1] - starts[names])


def _ranges(first: Numbers, counts: Numbers) -> tuple[Numbers, Numbers]:
    """Return the numbers first[i] … first[i] + counts[i] - 1 for every i, concatenated, each with its i."""
    at = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return at, np.arange(len(at)) + (first - before)[at]


# ---- files ------------------------------------------------------------------------------------------------


def _file_name(manifest: Manifest) -> str:
    checksums = " ".join(file.checksum for file in manifest.files)
    digest = blake2b(checksums.encode(), digest_size=16).hexdigest()
    return f"{manifest.activity.id.removeprefix('act:')}-{digest}"


def _stamp() -> list[int]:
    """Return the format and the hash of a probe, as hashes of Polars are stable within one version only."""
    return [_FORMAT, int(_keys(pl.Series(["selfimprove"]))[0])]


def _pack(roles: Sequence[str], arrays: Mapping[str, Numbers]) -> Any:
    """Pack one buffer: the header's length in hex, the header in JSON, the arrays."""
    layout: dict[str, tuple[str, int, int]] = {}
    header: dict[str, Any] = {"stamp": _stamp(), "roles": list(roles), "arrays": layout, "bytes": 0}
    # Numbers may need 20 digits once they are filled in.
    room = len(json.dumps(header)) + sum(len(name) + 80 for name in arrays)
    position = _aligned(8 + room)
    body = bytearray(position)
    for name, array in arrays.items():
        layout[name] = (array.dtype.str, len(array), len(body))
        body += np.ascontiguousarray(array).tobytes()
        body += bytes(_aligned(len(body)) - len(body))
    header["bytes"] = len(body)
    text = json.dumps(header).encode()
    body[: 8 + len(text)] = b"%08x" % len(text) + text
    return pa.py_buffer(body)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _opened(folder: Path, manifest: Manifest, names: set[str]) -> Segment:
    name = _file_name(manifest)
    if name in names:
        try:
            return _mapped(folder / name, manifest)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # damaged, of another format, or removed by another process
    segment = build(manifest)
    try:
        # Files that are being overwritten are not the files that the name refers to.
        if all(file_checksum(manifest.directory / file.name) == file.checksum for file in manifest.files):
            folder.mkdir(exist_ok=True)
            write_atomically(folder / name, segment.buffer)
            return _mapped(folder / name, manifest)
    except (LakeNotWritable, OSError):
        pass  # the lake is read-only, or its files are being replaced
    return segment


def _mapped(path: Path, manifest: Manifest) -> Segment:
    with pa.memory_map(str(path)) as file:
        return Segment.over(manifest, file.read_buffer())


def _remove(path: Path) -> None:
    """Remove a file of the index, unless another process may still be writing it."""
    try:
        if not path.name.startswith(".") or time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink(missing_ok=True)
    except OSError:
        pass  # the folder is read-only, or another process removed it
