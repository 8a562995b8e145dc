"""What an explanation holds: the verdict on a record, the steps to it, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.iteration import Fate, Step, rows_of
from selfimprove_dagster.lineage.walk import Place
from selfimprove_dagster.table import Row, Table


@dataclass(frozen=True)
class Use:
    """One iteration that asked a seed's question, or read its text; `paths` counts its paths, or calls, by
    the rule that dropped them, those that were kept under `kept`."""

    iteration: int
    question: str
    paths: Mapping[str, int]


@dataclass(frozen=True)
class Showing:
    """One iteration whose pool a task stands in, as the record `task`: how many prompts showed it, and how
    many candidates, accepted tasks and examples of that iteration came of those prompts."""

    iteration: int
    task: str
    prompts: int
    candidates: int
    accepted: int
    examples: int


@dataclass(frozen=True)
class Explanation:
    """Why a record is in the dataset of its iteration or why not, step by step in the pipeline's order.

    `in_dataset` is None for records of which that cannot be asked. `fates` are those of the paths of a
    question or vote, of what was read out of a completion, or of the calls tried in a text; `uses` are
    those of a seed, `showings` those of a task of a pool.
    """

    id: str
    table: str
    experiment: str
    iteration: int | None
    verdict: str
    in_dataset: bool | None = None
    steps: tuple[Step, ...] = ()
    fates: tuple[Fate, ...] = ()
    uses: tuple[Use, ...] = ()
    showings: tuple[Showing, ...] = ()

    def to_json(self) -> Row:
        """Plain data."""
        return asdict(self)


def explanation(place: Place, verdict: str, **more: Any) -> Explanation:
    """The explanation of the record at a place."""
    return Explanation(place.id, place.table, place.experiment, place.iteration, verdict, **more)


def count(number: int, noun: str) -> str:
    """`1 path`, `2 paths`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def uses_of(
    lake: Lake, seed: Place, schema: Table, fates: Callable[[int, str], Iterable[Fate]]
) -> Iterable[Use]:
    """The uses of a seed; `fates` gives those of an iteration's record in the pools, which `schema` holds."""
    of_seed = pl.col("parents").list.eval(pl.element().struct.field("id")).list.contains(seed.id)
    for manifest in lake.manifests(schema.name, seed.experiment):
        for row in rows_of(manifest, of_seed):
            counts = Counter(fate.rule or "kept" for fate in fates(manifest.iteration, row["id"]))
            yield Use(manifest.iteration, row["id"], dict(counts.most_common()))


def dropped_verdict(key: str, step: Step) -> str:
    """The verdict on what a rule dropped, by the step that says so."""
    return f"not in the dataset of {key}: dropped by the rule {step.rule}: {step.reason}"


def by_rule(fates: Iterable[Fate]) -> str:
    """How many were dropped by which rule, to be put behind a verdict; nothing where none was."""
    dropped = Counter(fate.rule for fate in fates if fate.rule)
    said = ", ".join(f"{rule}: {number}" for rule, number in dropped.most_common())
    return f"; dropped by {said}" if said else ""


def training_verdict(iteration: int, training: list[Step], gates: list[Step]) -> str:
    """What follows a verdict of being in a dataset: closed gates, and who learnt from it."""
    said = f"; but the gate {gates[0].rule} of {gates[0].stage} stands closed" if gates else ""
    if not training:
        return f"{said}; no checkpoint was trained on it yet"
    said += f"; the checkpoint of iteration {iteration} was trained on it"
    if training[-1].passed is None:
        return said
    return f"{said} and was {'' if training[-1].passed else 'not '}promoted"
