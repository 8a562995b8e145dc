"""Keep sampled rows within a structure, with the library llguidance.

Each row has a matcher of its own, which follows the row's tokens alone, so a row does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.structure import Structure


def grammar_tokens(tokenizer: Any, vocabulary: int, end_token: int) -> Any:
    """Return llguidance's view of a tokenizer of transformers, for a model with so many embeddings.

    This takes about a second for a large vocabulary. Raises ModelError for a tokenizer that llguidance cannot read.
    """
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=end_token)
    except Exception as error:  # llguidance raises errors of several kinds
        raise ModelError(
            f"prompts.structure cannot be used with this model: llguidance cannot read its tokenizer "
            f"({first_line(error)})"
        ) from error


class Constraint:
    """Which tokens may follow, such that a row's text can still match a structure.

    An end token may follow exactly when the text matches. `banned` tokens may not follow.
    """

    def __init__(
        self, structure: Structure, tokens: Any, end_tokens: np.ndarray, banned: Sequence[int] = ()
    ) -> None:
        """Compile the structure for `grammar_tokens`. Raises ModelError if it is too complex, or not supported."""
        from llguidance import LLMatcher

        self.structure = structure
        self.end_tokens = end_tokens
        self.banned = np.array(banned, dtype=np.int64)
        self._words = -(-tokens.vocab_size // 32)
        self._start: Any = LLMatcher(tokens, structure.grammar(), log_level=0)
        self._check(self._start)

    def matcher(self) -> Any:
        """Return the matcher of a new row."""
        return self._start.deep_copy()

    def allowed(self, matchers: Sequence[Any], live: np.ndarray, vocabulary: int) -> np.ndarray:
        """Return which tokens may follow each row, bool [rows, vocabulary]; any token may follow finished rows.

        `live` (bool) marks the rows that are not finished. Raises ModelError for a row that no token can follow.
        """
        from llguidance.numpy import fill_next_token_bitmask

        words = np.zeros((len(matchers), self._words), dtype=np.int32)
        accepting = np.zeros(len(matchers), dtype=bool)
        rows = np.flatnonzero(live)
        for row in rows:
            fill_next_token_bitmask(matchers[row], words, row)
            self._check(matchers[row])
            accepting[row] = matchers[row].is_accepting()
        bits = np.unpackbits(words.view(np.uint8), axis=1, count=vocabulary, bitorder="little").view(bool)
        bits[:, self.end_tokens] = accepting[:, None]
        bits[:, self.banned] = False
        if not bits[rows].any(axis=1).all():
            raise ModelError(
                f"no token of the model can follow such that the text matches {self.structure}: its tokenizer lacks "
                "a character, or the token is banned"
            )
        bits[~live] = True
        return bits

    def follow(self, matchers: Sequence[Any], tokens: np.ndarray, rows: np.ndarray) -> None:
        """Let the matchers of `rows` (indices) read those rows' next tokens (`tokens`: [all rows])."""
        for row in rows:
            matchers[row].consume_token(int(tokens[row]))
            self._check(matchers[row])

    def _check(self, matcher: Any) -> None:
        if matcher.is_error():
            problem = " ".join(matcher.get_error().split())[:300]
            raise ModelError(f"text cannot be generated within {self.structure}: {problem}")
