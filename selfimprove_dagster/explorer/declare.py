"""Define what a method declares for its pages. Every part has a default that suits any method.

This module does not import the web server, because methods import it when they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import Chart, Measured
from selfimprove_dagster.explorer.funnel import Stages, Step
from selfimprove_dagster.explorer.listings import Listing
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import Lineage, Place, Walk
from selfimprove_dagster.table import Row


@dataclass(frozen=True)
class Block:
    """A part of an iteration's page.

    `template` is a Jinja file. It receives the result of `show` as `shown` and the address of the iteration
    as `here`. `show` takes the committed tables by stage; if it returns None, nothing is shown.
    """

    template: Path
    show: Callable[[Lake, Stages], Row | None]


@dataclass(frozen=True)
class AboutRecord:
    """A requested record: its row, its ancestors, and the ids of related rows that were revoked."""

    lake: Lake
    lineage: Lineage
    place: Place
    row: Row
    ancestors: Walk
    withdrawn: set[str]


@dataclass(frozen=True)
class RecordBlock:
    """A part of a record's page, like `Block`; its template also receives the record's `id`.

    `shows_fates`: the part shows the outcome of each candidate, so the page does not list outcomes itself.
    """

    template: Path
    show: Callable[[AboutRecord], Row | None]
    shows_fates: bool = False


@dataclass(frozen=True)
class Pages:
    """The pages of a method.

    `examples` lists the rows of the dataset. `dropped` lists dropped candidates by the value of the query
    parameter `of`; the first list is the default. `more` holds further lists by the last part of their
    address. `funnel` returns the steps from the first table to the dataset. `measure` returns measures of one
    iteration, and `charts` builds charts from those of all iterations. `blocks` and `record` are parts of the
    pages of iterations and records. `names` returns labels of graph nodes that are stored in another row.
    `follows_seed`: a record's page also shows the other descendants of its seed.
    """

    examples: Listing | None = None
    dropped: Mapping[str, Listing] = field(default_factory=dict)
    more: Mapping[str, Listing] = field(default_factory=dict)
    funnel: Callable[[Lake, Stages], list[Step]] | None = None
    measure: Callable[[Lake, Stages], Row] | None = None
    charts: Callable[[Experiment, Sequence[Measured]], list[Chart]] | None = None
    blocks: Sequence[Block] = ()
    record: Sequence[RecordBlock] = ()
    names: Callable[[Mapping[str, Row]], Mapping[str, str]] | None = None
    follows_seed: bool = True
