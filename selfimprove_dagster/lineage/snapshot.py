"""Take a snapshot of the committed partitions of a lake, with segments of edges for each.

A partition has one segment, a large one several, each over some of its files. With the index, all of them are opened.
Without it, segments are built in memory for the requested partitions only. These are few, since an activity's `inputs`
name the partitions that hold the parents of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.partition import Manifest, ShardFile
from selfimprove_dagster.lineage.index import Ids, Numbers, Segment, build, open_segments

_SEGMENT_ROWS = 250_000
"""Rows of a partition from which on further files have another segment. A vote has an edge to each of its paths, so
that a segment has some million edges."""


def parts_of(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the manifest, or for a large partition several, each with some of its files."""
    files: list[ShardFile] = []
    rows = 0
    for file in manifest.files:
        if files and rows + file.rows > _SEGMENT_ROWS:
            yield replace(manifest, files=tuple(files))
            files, rows = [], 0
        files.append(file)
        rows += file.rows
    yield replace(manifest, files=tuple(files))


class Snapshot:
    """Parts of partitions by number, in the order of `Lake.manifests`.

    Raises FileNotFoundError, here and later, if a partition was replaced since its manifest was read.
    """

    def __init__(self, root: Path, manifests: Sequence[Manifest], use_index: bool) -> None:
        self.manifests = manifests
        self.parts = [part for manifest in manifests for part in parts_of(manifest)]
        self._numbers: dict[str, set[int]] = {}
        places: dict[tuple[str, ...], set[int]] = {}
        for at, part in enumerate(self.parts):
            self._numbers.setdefault(part.activity.id, set()).add(at)
            places.setdefault(part.directory.parts[-4:], set()).add(at)
        self._sources: list[set[int]] = []
        for part in self.parts:
            table = registry.tables().get(part.table)
            made_with = table.made_with.split("/") if table and table.made_with else []
            self._sources.append(
                self._numbered(part.activity.id, *part.activity.inputs)
                | places.get((*made_with, *part.directory.parts[-2:]), set())
            )
        self._segments: dict[int, Segment] = {}
        self._whole = use_index
        if use_index:
            self._segments = dict(enumerate(open_segments(root, self.parts)))

    def _numbered(self, *activities: str) -> set[int]:
        return {at for one in activities for at in self._numbers.get(one, ())}

    def segment(self, at: int) -> Segment:
        """Return the edges of a part."""
        if at not in self._segments:
            self._segments[at] = build(self.parts[at])
        return self._segments[at]

    @property
    def edges(self) -> int:
        """Return the number of edges in the loaded segments."""
        return sum(segment.edges for segment in self._segments.values())

    def scope(self, entered: Iterable[int], *, down: bool) -> Iterable[int]:
        """Return the parts that may hold parents (or, with `down`, children) of rows of `entered`."""
        if self._whole:
            return range(len(self.parts))
        if not down:
            return sorted({source for at in entered for source in self._sources[at]})
        entered = set(entered)
        return [at for at, sources in enumerate(self._sources) if sources & entered]

    def start(self, ids: pl.Series, *, down: bool) -> Iterable[int]:
        """Return the parts that may hold edges of the records that a walk starts from."""
        if self._whole:
            return range(len(self.parts))
        rows = {at: set(ids.gather(here)) for at, here, _ in self.rows(ids)}
        activities = self._numbers.keys() & set(ids)
        strangers = set(ids).difference(*rows.values(), activities)
        if strangers and down:  # models: any partition may name them
            return range(len(self.parts))
        return self.scope({*rows, *self._numbered(*activities)}, down=True) if down else sorted(rows)

    def rows(self, ids: pl.Series) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield parts that hold some of the ids: number, positions in `ids`, names in its segment."""
        wanted = Ids.of(ids)
        for at in range(len(self.parts)) if self._whole else self._holding(ids):
            segment = self.segment(at)
            here, names = wanted.matches(segment.names)
            rows = segment.file[names] >= 0
            if rows.any():
                yield at, wanted.order[here[rows]], names[rows]

    def _holding(self, ids: pl.Series) -> Iterator[int]:
        """Yield parts with rows of these ids: loaded segments first, then tables by their tags."""
        tags = {record.split(":")[0] for record in ids}

        def nearness(at: int) -> tuple[bool, bool]:
            table = registry.tables().get(self.parts[at].table)
            return at not in self._segments, table is None or table.tag not in tags

        for at in sorted(range(len(self.parts)), key=nearness):
            if ids.is_empty():
                return
            seen = self._seen(at, ids)
            if len(seen):
                yield at
                ids = ids.filter(~ids.is_in(seen.implode()))

    def _seen(self, at: int, ids: pl.Series) -> pl.Series:
        if at in self._segments:
            segment, wanted = self._segments[at], Ids.of(ids)
            here, names = wanted.matches(segment.names)
            return ids.gather(wanted.order[here[segment.file[names] >= 0]])
        rows = pl.scan_parquet(self.parts[at].paths, hive_partitioning=False, glob=False)
        return rows.select("id").filter(pl.col("id").is_in(ids.implode())).collect()["id"]

    def beginning_with(self, prefix: str, at: int, limit: int) -> list[str]:
        """Return at most `limit` ids of rows of a part that start with the prefix."""
        if at in self._segments:
            return self._segments[at].beginning_with(prefix, limit)
        rows = pl.scan_parquet(self.parts[at].paths, hive_partitioning=False, glob=False)
        begins = rows.select("id").filter(pl.col("id").str.starts_with(prefix))
        return begins.select(pl.col("id").unique().sort().head(limit)).collect()["id"].to_list()
