"""Define partitions: one per iteration, with the key `<experiment>-<NNN>`, in a set per method."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import dagster as dg

from selfimprove_dagster.lake.lake import Lake

_BEFORE_METHODS = "iterations"
"""The set with the keys of all methods, in instances of version 0.1."""


@cache
def iterations(method: str) -> dg.DynamicPartitionsDefinition:
    """Return the partitions of all experiments of a method."""
    return dg.DynamicPartitionsDefinition(name=f"{method}_iterations")


def add_iterations(instance: dg.DagsterInstance, method: str, keys: Iterable[str]) -> None:
    """Add keys to the set of a method; existing keys stay."""
    instance.add_dynamic_partitions(str(iterations(method).name), [*keys])


def bring_up_to_date(instance: dg.DagsterInstance, lake: Lake) -> None:
    """Give each method the keys of its committed iterations, in an instance with one set for all methods."""
    if not instance.get_dynamic_partitions(_BEFORE_METHODS):
        return
    keys: dict[str, set[str]] = {}
    for manifest in lake.manifests():
        if manifest.iteration >= 0:
            keys.setdefault(manifest.table.split("/")[0], set()).add(
                f"{manifest.experiment}-{manifest.iteration:03d}"
            )
    for method, found in keys.items():
        add_iterations(instance, method, sorted(found))
    for key in instance.get_dynamic_partitions(_BEFORE_METHODS):
        instance.delete_dynamic_partition(_BEFORE_METHODS, key)
