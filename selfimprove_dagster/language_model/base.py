"""Define the interface of all engines: batches in, batches out, with token ids throughout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.language_model.replies import Reply
from selfimprove_dagster.language_model.structure import Structure

FinishReason = Literal["stop", "length", "too_long", "refused", "failed"]
"""Why a continuation ended, or, with the last three, why there is none."""


Scores = bool | Literal["options"]
"""What a stage needs: probabilities of given texts (True), of options to choose among, or neither (False)."""


Progress = Callable[[int, int], None]
"""Called as `progress(rows finished since the last call, tokens since the last call)`."""


@dataclass(frozen=True)
class SamplingParameters:
    """The parameters for sampling continuations.

    Temperature 0 is greedy decoding. `top_p` 1 and `top_k` 0 turn these off. `stop` strings end a
    continuation and are not part of it; the end-of-sequence token always ends it. `banned` tokens are never
    sampled. With a `structure`, only tokens are sampled with which the text can still match it. A text that was cut
    off at `max_tokens` or at a stop string may still not match: see `Structure.mismatch`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    banned: tuple[int, ...] = ()
    structure: Structure | None = None


@dataclass(frozen=True)
class Usage:
    """The number of tokens that a provider counted in a prompt and in the completion."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Served:
    """What a provider says of an answer: which version of the model gave it, the fingerprint of the system that ran the
    model, and when it was created (UTC, ISO 8601). A provider may leave out the first two.
    """

    model: str | None
    fingerprint: str | None
    at: str


@dataclass(frozen=True)
class Generation:
    """A sampled continuation.

    `token_ids` are the sampled tokens, including the end-of-sequence token if there is one. `logprobs` has
    one natural log-probability per token, under the model's own distribution (temperature 1, no truncation),
    from which perplexity can be computed. `text` is decoded without special tokens and cut before the first
    stop string. `finish_reason` is "stop" (end token or stop string) or "length".

    A row that could not be generated has no tokens, an empty text, and a `problem` in one line. Its `finish_reason` is
    "too_long" (the prompt leaves no room in the model's context), "refused" (the server does not answer this prompt),
    or "failed" (the server did not answer it, or not in full, in all attempts).

    The model's own distribution includes tokens that a structure does not allow, but with vLLM, in process or as a
    server, `logprobs` are those among the allowed tokens.

    A provider gives no token ids: there `token_ids` is empty, and `usage` has the number of tokens. `logprobs` has the
    log-probabilities that it gives, if any. `served` is what it says of the answer, and `reply` has the text and the
    calls of tools, if the model was shown tools.
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: FinishReason
    problem: str | None = None
    usage: Usage | None = None
    served: Served | None = None
    reply: Reply | None = None

    @property
    def tokens(self) -> int:
        """Return the number of sampled tokens."""
        return self.usage.completion if self.usage else len(self.token_ids)

    @property
    def measures(self) -> dict[str, Any]:
        """Return the measures of a row with this completion, as `table.completions` declares them."""
        served = self.served or Served(None, None, "")
        return {
            "logprobs": self.logprobs,
            "problem": self.problem,
            "served": served.model,
            "fingerprint": served.fingerprint,
            "answered_at": served.at or None,
        }

    @classmethod
    def without_text(cls, reason: FinishReason, problem: str) -> Generation:
        """Return the result of a row that could not be generated; the problem starts with the reason."""
        return cls([], [], "", reason, f"{reason}: {problem}")


class RefusedPrompt(list[int]):
    """The token ids of a conversation that the chat template refuses, which are none, and the `problem` in words."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = f"refused: {problem}"


@runtime_checkable
class LanguageModel(Protocol):
    """The operations of a language model."""

    model_id: str
    """Hash of the weights, `b2:…`."""
    engine: str
    """Name and version, e.g. `transformers 5.19.0`."""
    prompting: Prompting
    """How it is asked."""

    @property
    def promise(self) -> str:
        """Return in one line which texts, and so which ids, a repeated run gives; see `promise_of`."""

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompts: of texts, or of conversations that the chat template renders.

        Those of a conversation that the template refuses are a `RefusedPrompt`.
        """

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of what the model is to say after a prompt, without the token that ends it."""

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        """Return the text and the calls of tools in what a chat model wrote, by the format of its template."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, with the tokenizer's leading special tokens if it has any."""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text, several times faster than one by one."""

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of `text` after a prompt, i.e. without special tokens."""

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Apply `encode_continuation` to each text, several times faster than one by one."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids without special tokens."""

    @property
    def end_token_id(self) -> int:
        """Return the end-of-sequence token."""

    @property
    def turn_end_id(self) -> int:
        """Return the token that ends what the model says, of a turn in a conversation."""

    @property
    def vocabulary_size(self) -> int:
        """Return the number of tokens; their ids start at 0."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`, each with its own seed (0 ≤ seed < 2**63).

        A prompt that cannot be continued has results with a `problem`, and the others are continued. Raises ModelError
        for what concerns every prompt, such as a server that is down.
        """

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the natural log-probability of each token of `continuations[i]` after `contexts[i]`.

        They are NaN where both together do not fit into the model's context, or the server does not score them.
        """

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of each option (token ids, equal for all contexts), summing to 1 per context.

        They are NaN for a context after which the options cannot be scored, as in `score`.
        """

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """Return p(token_id | tokens up to and including i) for each sequence and each position i.

        They are NaN for a sequence that cannot be scored, as in `score`.
        """

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return whether `token_id` is among the `most` most likely tokens, at each token of the
        continuations.

        `continuations[i]` follows `contexts[i]`. An impossible token is never among them, and neither is any token
        where a continuation cannot be scored, as in `score`. Raises ModelError
        if `most` exceeds what the engine can report.
        """

    def close(self) -> None:
        """Release the memory of the weights."""


def positions(model: LanguageModel) -> int:
    """Return the maximum length of a sequence in tokens; unlimited if the engine reports none."""
    return int(getattr(model, "positions", sys.maxsize))


def no_scores(model: LanguageModel, tokens: int) -> str:
    """Return why the model gave no probabilities (NaN) of a sequence of so many tokens, as the `problem` of a row."""
    room = positions(model)
    if tokens >= room:
        return f"too_long: {tokens:,} tokens are to be scored, and the model has {room:,} positions"
    if getattr(model, "chooses", None) is not None:
        return "refused: the provider's model did not answer, or named none of the options"
    return "failed: the engine gave no probabilities"


def check_scores(model: LanguageModel) -> None:
    """Raise ModelError with the reason if the engine cannot score."""
    if reason := getattr(model, "cannot_score", None):
        raise ModelError(
            f"{reason}; this method needs that: serve the model with vLLM, or use another engine"
        )


def check_chooses(model: LanguageModel) -> None:
    """Raise ModelError with the reason if the engine can neither score nor choose among options."""
    if getattr(model, "chooses", None) is None:
        check_scores(model)


def check_can(model: LanguageModel, scores: Scores) -> None:
    """Raise ModelError with the reason if the engine cannot do what a stage needs."""
    if scores == "options":
        check_chooses(model)
    elif scores:
        check_scores(model)


def placement(model: LanguageModel) -> dict[str, str]:
    """`device` (`cuda:0`) and `dtype` (`float32`), of an engine that knows where it computes, which a server does
    not say; `revision`, of a model that came from the hub.
    """
    known = {name: getattr(model, name, None) for name in ("device", "dtype", "revision")}
    return {name: str(value) for name, value in known.items() if value is not None}
