"""Open the models of an experiment in several workers, if it asks for them. Importing this loads no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import ModelSection, WorkersSection
from selfimprove_dagster.language_model.base import LanguageModel, Scores, check_can
from selfimprove_dagster.stage import OpensModels
from selfimprove_dagster.workers.pool import Log, Pool, Worker


class SharedModels:
    """Opens models in the workers that an experiment's `run.workers` asks for, and others as `models` does."""

    def __init__(self, models: OpensModels, workers: WorkersSection, log: Log) -> None:
        self._models, self._workers, self._log = models, workers, log

    def options(self, section: ModelSection, path: str | Path | None = None) -> dict[str, Any]:
        """Return the arguments of `open_language_model`, besides the path."""
        return self._models.options(section, path)

    @contextmanager
    def open(
        self, section: ModelSection, path: str | Path | None = None, scores: Scores = False
    ) -> Iterator[LanguageModel]:
        """Open the model at `path` (default: the section's own); its workers end on leaving.

        A model that a server or a provider has is asked by this process alone. Raises ModelError if the engine cannot
        do what `scores` says, or if no worker could open it.
        """
        if not section.runs_in_process:
            with self._models.open(section, path, scores) as served:
                yield served
            return
        from selfimprove_dagster.workers.shared_model import SharedModel

        place, options = str(path or section.path), self.options(section, path)
        pool = Pool(self._workers.count, self._start(place, options), self._log)
        try:
            model = SharedModel(place, options, pool)
            check_can(model, scores)
            yield model
        finally:
            pool.close()

    def _start(self, path: str, options: Mapping[str, Any]) -> Callable[[int], Worker]:
        workers = self._workers
        if workers.kind == "ray":
            from selfimprove_dagster.workers.on_ray import RayWorkers

            return RayWorkers(workers, path, options, self._log).start

        def start(slot: int) -> Worker:
            from selfimprove_dagster.workers.process import LocalWorker

            return LocalWorker(slot, path, options, workers.resources)

        return start


def shared(models: OpensModels, experiment: Experiment, log: Log) -> OpensModels:
    """Return what opens the models of an experiment: `models`, or its workers if it has some."""
    workers = experiment.run.workers
    return models if workers is None else SharedModels(models, workers, log)
