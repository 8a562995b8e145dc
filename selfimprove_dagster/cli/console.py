"""Define what all commands of the command line share: the console, the experiment argument, and lists of commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

console = Console(highlight=False)


if not console.is_terminal:
    console = Console(highlight=False, width=120)


ExperimentName = Annotated[str, typer.Argument(help="Name of an experiment: its file name without .yaml.")]


class Commands(TyperGroup):
    """Commands whose descriptions are not cut in the list of `--help`, as Typer cuts them to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the name and the first sentence of each command."""
        rows = [(name, self.commands[name].get_short_help_str(1_000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
