"""What a method declares for its pages. Every part has a default that suits any method.

Nothing here needs the web server: methods import this module when they are loaded.
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

    `template` is a Jinja file, which finds the result of `show` under the name `shown` and the address of the
    iteration under `here`. `show` takes the committed tables by stage; where it returns None, nothing is shown.
    """

    template: Path
    show: Callable[[Lake, Stages], Row | None]


@dataclass(frozen=True)
class AboutRecord:
    """A record whose page is asked for: its row, its ancestors, and the ids of revoked rows near to it."""

    lake: Lake
    lineage: Lineage
    place: Place
    row: Row
    ancestors: Walk
    withdrawn: set[str]


@dataclass(frozen=True)
class RecordBlock:
    """A part of a record's page, as `Block`; its template also finds the record's `id`.

    `shows_fates`: the part shows what became of each candidate, so that the page need not list them.
    """

    template: Path
    show: Callable[[AboutRecord], Row | None]
    shows_fates: bool = False


@dataclass(frozen=True)
class Pages:
    """The pages of a method.

    `examples` lists the rows of the dataset. `dropped` lists what rules dropped, by the word under which it is
    asked for; the first is shown by default. `more` are further lists, by the last part of their address.
    `funnel` gives the steps from the first table to the dataset. `measure` gives figures of one iteration, and
    `charts` makes charts of those of all iterations. `blocks` and `record` are parts of the pages of iterations
    and records. `names` gives the words for rows in a graph that only another row knows. `follows_seed`: a
    record's page shows what else descends from its seed.
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
