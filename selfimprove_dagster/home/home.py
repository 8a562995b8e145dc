"""Where things lie: the lake, checkpoints, inboxes and experiment files of one installation.

$SELFIMPROVE_HOME (default ./.selfimprove)
    lake/         all tables
    checkpoints/  <experiment>/<iteration>-<method>-<activity>/
    inbox/        <experiment>/   files dropped here become seeds
    models/       GGUF files as folders, and the revisions of models from the hub
    dagster/      Dagster's own storage (runs, events, schedules)
$SELFIMPROVE_EXPERIMENTS (default ./experiments)
    <name>.yaml   before the experiment of that name that the package ships
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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

    A name that `experiments` lacks is looked up in `shipped`; only `experiments` is listed and watched.
    """

    root: Path
    experiments: Path
    shipped: Path = SHIPPED_EXPERIMENTS

    @classmethod
    def from_environment(cls) -> Home:
        """What SELFIMPROVE_HOME and SELFIMPROVE_EXPERIMENTS name, or folders of the working directory."""
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

    def checkpoint(self, experiment: str, iteration: int, method: str, activity_id: str) -> Path:
        """Folder of the checkpoint that an activity trains: another activity never writes over it."""
        name = f"{iteration:03d}-{method}-{activity_id.removeprefix('act:')[:12]}"
        return self.root / "checkpoints" / experiment / name

    def inbox(self, experiment: str) -> Path:
        """Folder into which people drop seed files."""
        return self.root / "inbox" / experiment

    def experiment(self, name: str, method: str | None = None) -> Experiment:
        """The experiment of that name; of a chain, the settings of one method: `method`, or the one that the
        name names (`<name>.<method>`), or the first.

        Raises ExperimentError naming those that exist.
        """
        method = method or split_turn(name)[1]
        chain = self.chain(name)
        found = next((one for one in chain if method in (None, one.method)), None)
        if found is None:
            raise ExperimentError(
                f"experiment {name} is of the method {', '.join(chain[0].chain)}: materialise the group "
                f"{' or '.join(chain[0].chain)}, not {method}"
            )
        return found

    def chain(self, name: str) -> list[Experiment]:
        """The settings of each method of an experiment, in order. Raises ExperimentError."""
        name, _ = split_turn(name)
        file = self.experiment_file(name)
        if file is None:
            known = ", ".join(self.experiment_names()) or "none"
            shipped = ", ".join(_names(self.shipped)) or "none"
            raise ExperimentError(
                f"there is no experiment {name!r} in {self.experiments}; there are: {known}. "
                f"The package ships: {shipped}"
            )
        return load_chain(file)

    def experiment_file(self, name: str) -> Path | None:
        """The file of the experiment `name`, the user's own before a shipped one; None if neither exists."""
        files = (folder / f"{name}.yaml" for folder in (self.experiments, self.shipped))
        return next((file for file in files if file.is_file()), None)

    def experiment_names(self) -> list[str]:
        """Names of the user's experiment files, valid or not. Shipped ones run only when somebody names them."""
        return _names(self.experiments)


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
