"""Define the job that imports a seed file, from the inbox or by hand."""

# No `from __future__ import annotations`: Dagster reads parameter types and refuses their names.

from pathlib import Path

import dagster as dg
from pydantic import Field

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file

IMPORTED_FOLDER = "imported"


class SeedImport(dg.Config):
    """One file to import into one experiment."""

    experiment: str = Field(description="name of the experiment")
    file: str = Field(description="path of the seed file")
    move_when_done: bool = Field(False, description="move the file to the folder `imported` next to it")


@dg.op(
    description="Imports one seed file. Valid lines become seeds; rejected ones are recorded in seeds/rejected."
)
def import_seed_file(
    context: dg.OpExecutionContext, config: SeedImport, home: dg.ResourceParam[Home]
) -> dg.Output[int]:
    path = Path(config.file)
    try:
        experiment = home.experiment(config.experiment)
        _, accepted, rejected = import_file(home.lake, experiment, path)
    except SelfImproveError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    context.log.info(f"{path.name}: {accepted:,} seeds imported, {rejected:,} lines rejected")
    if config.move_when_done:
        target = path.parent / IMPORTED_FOLDER
        target.mkdir(exist_ok=True)
        path.replace(target / path.name)
    return dg.Output(accepted, metadata={"accepted": accepted, "rejected": rejected, "file": path.name})


@dg.job(description="Imports one seed file into one experiment.")
def import_seeds_job() -> None:
    import_seed_file()
