"""Convert between text and token ids for every engine, including the edge cases of tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import AutoTokenizer

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.base import Generation, RefusedPrompt, SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.rendering import Renderer
from selfimprove_dagster.language_model.replies import Reply
from selfimprove_dagster.language_model.stopping import StopStrings
from selfimprove_dagster.language_model.weights import suggested_sampling

Token = TypeVar("Token", int, str)


BANNED = -100.0
"""Bias for the logit of a banned token, for engines that support biases but no bans."""


MOST_LIKELIEST = 20
"""Number of most likely tokens that vLLM and servers report per position by default."""


LAST_TOKENS = 32
"""Number of tokens at the end of a prompt in which a mark of thoughts is searched."""


class TokenText:
    """The tokenizer part of `base.LanguageModel`, which engines inherit."""

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        """Open the tokenizer in `folder`.

        Raises ModelError if there is none, or it has no end-of-sequence token.
        """
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"transformers cannot open the tokenizer in {folder}: {first_line(error)}"
            ) from error
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer in {folder} names no end-of-sequence token: set its eos_token")
        self._folder = folder
        self._prompting = TEXT

    @property
    def suggested_sampling(self) -> dict[str, float]:
        """Return the sampling settings that the model's makers suggest; nothing applies them unasked."""
        return suggested_sampling(self._folder)

    @property
    def prompting(self) -> Prompting:
        """Return how the model is asked: in plain text unless something else is set."""
        return self._prompting

    @prompting.setter
    def prompting(self, prompting: Prompting) -> None:
        self._prompting = prompting
        self.__dict__.pop("_renderer", None)

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self._prompting, str(self._folder))

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompts: of texts, or of conversations that the chat template renders."""
        return self._renderer.encode(prompts)

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of what the model is to say after a prompt, without the token that ends it."""
        return self._renderer.encode_completions(completions)

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        """Return the text and the calls of tools in what a chat model wrote, by the format of its template."""
        return self._renderer.read_reply(token_ids)

    @property
    def turn_end_id(self) -> int:
        """Return the token that ends what the model says, of a turn in a conversation."""
        return self._renderer.end_token_id

    @property
    def end_token_id(self) -> int:
        """Return the end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def vocabulary_size(self) -> int:
        """Return the number of tokens; their ids start at 0."""
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, with the tokenizer's leading special tokens if it has any."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text, several times faster than one by one; the text of a special token stays text."""
        return self._renderer.encode_texts(texts)

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of `text` after a prompt, i.e. without special tokens."""
        return self.encode_continuations([text])[0]

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Apply `encode_continuation` to each text, several times faster than one by one."""
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return rows

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids without special tokens."""
        return self.decode_many([list(token_ids)])[0]

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Decode each row."""
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def stop_strings(self, stop: Sequence[str]) -> StopStrings:
        """Return what finds the stop strings in completions, outside their thoughts."""
        begun = self._renderer.begins_in_thought
        return StopStrings(stop, lambda: self.token_texts, self.decode, self.prompting.thinking, begun)

    def said(self, text: str) -> str:
        """Return what a completion says, without its thoughts."""
        return self.prompting.thinking.said(text, self._renderer.begins_in_thought)

    def engine_stops(self, stop: Sequence[str]) -> list[str]:
        """Return the stop strings to pass to an engine that would end thoughts by them too: none in conversations.

        A plain text may have no end without them; see `continuing`.
        """
        return [] if self.prompting.chat else list(stop)

    def ended(self, drawn: Generation, stops: StopStrings) -> Generation:
        """Return a completion of such an engine as if the stop strings had ended it, without its thoughts.

        It ends at the token at which an engine that watches every token ends it. Later tokens count for nothing, not
        even a mark that closes thoughts.
        """
        appears = any(text in drawn.text for text in stops.stop)
        length = stops.length(drawn.token_ids) if appears else None
        if length is None:
            return replace(drawn, text=self.said(drawn.text))
        ids = drawn.token_ids[:length]
        return Generation(ids, drawn.logprobs[:length], self.said(stops.cut(self.decode(ids))), "stop")

    @cached_property
    def token_texts(self) -> list[str]:
        """Return each vocabulary entry's text after another token (some lose a leading space at the start)."""
        before = self.encode_continuation("a")[-1:]
        skipped = len(self.decode(before))
        texts = self.decode_many([[*before, token] for token in range(len(self.tokenizer))])
        return [text[skipped:] for text in texts]

    def check_structure(self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters) -> None:
        """Raise ModelError if a structure is asked for after a prompt that opens the model's thoughts.

        A structure holds from the first token on, so that the model would have to answer within its thoughts.
        """
        mark = self.prompting.thinking.open
        if parameters.structure is None:
            return
        for prompt in prompts:
            if self.tokenizer.decode(list(prompt[-LAST_TOKENS:])).rstrip().endswith(mark):
                raise ModelError(
                    f"the prompt ends with {mark}, within which the model cannot write an answer that matches "
                    f"{parameters.structure}: turn its thoughts off (model.template_arguments, such as "
                    "`enable_thinking: false`), or remove prompts.structure"
                )

    def started(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt, or, if it is empty, the beginning-of-sequence or else the end-of-sequence token."""
        if isinstance(prompt, RefusedPrompt):
            return prompt
        if len(prompt):
            return list(prompt)
        begin = self.tokenizer.bos_token_id
        return [self.end_token_id if begin is None else int(begin)]


def check_sampling(
    prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], parameters: SamplingParameters
) -> None:
    """Raise ModelError for parameters outside their ranges, or seeds that do not match the prompts."""
    if parameters.temperature < 0:
        raise ModelError(f"temperature is {parameters.temperature}: it must be 0 or more")
    if not 0 < parameters.top_p <= 1:
        raise ModelError(f"top_p is {parameters.top_p}: it must be above 0 and at most 1")
    if parameters.top_k < 0:
        raise ModelError(f"top_k is {parameters.top_k}: it must be 0 (off) or more")
    if parameters.max_tokens < 1:
        raise ModelError(f"max_tokens is {parameters.max_tokens}: it must be at least 1")
    if len(prompts) != len(seeds):
        raise ModelError(
            f"{len(prompts)} prompts but seeds for {len(seeds)}: give one list of seeds per prompt"
        )


def check_contexts(contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> None:
    """Raise ModelError unless there is one continuation per context."""
    if len(contexts) != len(continuations):
        raise ModelError(
            f"{len(contexts)} contexts but {len(continuations)} continuations: "
            "give one continuation per context"
        )


def check_options(options: Sequence[Sequence[int]]) -> None:
    """Raise ModelError unless there is at least one option and none is empty."""
    if not options or not all(len(option) for option in options):
        raise ModelError("give at least one option, none of them empty")


def check_most(most: int) -> None:
    """Raise ModelError if `most` exceeds what vLLM and servers report per position."""
    if not 1 <= most <= MOST_LIKELIEST:
        raise ModelError(f"the {most} most likely tokens were requested: request 1 to {MOST_LIKELIEST}")


def is_among(logprobs: Mapping[Token, float], token: Token, most: int) -> bool:
    """Return whether fewer than `most` of the listed most likely tokens are more likely than this one."""
    own = logprobs.get(token, -inf)
    return own > -inf and sum(other > own for other in logprobs.values()) < most


def joint_logprobs(
    score: Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[list[float]]],
    contexts: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
) -> np.ndarray:
    """Return the log-probability of each whole option after each context, [contexts, options], with `score`."""
    repeated = [context for context in contexts for _ in options]
    totals = [sum(row) for row in score(repeated, list(options) * len(contexts))]
    return np.reshape(totals, (len(contexts), len(options)))


def normalised(logprobs: Sequence[Sequence[float]] | np.ndarray) -> list[list[float]]:
    """Return probabilities that sum to 1 per row, from log-probabilities [contexts, options]."""
    if not len(logprobs):
        return []
    joint = np.asarray(logprobs, dtype=np.float64)
    odds = np.exp(joint - joint.max(axis=1, keepdims=True))
    found: list[list[float]] = (odds / odds.sum(axis=1, keepdims=True)).tolist()
    return found


def check_tokens(rows: Iterable[Sequence[int]], vocabulary: int) -> None:
    """Raise ModelError for a token id that a model with so many embeddings does not have."""
    for row in rows:
        if len(row) and not (min(row) >= 0 and max(row) < vocabulary):
            wrong = next(token for token in row if not 0 <= token < vocabulary)
            raise ModelError(
                f"token {wrong} is not one of the model's {vocabulary}: the tokenizer that made it is not this "
                "model's"
            )


def without_room(prompts: Sequence[Sequence[int]], positions: int) -> dict[int, Generation]:
    """Return, by index, the result of each prompt that leaves no room for another token in the model's context, or that
    the chat template refuses.
    """
    refused = {
        index: Generation([], [], "", "refused", prompt.problem)
        for index, prompt in enumerate(prompts)
        if isinstance(prompt, RefusedPrompt)
    }
    return refused | {
        index: Generation.without_text(
            "too_long", f"the prompt has {len(prompt):,} tokens, and the model has {positions:,} positions"
        )
        for index, prompt in enumerate(prompts)
        if len(prompt) >= positions
    }
