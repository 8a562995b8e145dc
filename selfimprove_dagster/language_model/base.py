"""The one interface behind which every engine stands: batch in, batch out, token ids throughout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from selfimprove_dagster.errors import ModelError

FinishReason = Literal["stop", "length"]


Progress = Callable[[int, int], None]
"""Called as `progress(rows finished since the last call, tokens since the last call)`."""


@dataclass(frozen=True)
class SamplingParameters:
    """How continuations are drawn.

    temperature 0 is greedy decoding. `top_p` 1 and `top_k` 0 switch those off. `stop` strings end a
    continuation and are not part of it; the end-of-sequence token always ends it. `banned` tokens are never
    drawn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    banned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generation:
    """One sampled continuation.

    `token_ids` are the tokens that were drawn, an end-of-sequence token included when one was;
    `logprobs` has one natural logarithm a token, under the model's own distribution (temperature 1,
    no truncation), so that perplexity can be read off them. `text` is decoded without special tokens and
    cut before the first stop string. `finish_reason` is "stop" (end token or stop string) or "length".
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: FinishReason


@runtime_checkable
class LanguageModel(Protocol):
    """What a method may ask of a language model."""

    model_id: str
    """Hash of the weights, `b2:…`."""
    engine: str
    """Name and version, e.g. `transformers 5.19.0`."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the tokenizer's leading special tokens if it has any."""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, several times faster than one by one."""

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text` as it follows a prompt: without any special tokens."""

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_continuation` of each text, several times faster than one by one."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""

    @property
    def end_token_id(self) -> int:
        """The end-of-sequence token."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; their ids are 0 to one less."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Draw `len(seeds[i])` continuations of `prompts[i]`, each from its own seed (0 ≤ seed < 2**63)."""

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Natural log-probability of each token of `continuations[i]` after `contexts[i]`."""

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Probability of each option (token ids, the same for all contexts), summing to 1 a context."""

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """For each sequence and each position i, p(token_id | tokens up to and including i)."""

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """At the place of each token of `continuations[i]` after `contexts[i]`: whether fewer than `most`
        tokens are likelier there than `token_id`, and it is possible. Raises ModelError for more than the
        engine can tell of.
        """

    def close(self) -> None:
        """Free the weights' memory."""


def positions(model: LanguageModel) -> int:
    """Tokens that a sequence can have, prompt and continuation: no end where the engine names none."""
    return int(getattr(model, "positions", sys.maxsize))


def check_scores(model: LanguageModel) -> None:
    """Raise ModelError, with the reason, for an engine that has found out that it cannot score."""
    if reason := getattr(model, "cannot_score", None):
        raise ModelError(
            f"{reason}; this method needs that: serve the model with vLLM, or use another engine"
        )


def placement(model: LanguageModel) -> dict[str, str]:
    """`device` (`cuda:0`) and `dtype` (`float32`), of an engine that knows where it computes, which a server does
    not say; `revision`, of a model that came from the hub.
    """
    known = {name: getattr(model, name, None) for name in ("device", "dtype", "revision")}
    return {name: str(value) for name, value in known.items() if value is not None}
