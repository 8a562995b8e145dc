"""Detect stop strings in token ids without decoding every row at every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from selfimprove_dagster.language_model.prompting import THINKING, Thinking

SPARE_TOKENS = 8
"""Number of extra tokens to decode: special tokens have no text, and some tokenizers drop a leading space or
half a character at the front."""


class StopStrings:
    """Detects when a row's text contains one of the stop strings.

    A stop string is completed by the token with its last character, so only tokens whose text has such a
    character (or half a character, in byte-level vocabularies) can complete one. For these, the end of the
    row is decoded: a stop string of b bytes spans at most b tokens with text.
    """

    def __init__(
        self,
        stop: Sequence[str],
        token_texts: Callable[[], Sequence[str]],
        decode: Callable[[Sequence[int]], str],
        thinking: Thinking = THINKING,
        begun: bool = False,
    ) -> None:
        """Prepare the search.

        `token_texts()` returns each token's text after others; it is called only if needed. Stop strings do not end
        thoughts, which are as in `Thinking.start`.
        """
        self.stop = tuple(text for text in stop if text)
        self.decode, self.thinking, self.begun = decode, thinking, begun
        self.completing: np.ndarray | None = None
        if self.stop:
            last = {text[-1] for text in self.stop} | {"�"}
            self.completing = np.array([not last.isdisjoint(text) for text in token_texts()], dtype=bool)
            self.tail = max(len(text.encode()) for text in self.stop) + SPARE_TOKENS

    def candidates(self, tokens: np.ndarray) -> np.ndarray:
        """Return the indices of the tokens ([rows], int64) that could complete a stop string."""
        if self.completing is None:
            return np.empty(0, dtype=np.int64)
        known = np.minimum(tokens, len(self.completing) - 1)
        return np.flatnonzero(self.completing[known])

    def completed(self, token_ids: Sequence[int]) -> bool:
        """Return whether the end of the row's text contains a stop string, outside thoughts."""
        tail = self.decode(token_ids[-self.tail :])
        if not any(text in tail for text in self.stop):
            return False
        text = self.decode(token_ids)
        return self.cut(text) != text

    def length(self, token_ids: Sequence[int]) -> int | None:
        """Return the number of tokens at which a watched row would have ended; None if it would not have."""
        for index in self.candidates(np.array(token_ids, dtype=np.int64)):
            if self.completed(token_ids[: index + 1]):
                return int(index) + 1
        return None

    def cut(self, text: str) -> str:
        """Return `text` up to its first stop string after its thoughts, or all of it."""
        return cut_after_thoughts(text, self.stop, self.thinking, self.begun)


def cut_after_thoughts(text: str, stop: Sequence[str], thinking: Thinking, begun: bool = False) -> str:
    """Return `text` up to the first of the stop strings after its thoughts, or all of it.

    The thoughts, which are as in `Thinking.start`, stay in it.
    """
    start = thinking.start(text, begun)
    return text if start is None else text[:start] + cut_at(text[start:], stop)


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return `text` up to the first of the stop strings in it, or all of it; empty strings stop nothing."""
    places = [place for place in map(text.find, filter(None, stop)) if place >= 0]
    return text[: min(places)] if places else text
