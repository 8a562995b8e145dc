"""Preferences that another experiment made, as the seeds of PIT."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.seeds.kind import Teacher

_GIVERS = ("rlaif", "rlhf")


_SOURCE = ("source_file", "source_line", "licence")


def newest_preferences(lake: Lake, experiment: PitExperiment, iteration: int) -> Manifest | None:
    """The dataset of pairs that the last iteration of the experiment's teacher made; None where it has none.

    Where the experiment is its own teacher, in a chain, iterations after `iteration` do not count.
    """
    name = experiment.taught_by
    if name is None:
        return None
    found = [
        manifest
        for method in _GIVERS
        for manifest in lake.manifests(f"{method}/filtered_dataset", name)
        if name != experiment.name or manifest.iteration <= iteration
    ]
    return max(found, key=lambda one: (one.iteration, one.committed_at), default=None)


def preferences_of(
    lake: Lake, experiment: PitExperiment, iteration: int
) -> tuple[list[Manifest], pl.DataFrame]:
    """The pairs of that dataset, each with the source of its prompt and the probability of its label.

    Columns: `id` (of the example), `prompt, chosen, rejected, source_file, source_line, licence,
    probability`. Raises SeedFileError where there are none, and GateClosed where a check keeps them.
    """
    name, asker = experiment.taught_by, experiment.name
    manifest = newest_preferences(lake, experiment, iteration)
    if manifest is None:
        raise SeedFileError(
            f"experiment {asker} takes its seeds from {name}, which has no dataset of preferences yet; run "
            f"an iteration of {name} (rlaif or rlhf) first, or name another in seeds.experiment"
        )
    named = ("id", "prompt_id", "question", "chosen", "rejected", "probability")
    pairs = lake.scan(manifest.table, manifest.partition).select(named).collect()
    pool = lake.manifest(f"{manifest.table.split('/')[0]}/seed_pool", manifest.partition)
    sources = lake.read_columns(pool, ["id", *_SOURCE]).rename({"id": "prompt_id"})
    rows = pairs.join(sources, on="prompt_id", how="inner", maintain_order="left")
    if rows.is_empty():
        raise SeedFileError(
            f"experiment {asker} has no seeds: the dataset of {name}-{manifest.iteration:03d} is empty; look "
            f"at its decisions, and at `selfimprove lineage revocations`"
        )
    columns = rows.select("id", "chosen", "rejected", *_SOURCE, "probability", prompt="question")
    return [manifest, pool], columns


TEACHER = Teacher(newest_preferences, preferences_of)
"""Pairs from another experiment's dataset of preferences."""
