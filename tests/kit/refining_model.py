"""A model whose words are told, for tests of refinement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters


@dataclass
class ToldModel:
    """Tokens are bytes. `says` gives what follows a prompt; `fine` how probable any scored text is after one.

    `refuses` says what is wrong with a prompt, as an engine would that fails on it.
    """

    says: Callable[[str], str]
    fine: Callable[[str], float] = lambda prompt: 0.0
    refuses: Callable[[str], str] = lambda prompt: ""
    positions: int = 10_000
    model_id: str = "b2:told"
    engine: str = "told 1"
    end_token_id: int = 0
    batches: list[list[str]] = field(default_factory=list)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    encode_continuation = encode

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        texts = self._read(prompts)
        self.batches.append(texts)
        drawn = [[self._written(text, parameters.max_tokens)] for text in texts]
        if progress:
            progress(len(drawn), sum(len(path.token_ids) for (path,) in drawn))
        return drawn

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [[math.log(max(self.fine(text), 1e-9))] for text in self._read(contexts)]

    def _read(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        texts = [self.decode(prompt) for prompt in prompts]
        for text in texts:
            if why := self.refuses(text):
                raise ModelError(why)
        return texts

    def _written(self, prompt: str, most: int) -> Generation:
        ids = self.encode(f" {said}" if (said := self.says(prompt)) else "")
        cut = ids[:most]
        return Generation(cut, [-0.5] * len(cut), self.decode(cut), "stop" if len(ids) <= most else "length")
