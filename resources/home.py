"""Provide the lake, the experiments and related folders as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from selfimprove_dagster.home.home import Home


class HomeResource(dg.ConfigurableResource[Home]):
    """Opens the installation given by the environment, or the folders given here."""

    root: str = Field(
        default="", description="folder of lake, checkpoints and inboxes; default: $SELFIMPROVE_HOME"
    )
    experiments: str = Field(
        default="", description="folder of experiment files; default: $SELFIMPROVE_EXPERIMENTS"
    )

    def create_resource(self, context: dg.InitResourceContext) -> Home:
        return self.open()

    def open(self) -> Home:
        """Return the installation, outside of a run."""
        default = Home.from_environment()
        return Home(
            root=Path(self.root) if self.root else default.root,
            experiments=Path(self.experiments) if self.experiments else default.experiments,
        )
