"""The champion of an experiment: the last promoted checkpoint that is not tainted, or the base model."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from selfimprove_dagster.experiment import Experiment
from selfimprove_dagster.lake import Lake
from selfimprove_dagster.taint import tainted_models


@dataclass(frozen=True)
class Champion:
    """The model that an iteration starts from.

    `model_id` is known for promoted checkpoints and None for the base model before anything opened it;
    `iteration` is the one that promoted it, None for the base model.
    """

    path: str
    model_id: str | None = None
    iteration: int | None = None
    promotion_activity_id: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return "the base model" if self.iteration is None else f"the checkpoint of iteration {self.iteration}"


def champion_before(
    lake: Lake, experiment: Experiment, iteration: int, tainted: Container[str] | None = None
) -> Champion:
    """The champion that iteration `iteration` starts from: what was promoted last before it and is clean.

    `tainted` are the ids of models to pass over; by default, those that learnt from what was revoked.
    """
    if tainted is None:
        tainted = tainted_models(lake, experiment.name)
    for manifest in reversed(lake.manifests("*/promotion", experiment.name)):
        if manifest.iteration >= iteration:
            continue
        row = lake.read(manifest.table, manifest.partition).row(0, named=True)
        if row["promoted"] and row["challenger_model_id"] not in tainted:
            return Champion(
                path=row["challenger_path"],
                model_id=row["challenger_model_id"],
                iteration=manifest.iteration,
                promotion_activity_id=manifest.activity.id,
            )
    return Champion(path=experiment.model.path)
