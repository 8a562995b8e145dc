"""Where people watch a training: TensorBoard, Weights & Biases, MLflow and Trackio, through the trainer's `report_to`.

All are off unless `training.watch` names them, and none changes the weights. Keys come from the environment alone, as
do addresses of servers; without any, each keeps its runs in a folder of this machine, Trackio in its own. A run is
named `<experiment>/<iteration>/<stage>/<activity>`, and a training that resumes continues the same run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import TrainingError

MODULES: Mapping[str, str] = {name: name for name in ("tensorboard", "wandb", "mlflow", "trackio")}
"""The libraries of the services, which are extras of these names."""

_RUN_TAG = "selfimprove_run"


@dataclass(frozen=True)
class WatchSettings:
    """Report to `services` as the run `run` of the project `project`, by default in `folder` on this machine."""

    services: Sequence[str]
    project: str
    run: str
    folder: str


def missing(services: Sequence[str]) -> list[str]:
    """Return the services whose library is not installed."""
    return [name for name in services if importlib.util.find_spec(MODULES[name]) is None]


def check_watch(settings: WatchSettings) -> None:
    """Raise TrainingError for a service that is not known or not installed."""
    for name in settings.services:
        if name not in MODULES:
            raise TrainingError(f"watch names {name!r}; it must be one of {', '.join(MODULES)}.")
    if absent := missing(settings.services):
        raise TrainingError(
            f"watch names {', '.join(absent)}, which is not installed: install the extra "
            f"selfimprove_dagster[{','.join(absent)}], or leave it out."
        )


def arguments(settings: WatchSettings | None) -> dict[str, Any]:
    """Return what a trainer's configuration has of it."""
    if settings is None:
        return {"report_to": "none"}
    return {"report_to": [*settings.services], "run_name": settings.run, "project": settings.project}


@contextmanager
def watched(settings: WatchSettings | None, output: Path) -> Iterator[None]:
    """Set up the services for the training of `output`, whose name tells its run from others, and end their runs."""
    if settings is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    run = blake2b(f"{settings.run}\0{output.name}".encode(), digest_size=8).hexdigest()
    with ExitStack() as stack:
        for service in settings.services:
            stack.enter_context(_SERVICES[service](settings, Path(settings.folder) / service, run))
        yield


@contextmanager
def _environment(always: Mapping[str, str], unless_set: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set variables of the environment for a while; those `unless_set` only where a person has not."""
    wanted = {
        **{name: value for name, value in (unless_set or {}).items() if name not in os.environ},
        **always,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _tensorboard(settings: WatchSettings, folder: Path, run: str) -> Iterator[None]:
    with _environment({"TENSORBOARD_LOGGING_DIR": str(folder / settings.run)}):
        yield


@contextmanager
def _wandb(settings: WatchSettings, folder: Path, run: str) -> Iterator[None]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    usual = {"WANDB_PROJECT": settings.project, "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
    if not _has_wandb_key():
        usual["WANDB_MODE"] = "offline"
    with _environment({"WANDB_RUN_ID": run, "WANDB_RESUME": "allow"}, usual):
        try:
            yield
        finally:
            wandb.finish()


def _has_wandb_key() -> bool:
    """Return whether the environment, or a login of this machine, has a key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    with suppress(OSError):
        return "wandb" in file.read_text(encoding="utf-8", errors="replace")
    return False


@contextmanager
def _mlflow(settings: WatchSettings, folder: Path, run: str) -> Iterator[None]:
    import mlflow

    is_local = not mlflow.is_tracking_uri_set()
    usual = {"MLFLOW_EXPERIMENT_NAME": settings.project}
    if is_local:
        folder.mkdir(parents=True, exist_ok=True)
        usual["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    with _environment({}, usual):
        client, name = mlflow.MlflowClient(), os.environ["MLFLOW_EXPERIMENT_NAME"]
        known = client.get_experiment_by_name(name)
        # Without an address of its own the experiment would keep its files in the current folder.
        local = (folder / "artifacts").as_uri() if is_local else None
        experiment = known.experiment_id if known else client.create_experiment(name, artifact_location=local)
        found = client.search_runs([experiment], f"tags.{_RUN_TAG} = '{run}'")
        begun = (
            found[0] if found else client.create_run(experiment, tags={_RUN_TAG: run}, run_name=settings.run)
        )
        # The trainer names the experiment by this variable, and MLflow writes the other one itself.
        with _environment({"MLFLOW_RUN_ID": begun.info.run_id, "MLFLOW_EXPERIMENT_ID": experiment}):
            try:
                yield
            finally:
                mlflow.end_run()


@contextmanager
def _trackio(settings: WatchSettings, folder: Path, run: str) -> Iterator[None]:
    import trackio

    try:
        yield
    finally:
        with suppress(RuntimeError):  # the trainer has finished it
            trackio.finish()


_SERVICES = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
