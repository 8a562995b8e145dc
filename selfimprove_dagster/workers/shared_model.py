"""A model that is open in several workers, which answer its calls at the same time.

Its tokenizer is in the stage's process. A call with all that belongs to it goes to one worker. So a worker has the
batches that a single process would have, and the ids are equal wherever the engine promises equal texts for equal
batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.prompting import prompting_of
from selfimprove_dagster.language_model.tokens import TokenText
from selfimprove_dagster.workers.pool import Pool


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
