"""Define what all commands of the command line share: the console and the experiment argument."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)


if not console.is_terminal:
    console = Console(highlight=False, width=120)


ExperimentName = Annotated[str, typer.Argument(help="Name of an experiment: its file name without .yaml.")]
