"""Find training texts that are, or quote, a text held out for evaluation.

Two texts are equal if their words are. A training text quotes an evaluation text if 13 words in a row are in both, the
length with which GPT-3 was checked (Brown et al., 2005.14165, appendix C). Case, punctuation, kinds of quotes and
Unicode forms make no difference. What carries meaning in mathematics does: operators, the sign of a number, and the
point within one. Each character of a script without spaces (Chinese, Japanese, Thai, …) is a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import polars as pl

from selfimprove_dagster.filters.rules import Filter, decision

WORDS = 13
"""Words in a row that are a quotation."""

_BATCH = 25_000
"""Texts that one thread reads at a time."""

_SLOTS = 1 << 24

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = (
    rf"[{_UNSPACED}]\p{{M}}*"
    rf"|[-*]?\p{{N}}+(?:[.,]\p{{N}}+)*"
    rf"|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+"
    rf"|[[\p{{Sm}}^/%]--[|~]]"
)
_WORD_IN_ASCII = r"[-*]?[0-9]+(?:[.,][0-9]+)*|[a-z0-9]+|[+<=>^/%]"
_INVISIBLE = r"\p{Cf}"
"""Characters that are not seen, such as soft hyphens and zero-width spaces."""
_DASH, _SIGN, _SIGN_IN_ASCII = r"[\p{Pd}−]", r"([-*])\s+(\p{N})", r"([-*])[ \t\n\r]+([0-9])"


def words_of(texts: pl.Series) -> pl.Series:
    """Return the words of each text, as lists."""
    ascii_only = texts.str.len_bytes() == texts.str.len_chars()
    if ascii_only.all():
        return _words_in_ascii(texts)
    order = pl.concat([ascii_only.arg_true(), (~ascii_only).arg_true()])
    found = pl.concat([_words_in_ascii(texts.filter(ascii_only)), _words(texts.filter(~ascii_only))])
    return found.gather(order.arg_sort())


def _words_in_ascii(texts: pl.Series) -> pl.Series:
    """Like `_words`, in a fraction of the time."""
    lowered = texts.str.to_lowercase().str.replace_all(_SIGN_IN_ASCII, "$1$2")
    return lowered.str.extract_all(_WORD_IN_ASCII)


def _words(texts: pl.Series) -> pl.Series:
    # By way of upper case, `ß` is the same as `ss`, and `ς` as `σ`.
    lowered = (
        texts.str.replace_all(_INVISIBLE, "")
        .str.normalize("NFC")
        .str.to_uppercase()
        .str.to_lowercase()
        .str.normalize("NFC")
    )
    lowered = lowered.str.replace_all("ς", "σ", literal=True).str.replace_all(_DASH, "-")
    return lowered.str.replace_all(_SIGN, "$1$2").str.extract_all(_WORD)


def text_keys(texts: Iterable[str]) -> list[str]:
    """Return the words of each text with single spaces between them. Equal results mean equal texts.

    The key of a text without any word, such as `?!`, is the text.
    """
    given = pl.Series("text", list(texts), dtype=pl.String)
    return _keys(given, words_of(given))


@dataclass(frozen=True)
class Hit:
    """A training text that is or quotes an evaluation text; both are given by their index.

    `shared` holds the words that both have in a row, all of them if the texts are equal.
    """

    training: int
    evaluation: int
    rule: Literal["equal", "quotes"]
    shared: str


def hits(training: Iterable[str], evaluation: Sequence[str], words: int = WORDS) -> Iterator[Hit]:
    """Yield a hit for each training text that is or quotes an evaluation text; see `EvaluationTexts`."""
    return EvaluationTexts(evaluation, words).hits(training)


class EvaluationTexts:
    """The texts of an evaluation, read once and compared with any number of training texts."""

    def __init__(self, texts: Iterable[str], words: int = WORDS) -> None:
        """Read the evaluation texts. `words` in a row are a quotation; 0 looks for equal texts only."""
        self._length = words
        self._equal: dict[str, int] = {}
        self._quoted: dict[str, int] = {}
        hashes = [np.empty(0, np.uint64)]
        for first, batch in _batches(texts):
            read = words_of(batch)
            for index, key in enumerate(_keys(batch, read), start=first):
                if key:
                    self._equal.setdefault(key, index)
            runs = _Runs(read, words) if words else None
            if runs is not None:
                hashes.append(runs.hashes)
                for at, text in enumerate(runs.texts.tolist()):
                    self._quoted.setdefault(runs.words(at), first + text)
        self._hashes = np.unique(np.concatenate(hashes))
        # Most runs of words are in no evaluation text, which a look into a small table shows for nearly all.
        self._slots = np.zeros(_SLOTS, dtype=bool)
        self._slots[self._hashes % _SLOTS] = True

    def hits(self, texts: Iterable[str]) -> Iterator[Hit]:
        """Yield a hit for each training text that is or quotes an evaluation text, in the order of the texts.

        An equal text is named before a quoted one, and of several quoted texts the one that is quoted first. The
        texts are read in batches, so there may be more than memory holds.
        """
        batches, count = _batches(texts), pl.thread_pool_size()
        with ThreadPoolExecutor(count) as threads:
            while group := list(islice(batches, count)):
                for found in threads.map(lambda one: self._hits(*one), group):
                    yield from found

    def _hits(self, first: int, texts: pl.Series) -> list[Hit]:
        read = words_of(texts)
        found: dict[int, Hit] = {}
        for index, key in enumerate(_keys(texts, read)):
            if key in self._equal:
                found[index] = Hit(first + index, self._equal[key], "equal", key)
        if self._length and len(self._hashes):
            runs = _Runs(read, self._length)
            likely = np.flatnonzero(self._slots[runs.hashes % _SLOTS])
            likely = likely[np.isin(runs.hashes[likely], self._hashes)]
            for at, index in zip(likely.tolist(), runs.texts[likely].tolist(), strict=True):
                if index not in found and (evaluation := self._quoted.get(runs.words(at))) is not None:
                    found[index] = Hit(first + index, evaluation, "quotes", runs.words(at))
        return [found[index] for index in sorted(found)]


def not_contaminated(
    evaluation: EvaluationTexts, names: Sequence[str], columns: Sequence[str], rule: str = "contamination"
) -> Filter:
    """Drop candidates of which one of the text columns is or quotes an evaluation text.

    `names` are the names of the evaluation texts, such as file and line; the decision has it as `nearest_id`.
    """

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found: dict[int, Hit] = {}
        for column in columns:
            for hit in evaluation.hits(candidates[column].fill_null("")):
                found.setdefault(hit.training, hit)
        rows = range(candidates.height)
        judged = candidates.select("candidate_id").with_columns(
            pl.Series(
                "nearest", [names[found[row].evaluation] if row in found else None for row in rows], pl.String
            ),
            pl.Series(
                "why", [described(found[row], names) if row in found else _CLEAN for row in rows], pl.String
            ),
        )
        return decision(
            judged, rule, kept=pl.col("nearest").is_null(), reason=pl.col("why"), nearest_id=pl.col("nearest")
        )

    return decide


_CLEAN = "neither equal to an evaluation text nor quoting one"


def described(hit: Hit, names: Sequence[str]) -> str:
    """Return what a hit found, in words."""
    if hit.rule == "equal":
        return f"the same text as {names[hit.evaluation]}, which is held out for evaluation"
    return f"has “{hit.shared}” from {names[hit.evaluation]}, which is held out for evaluation"


class _Runs:
    """All runs of `length` words within each of some texts: the text's index and a hash of each run."""

    def __init__(self, words: pl.Series, length: int) -> None:
        lengths = words.list.len().fill_null(0).to_numpy()
        self._words = words.explode(empty_as_null=False, keep_nulls=False)
        self._length = length
        text_of = np.repeat(np.arange(len(words), dtype=np.uint32), lengths)
        count = max(0, len(text_of) - length + 1)
        self._starts = np.flatnonzero(text_of[:count] == text_of[length - 1 :])
        self.texts = text_of[self._starts]
        hashes = self._words.hash().to_numpy()
        total = np.zeros(count, np.uint64)
        for at in range(length):
            total *= _FACTOR
            total += hashes[at : at + count]
        self.hashes = total[self._starts]

    def words(self, at: int) -> str:
        """Return the words of a run."""
        return " ".join(self._words.slice(int(self._starts[at]), self._length))


_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _keys(texts: pl.Series, words: pl.Series) -> list[str]:
    keys = words.list.join(" ")
    return (
        pl.select(pl.when(keys.str.len_bytes() > 0).then(keys).otherwise(texts.str.strip_chars()))
        .to_series()
        .to_list()
    )


def _batches(texts: Iterable[str]) -> Iterator[tuple[int, pl.Series]]:
    """Yield the texts as columns of some thousands, each with the index of its first text."""
    rest, first = iter(texts), 0
    while batch := list(islice(rest, _BATCH)):
        yield first, pl.Series("text", batch, dtype=pl.String)
        first += len(batch)
