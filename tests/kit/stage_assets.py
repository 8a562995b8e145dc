"""The assets of some stages of a method, to be run by Dagster without the others."""

from __future__ import annotations

import dagster as dg

from selfimprove_dagster import registry
from selfimprove_dagster.assets.factory import assets_of


def stage_assets(method: str, *stages: str) -> list[dg.AssetsDefinition]:
    """The assets of these stages, in the order of the pipeline."""
    made = assets_of(registry.method(method), registry.tables())
    return [asset for asset in made if {key.path[1] for key in asset.keys} & {*stages}]
