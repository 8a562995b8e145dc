"""Locate the lake, checkpoints, inboxes and experiment files of one installation.

$SELFIMPROVE_HOME (default ./.selfimprove)
    lake/         all tables
    checkpoints/  <experiment>/<iteration>-<method>-<activity>/
    inbox/        <experiment>/   seed files put here are imported
    models/       GGUF files as folders, and the revisions of models from the hub
    pushed/       what was pushed to the hub: repositories, revisions and ids of records
    logs/         output of vLLM servers that stages started
    dagster/      Dagster's own storage (runs, events, schedules)
$SELFIMPROVE_EXPERIMENTS (default ./experiments)
    <name>.yaml   takes precedence over the experiment of that name in the package
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.addresses import CHECKPOINTS
from selfimprove_dagster.environment import home_folder
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.home.files import load_chain
from selfimprove_dagster.lake.lake import Lake

SHIPPED_EXPERIMENTS = Path(__file__).parents[1] / "experiments"
"""Experiment files that are part of the package."""


@dataclass(frozen=True)
class Home:
    """The folders of one installation.

    A name that is missing in `experiments` is looked up in `shipped`. Only `experiments` is listed and
    watched.
    """

    root: Path
    experiments: Path
    shipped: Path = SHIPPED_EXPERIMENTS

    @classmethod
    def from_environment(cls) -> Home:
        """Return the home given by SELFIMPROVE_HOME and SELFIMPROVE_EXPERIMENTS, or the local one."""
        return cls(
            root=home_folder(),
            experiments=Path(os.environ.get("SELFIMPROVE_EXPERIMENTS", "experiments"))
            .expanduser()
            .absolute(),
        )

    @property
    def lake(self) -> Lake:
        return Lake(self.root / "lake")

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def pushed(self) -> Path:
        return self.root / "pushed"

    def checkpoint(self, experiment: str, iteration: int, method: str, activity_id: str) -> Path:
        """Return the folder of the checkpoint that an activity trains. No other activity overwrites it."""
        name = f"{iteration:03d}-{method}-{activity_id.removeprefix('act:')[:12]}"
        return self.root / CHECKPOINTS / experiment / name

    def inbox(self, experiment: str) -> Path:
        """Return the folder for seed files of an experiment."""
        return self.root / "inbox" / experiment

    def experiment(self, name: str, method: str | None = None) -> Experiment:
        """Return the experiment of that name; for a chain, the settings of one method.

        This is `method`, or the method in the name (`<name>.<method>`), or the first method.

        Raises ExperimentError that lists the existing experiments.
        """
        method = method or split_turn(name)[1]
        chain = self.chain(name)
        found = next((one for one in chain if method in (None, one.method)), None)
        if found is None:
            raise ExperimentError(
                f"experiment {name} uses the method {', '.join(chain[0].chain)}: materialise the group "
                f"{' or '.join(chain[0].chain)}, not {method}"
            )
        return found

    def chain(self, name: str) -> list[Experiment]:
        """Return the settings of each method of an experiment, in order. Raises ExperimentError."""
        name, _ = split_turn(name)
        file = self.experiment_file(name)
        if file is None:
            known = ", ".join(self.experiment_names()) or "none"
            shipped = ", ".join(_names(self.shipped)) or "none"
            raise ExperimentError(
                f"there is no experiment {name!r} in {self.experiments}; available there: {known}. "
                f"In the package: {shipped}"
            )
        return load_chain(file)

    def experiment_file(self, name: str) -> Path | None:
        """Return the experiment's file, the user's own before one of the package; None without either."""
        files = (folder / f"{name}.yaml" for folder in (self.experiments, self.shipped))
        return next((file for file in files if file.is_file()), None)

    def experiment_names(self) -> list[str]:
        """Return the names of the user's experiment files, valid or not.

        Those of the package are not listed.
        """
        return _names(self.experiments)


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
