"""Define the code location that `workspace.yaml` loads: all registered methods, without importing torch."""

from __future__ import annotations

import warnings
from typing import Any

import dagster as dg

from selfimprove_dagster import registry
from selfimprove_dagster.assets.factory import assets_of, job_of
from selfimprove_dagster.assets.seeds import import_seeds_job
from selfimprove_dagster.assets.sensors import next_iteration_sensor, seed_inbox
from selfimprove_dagster.registry import MethodWarning
from selfimprove_dagster.resources import HomeResource, LanguageModelResource, TrainerResource

_RESOURCES = {
    "home": HomeResource(),
    "language_model": LanguageModelResource(),
    "trainer": TrainerResource(),
}


def _built() -> dict[str, tuple[list[dg.AssetsDefinition], Any]]:
    """Build the assets and the job of each method.

    A method that Dagster refuses is left out with a warning.
    """
    built = {}
    for method in registry.methods().values():
        try:
            assets, job = assets_of(method, registry.tables()), job_of(method)
            if method.distribution:
                dg.Definitions.validate_loadable(
                    dg.Definitions(assets=assets, jobs=[job], resources=_RESOURCES)
                )
        except Exception as error:  # any error that the declaration of an external method causes
            warnings.warn(f"the method {method.name} was left out: {error}", MethodWarning, stacklevel=2)
            continue
        built[method.name] = (assets, job)
    return built


_METHODS = _built()
_JOBS = [job for _, job in _METHODS.values()]

defs = dg.Definitions(
    assets=[asset for assets, _ in _METHODS.values() for asset in assets],
    jobs=[*_JOBS, import_seeds_job],
    sensors=[next_iteration_sensor(_JOBS), seed_inbox],
    resources=_RESOURCES,
)
