"""Where things lie: the lake, checkpoints, inboxes and experiment files of one installation.

$SELFIMPROVE_HOME (default ./.selfimprove)
    lake/         all tables
    checkpoints/  <experiment>/<iteration>-<method>-<activity>/
    inbox/        <experiment>/   files dropped here become seeds
    dagster/      Dagster's own storage (runs, events, schedules)
$SELFIMPROVE_EXPERIMENTS (default ./experiments)
    <name>.yaml
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.home.files import load_chain
from selfimprove_dagster.lake.lake import Lake


@dataclass(frozen=True)
class Home:
    """The folders of one installation."""

    root: Path
    experiments: Path

    @classmethod
    def from_environment(cls) -> Home:
        """What SELFIMPROVE_HOME and SELFIMPROVE_EXPERIMENTS name, or folders of the working directory."""
        return cls(
            root=Path(os.environ.get("SELFIMPROVE_HOME", ".selfimprove")).expanduser().absolute(),
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
        path = self.experiments / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(self.experiment_names()) or "none"
            raise ExperimentError(
                f"there is no experiment {name!r} in {self.experiments}; there are: {known}"
            )
        return load_chain(path)

    def experiment_names(self) -> list[str]:
        """Names of all experiment files, valid or not."""
        return sorted(path.stem for path in self.experiments.glob("*.yaml"))
