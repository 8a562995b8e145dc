"""The lake, the experiments and the folders around them, as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from selfimprove_dagster.home.home import Home


class HomeResource(dg.ConfigurableResource[Home]):
    """Opens the installation that the environment names, or the folders given here."""

    root: str = Field(
        default="", description="folder of lake, checkpoints and inboxes; empty: $SELFIMPROVE_HOME"
    )
    experiments: str = Field(
        default="", description="folder of experiment files; empty: $SELFIMPROVE_EXPERIMENTS"
    )

    def create_resource(self, context: dg.InitResourceContext) -> Home:
        return self.open()

    def open(self) -> Home:
        """The installation, outside of a run."""
        default = Home.from_environment()
        return Home(
            root=Path(self.root) if self.root else default.root,
            experiments=Path(self.experiments) if self.experiments else default.experiments,
        )
