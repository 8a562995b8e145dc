"""Open models in several workers, which answer calls at the same time.

A stage gets one model, whose tokenizer is here and whose calls are answered by workers: a call with all that belongs to
it goes to one of them. So a worker has the batches that a single process would have, and the ids are equal wherever
the engine promises equal texts for equal batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import ModelSection, WorkersSection
from selfimprove_dagster.language_model.base import (
    Generation,
    LanguageModel,
    Progress,
    SamplingParameters,
    Scores,
    check_can,
)
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.prompting import prompting_of
from selfimprove_dagster.language_model.tokens import TokenText
from selfimprove_dagster.stage import OpensModels
from selfimprove_dagster.workers.pool import Log, Pool, Worker


class SharedModel(TokenText):
    """A model that is open in the workers of a pool. Several threads may call it at the same time."""

    model_id: str
    engine: str
    promise: str

    def __init__(self, path: str, options: Mapping[str, Any], pool: Pool) -> None:
        """Open the tokenizer here, and the model in the first worker, with the options of `open_language_model`."""
        trusted = bool(options.get("trust_remote_code"))
        super().__init__(model_folder(path, trust_remote_code=trusted), trust_remote_code=trusted)
        if options.get("prompting") is not None:
            self.prompting = prompting_of(**options["prompting"])
        self._pool = pool
        vars(self).update(pool.first().about)

    @property
    def at_once(self) -> int:
        """Return how many calls are answered at the same time."""
        return self._pool.count

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample continuations; see `LanguageModel.generate`."""
        found: list[list[Generation]] = self._pool.call("generate", (prompts, seeds, parameters), progress)
        return found

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return log-probabilities of tokens; see `LanguageModel.score`."""
        found: list[list[float]] = self._pool.call("score", (contexts, continuations))
        return found

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probabilities of options; see `LanguageModel.option_probabilities`."""
        found: list[list[float]] = self._pool.call("option_probabilities", (contexts, options))
        return found

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """Return the probability of a token after each position; see `LanguageModel.next_token_probability`."""
        found: list[list[float]] = self._pool.call("next_token_probability", (sequences, token_id))
        return found

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return where a token is among the likeliest; see `LanguageModel.among_likeliest`."""
        arguments = (contexts, continuations, token_id, most)
        found: list[list[bool]] = self._pool.call("among_likeliest", arguments)
        return found

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


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
