"""Find the champion of an experiment: the latest promoted untainted checkpoint, or the base model."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.loop.taint import tainted_models

NEWEST = 1_000_000
"""A number greater than any iteration number."""


@dataclass(frozen=True)
class Champion:
    """The model that an iteration starts from.

    `model_id` is set for promoted checkpoints, and None for the base model before it is opened. `iteration`
    is the iteration that promoted it, None for the base model. `method` is the method that promoted it, in a
    chain. `section` opens it if it is another model than the experiment's, which generates and is not trained.
    """

    path: str
    model_id: str | None = None
    iteration: int | None = None
    promotion_activity_id: str | None = None
    method: str | None = None
    section: ModelSection | None = None

    @property
    def name(self) -> str:
        """Return a description for people."""
        if self.section is not None:
            return f"another model, {Path(self.path).name}"
        if self.iteration is None:
            return "the base model"
        by = f"{self.method}, " if self.method else ""
        return f"the checkpoint of {by}iteration {self.iteration}"

    @property
    def identity(self) -> str:
        """Return its `model_id`, for the base model computed from its weights, as training reads them.

        Raises ModelError without weights.
        """
        from selfimprove_dagster.language_model.folder import model_folder
        from selfimprove_dagster.language_model.weights import model_id

        return self.model_id or model_id(model_folder(self.path))

    def identity_in(self, section: ModelSection) -> str:
        """Return its `model_id` as the section's engine opens it, i.e. the base model with its LoRA adapter.

        Raises ModelError without weights.
        """
        return self.model_id or identity_of(section, self.path)


def turn_of(experiment: Experiment, manifest: Manifest) -> tuple[int, int]:
    """Return the iteration of a partition and the position of its method in the chain."""
    method = manifest.table.split("/")[0]
    return manifest.iteration, experiment.chain.index(method) if method in experiment.chain else -1


def champion_before(
    lake: Lake, experiment: Experiment, iteration: int, tainted: Container[str] | None = None
) -> Champion:
    """Return the champion that the experiment's method starts from in iteration `iteration`.

    It is the latest clean checkpoint that an earlier iteration, or an earlier method of the chain, promoted.

    `tainted` are the ids of models to skip, by default those that were trained on revoked records.
    """
    if tainted is None:
        tainted = tainted_models(lake, experiment.name)
    turn = (iteration, experiment.chain.index(experiment.method))
    for manifest in sorted(
        lake.manifests("*/promotion", experiment.name), key=partial(turn_of, experiment), reverse=True
    ):
        if turn_of(experiment, manifest) >= turn:
            continue
        row = lake.read(manifest.table, manifest.partition).row(0, named=True)
        if row["promoted"] and row["challenger_model_id"] not in tainted:
            return Champion(
                path=lake.folder_at(row["challenger_path"]),
                model_id=row["challenger_model_id"],
                iteration=manifest.iteration,
                promotion_activity_id=manifest.activity.id,
                method=manifest.table.split("/")[0] if len(experiment.chain) > 1 else None,
            )
    return Champion(path=experiment.model.path)
