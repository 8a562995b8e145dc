"""Take a snapshot of the committed partitions of a lake, with a segment of edges for each.

With the index, every partition has a segment. Without it, segments are built in memory for the requested
partitions only. These are few, since an activity's `inputs` name the partitions that hold the parents of its
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.index import Ids, Numbers, Segment, build, open_segments


class Snapshot:
    """Partitions by number, in the order of `Lake.manifests`.

    Raises FileNotFoundError, here and later, if a partition was replaced since its manifest was read.
    """

    def __init__(self, root: Path, manifests: Sequence[Manifest], use_index: bool) -> None:
        self.manifests = manifests
        self._number = {manifest.activity.id: at for at, manifest in enumerate(manifests)}
        self._sources = [
            {at} | {self._number[source] for source in manifest.activity.inputs if source in self._number}
            for at, manifest in enumerate(manifests)
        ]
        places = {manifest.directory.parts[-4:]: at for at, manifest in enumerate(manifests)}
        for at, manifest in enumerate(manifests):
            table = registry.tables().get(manifest.table)
            if table and table.made_with:
                beside = (*table.made_with.split("/"), *manifest.directory.parts[-2:])
                self._sources[at] |= {places[beside]} if beside in places else set()
        self._segments: dict[int, Segment] = {}
        self._whole = use_index
        if use_index:
            self._segments = dict(enumerate(open_segments(root, manifests)))

    def segment(self, at: int) -> Segment:
        """Return the edges of a partition."""
        if at not in self._segments:
            self._segments[at] = build(self.manifests[at])
        return self._segments[at]

    @property
    def edges(self) -> int:
        """Return the number of edges in the loaded segments."""
        return sum(segment.edges for segment in self._segments.values())

    def scope(self, entered: Iterable[int], *, down: bool) -> Iterable[int]:
        """Return the partitions that may hold parents (or, with `down`, children) of rows of `entered`."""
        if self._whole:
            return range(len(self.manifests))
        if not down:
            return sorted({source for at in entered for source in self._sources[at]})
        entered = set(entered)
        return [at for at, sources in enumerate(self._sources) if sources & entered]

    def start(self, ids: pl.Series, *, down: bool) -> Iterable[int]:
        """Return the partitions that may hold edges of the records that a walk starts from."""
        if self._whole:
            return range(len(self.manifests))
        rows = {at: set(ids.gather(here)) for at, here, _ in self.rows(ids)}
        activities = {self._number[record]: {record} for record in ids if record in self._number}
        strangers = set(ids).difference(*rows.values(), *activities.values())
        if strangers and down:  # models: any partition may name them
            return range(len(self.manifests))
        return self.scope({*rows, *activities}, down=True) if down else sorted(rows)

    def rows(self, ids: pl.Series) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield partitions that hold some of the ids: number, positions in `ids`, names in its segment."""
        wanted = Ids.of(ids)
        for at in range(len(self.manifests)) if self._whole else self._holding(ids):
            segment = self.segment(at)
            here, names = wanted.matches(segment.names)
            rows = segment.file[names] >= 0
            if rows.any():
                yield at, wanted.order[here[rows]], names[rows]

    def _holding(self, ids: pl.Series) -> Iterator[int]:
        """Yield partitions with rows of these ids: loaded segments first, then tables by their tags."""
        tags = {record.split(":")[0] for record in ids}

        def nearness(at: int) -> tuple[bool, bool]:
            table = registry.tables().get(self.manifests[at].table)
            return at not in self._segments, table is None or table.tag not in tags

        for at in sorted(range(len(self.manifests)), key=nearness):
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
        rows = pl.scan_parquet(self.manifests[at].paths, hive_partitioning=False, glob=False)
        return rows.select("id").filter(pl.col("id").is_in(ids.implode())).collect()["id"]

    def beginning_with(self, prefix: str, at: int, limit: int) -> list[str]:
        """Return at most `limit` ids of rows of a partition that start with the prefix."""
        if at in self._segments:
            return self._segments[at].beginning_with(prefix, limit)
        rows = pl.scan_parquet(self.manifests[at].paths, hive_partitioning=False, glob=False)
        begins = rows.select("id").filter(pl.col("id").str.starts_with(prefix))
        return begins.select(pl.col("id").unique().sort().head(limit)).collect()["id"].to_list()
