"""Filter by novelty: a text joins a pool only if no member is too similar by ROUGE-L (Wang et al.,
2212.10560).

ROUGE-L F1 of two texts is 2pr / (p + r), where p and r are the length of their longest common subsequence
of tokens over the length of each (Lin 2004). Formula and order of operations are those of the package
`rouge_score`, so with the tokeniser `rouge` scores are bitwise equal to its scores without stemming. The other
tokenisers (see `tokenisers`) are for texts that are not English.

The pool is exact without aligning every pair, since the overlap of a candidate and a member is bounded first:

1. an inverted index of the candidate's rarest tokens finds members to align immediately, so that the score of
   its tenth nearest is high from the start;
2. every token has one of 255 buckets, and a member is the set of its buckets. The number of the candidate's
   tokens whose bucket a member has is an upper bound of the longest common subsequence; one matrix product
   counts them for many candidates and members. Only members whose bound reaches the tenth nearest continue;
3. these are aligned by RapidFuzz, those with the highest bounds first.

In 1 and 2, the k-th occurrence of a token in a text counts as a separate token, so the bounds are multiset
bounds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from scipy import sparse

from selfimprove_dagster.filters.tokenisers import Tokeniser, rouge

_BUCKETS = 255  # one less than a power of two: the matrix product also has a column of lengths


_BLOCK = 1024  # candidates per block


_TILE = 1024  # pool members per matrix product


_POSTINGS = 2048  # maximum number of postings that are read per candidate


_HEAD = 32  # members that are aligned before the bounds are checked again


_PENDING = 1 << 16  # pairs that are collected before they are aligned


_GROWTH = 1.25  # the index is rebuilt when the pool has grown by this factor


_ROUNDING = 3e-5  # tolerance for F1, above the error of a product in single precision


_CODE_POINTS = 0x110000


Ints = npt.NDArray[np.int64]


Floats = npt.NDArray[np.float64]


Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate joined the pool, and its nearest members as (index in the pool, F1), best first."""

    kept: bool
    neighbours: tuple[tuple[int, float], ...]


def rouge_l_f1(a: str, b: str, tokeniser: Tokeniser = rouge) -> float:
    """Return the ROUGE-L F1 of two texts, 0 if one has no tokens. It is symmetric."""
    first, second = tokeniser(a), tokeniser(b)
    common = LCSseq.similarity(first, second)
    return float(_f1(np.array([common]), np.array([len(first)]), np.array([len(second)]))[0])


def _f1(common: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Floats:
    """Return F1 from the lengths of the common subsequence and of both texts. It increases with the first."""
    precision, recall = common / np.maximum(first, 1), common / np.maximum(second, 1)
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros(total.shape), where=total > 0)


class NoveltyPool:
    """A pool of texts in the order in which they joined, with nearest-neighbour search.

    Members are stored as tokens; 1,000,000 instructions take about 0.4 GB.
    """

    def __init__(self, texts: Sequence[str] = (), *, nearest: int = 10, tokeniser: Tokeniser = rouge) -> None:
        """Create a pool of these texts without any check.

        `nearest` is the number of neighbours in a verdict.
        """
        if nearest < 1:
            raise ValueError(f"nearest must be at least 1, not {nearest}: one neighbour decides")
        self._nearest, self._tokens = nearest, tokeniser
        self._ids: dict[str | tuple[int, int], int] = {}
        self._sequences = _Growing(np.empty(0, object))
        self._lengths = _Growing(np.empty(0, np.int32))
        self._features = _Growing(np.empty(0, np.int32))
        self._bits = _Growing(np.empty((0, (_BUCKETS + 1) // 8), np.uint8))
        self._indexed = 0
        self._bucket = np.empty(0, np.uint8)
        self._frequency = np.empty(0, np.int64)
        self._postings = sparse.csr_array((0, 0), dtype=np.int8)
        self.add(texts)

    def __len__(self) -> int:
        return len(self._lengths.rows)

    def add(self, texts: Sequence[str]) -> None:
        """Add texts without any check."""
        for start in range(0, len(texts), _BLOCK):
            self._join(self._read(texts[start : start + _BLOCK]))
        self._index_if_grown()

    def admit(
        self,
        candidates: Sequence[str],
        threshold: float = 0.7,
        progress: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        """Return one verdict per candidate; novel candidates join the pool.

        Candidates are processed in order. A candidate is rejected if its highest F1 with the pool, including
        earlier candidates that joined, exceeds the threshold. Its neighbours are members at that time; ties
        are broken by the order of joining. `progress` is called with numbers of finished candidates.
        """
        verdicts: list[Verdict] = []
        for start in range(0, len(candidates), _BLOCK):
            block = self._read(candidates[start : start + _BLOCK])
            verdicts += self._settle(block, self._nearest_members(block), threshold)
            self._index_if_grown()
            if progress:
                progress(len(block))
        return verdicts

    # --- reading texts, and the index of the pool ---

    def _read(self, texts: Sequence[str]) -> _Block:
        sequences, lengths, features = np.empty(len(texts), object), [], []
        ids = self._ids
        for at, text in enumerate(texts):
            found = [ids.setdefault(token, len(ids)) for token in self._tokens(text)]
            sequences[at] = _sequence(found)
            lengths.append(len(found))
            if len(set(found)) < len(found):
                seen: dict[int, int] = {}
                for place, token in enumerate(found):
                    seen[token] = times = seen.get(token, 0) + 1
                    if times > 1:
                        found[place] = ids.setdefault((token, times), len(ids))
            features += found
        return _Block(sequences, np.array(lengths, np.int32), np.array(features, np.int32))

    def _join(self, block: _Block) -> None:
        self._sequences.extend(block.sequences)
        self._lengths.extend(block.lengths)
        self._features.extend(block.features)
        self._bits.extend(self._bits_of(block.lengths, block.features))

    def _buckets_of(self, features: Numbers) -> npt.NDArray[np.uint8]:
        """Return the bucket of each feature; an unknown feature gets a bucket by its number."""
        buckets = (features % _BUCKETS).astype(np.uint8)
        seen = features < len(self._bucket)
        buckets[seen] = self._bucket[features[seen]]
        return buckets

    def _bits_of(self, lengths: Numbers, features: Numbers) -> npt.NDArray[np.uint8]:
        present = np.zeros((len(lengths), _BUCKETS + 1), np.bool_)
        present[np.repeat(np.arange(len(lengths)), lengths), self._buckets_of(features)] = True
        return np.packbits(present, axis=1)

    def _index_if_grown(self) -> None:
        """Rebuild the index: equally full buckets, and posting lists of rare tokens."""
        if len(self) <= self._indexed * _GROWTH:
            return
        self._indexed = len(self)
        lengths, features = self._lengths.rows, self._features.rows
        self._frequency = np.bincount(features, minlength=len(self._ids))
        self._bucket = _equally_full(self._frequency)
        ends = np.cumsum(lengths, dtype=np.int64)
        for start in range(0, len(self), _TILE):
            stop = min(start + _TILE, len(self))
            part = features[ends[start] - lengths[start] : ends[stop - 1]]
            self._bits.rows[start:stop] = self._bits_of(lengths[start:stop], part)
        rare = self._frequency[features] <= _POSTINGS
        members = np.repeat(np.arange(len(self), dtype=np.int32), lengths)[rare]
        entries = np.ones(len(members), np.int8), (features[rare], members)
        self._postings = sparse.coo_array(entries, (len(self._frequency), len(self))).tocsr()

    # --- the nearest members of a block of candidates ---

    def _nearest_members(self, block: _Block) -> _Best:
        best = _Best(len(block), self._nearest)
        self._align(block, best, *self._likely_near(block))
        if len(self) > self._nearest:
            self._align_all_that_may_be_near(block, best)
        return best

    def _likely_near(self, block: _Block) -> tuple[Ints, Ints]:
        """Return pairs of a candidate and a member that shares most of its rarest tokens.

        The first members are included, since they are the nearest of a candidate without any overlap.
        """
        rows = np.repeat(np.arange(len(block)), block.lengths)
        known = block.features < len(self._frequency)
        rows, features = rows[known], block.features[known]
        order = np.lexsort((self._frequency[features], rows))
        rows, features = rows[order], features[order]
        read = np.concatenate([[0], np.cumsum(self._frequency[features])])
        before = read[np.searchsorted(rows, np.arange(len(block)))]
        few = read[1:] - before[rows] <= _POSTINGS
        entries = np.ones(few.sum(), np.int8), (rows[few], features[few])
        shared = sparse.coo_array(entries, (len(block), len(self._frequency))).tocsr() @ self._postings
        first = np.arange(min(self._nearest, len(self)))
        chosen = []
        for row, (start, stop) in enumerate(zip(shared.indptr[:-1], shared.indptr[1:], strict=True)):
            members = shared.indices[start:stop]
            if len(members) > _HEAD:
                lengths = self._lengths.rows[members] + block.lengths[row]
                members = members[np.argpartition(-shared.data[start:stop] / lengths, _HEAD)[:_HEAD]]
            chosen += [first, members]
        counts = np.array([len(members) for members in chosen]).reshape(-1, 2).sum(axis=1)
        return np.repeat(np.arange(len(block)), counts), np.concatenate(chosen).astype(int)

    def _align_all_that_may_be_near(self, block: _Block, best: _Best) -> None:
        """Bound all pairs by matrix products and align those that may be among the nearest.

        A pair may be among them if its overlap is at least half of F1 times the sum of both lengths. The sum
        is the last column of the product.
        """
        counts = np.zeros((len(block), _BUCKETS + 1), np.float32)
        rows = np.repeat(np.arange(len(block)), block.lengths)
        np.add.at(counts, (rows, self._buckets_of(block.features)), 1)
        waiting: list[tuple[Ints, Ints, Floats]] = []
        tile = np.empty((_TILE, _BUCKETS + 1), np.float32)
        product = np.empty((len(block), _TILE), np.float32)
        for start in range(0, len(self), _TILE):
            if not waiting:
                half = np.maximum((best.last_score - _ROUNDING) / 2, 1e-7).astype(np.float32)
                counts[:, _BUCKETS] = -half
                least = (half * block.lengths)[:, None]
            lengths = self._lengths.rows[start : start + _TILE]
            tile[: len(lengths)] = np.unpackbits(self._bits.rows[start : start + _TILE], axis=1)
            tile[: len(lengths), _BUCKETS] = lengths
            if len(lengths) < _TILE:
                product = product[:, : len(lengths)].copy()
            np.matmul(counts, tile[: len(lengths)].T, out=product)
            rows, columns = np.divmod(np.flatnonzero(product >= least), len(lengths))
            n, m = lengths[columns], block.lengths[rows]
            shared = np.floor(product[rows, columns] + half[rows] * n + 0.01 + _ROUNDING * (m + n))
            waiting.append(best.still_near(rows, columns + start, _f1(np.minimum(shared, n), m, n)))
            if sum(len(pairs[0]) for pairs in waiting) > _PENDING:
                self._align_by_bound(block, best, waiting)
        if waiting:
            self._align_by_bound(block, best, waiting)

    def _align_by_bound(self, block: _Block, best: _Best, waiting: list[tuple[Ints, Ints, Floats]]) -> None:
        """Align the waiting pairs (candidate, member, bound), the highest bound of each candidate first."""
        rows, members, bounds = map(np.concatenate, zip(*waiting, strict=True))
        waiting.clear()
        head = _HEAD
        while len(rows):
            order = np.argsort(rows - bounds / 2)
            rows, members, bounds = rows[order], members[order], bounds[order]
            now = _rank(rows) < head
            self._align(block, best, rows[now], members[now])
            rows, members, bounds = best.still_near(rows[~now], members[~now], bounds[~now])
            head *= 4

    def _align(self, block: _Block, best: _Best, rows: Ints, members: Ints) -> None:
        """Score pairs and keep the nearest of each candidate."""
        texts, others = block.sequences[rows], self._sequences.rows[members]
        common = process.cpdist(texts, others, scorer=LCSseq.similarity, dtype=np.uint32, workers=-1)
        best.take(rows, members, _f1(common, block.lengths[rows], self._lengths.rows[members]))

    # --- the candidates of a block among themselves ---

    def _settle(self, block: _Block, best: _Best, threshold: float) -> list[Verdict]:
        """Decide in order, and add the novel candidates."""
        rows, earlier, scores = self._within(block, best)
        starts = np.searchsorted(rows, np.arange(len(block) + 1)).tolist()
        members, known = best.members.tolist(), best.scores.tolist()
        before, joined = len(self), [-1] * len(block)
        verdicts: list[Verdict] = []
        keep: list[int] = []
        for row in range(len(block)):
            near = [(-s, m) for s, m in zip(known[row], members[row], strict=True) if m >= 0]
            part = slice(starts[row], starts[row + 1])
            for other, score in zip(earlier[part].tolist(), scores[part].tolist(), strict=True):
                if joined[other] >= 0:
                    near.append((-score, joined[other]))
            near = heapq.nsmallest(self._nearest, near)
            kept = not near or -near[0][0] <= threshold
            if kept:
                joined[row] = before + len(keep)
                keep.append(row)
            verdicts.append(Verdict(kept, tuple((member, -score) for score, member in near)))
        self._join(block.only(np.array(keep, int)))
        return verdicts

    def _within(self, block: _Block, best: _Best) -> tuple[Ints, Ints, Floats]:
        """Return pairs of a candidate and an earlier one of its block that may be near, with their F1."""
        lengths, texts = block.lengths, block.sequences
        others = (
            texts.tolist()
        )  # a separate object, since RapidFuzz has only a slower loop for the same object
        common = process.cdist(texts, others, scorer=LCSseq.similarity, dtype=np.uint32, workers=-1)
        half = (best.last_score[:, None] - _ROUNDING) / 2
        rows, earlier = np.nonzero(np.tril(common >= half * (lengths[:, None] + lengths), -1))
        return rows, earlier, _f1(common[rows, earlier], lengths[rows], lengths[earlier])


@dataclass(frozen=True)
class _Block:
    """Texts as sequences of token numbers; `features` are the concatenated features of all texts.

    A feature is a token, or its second, third, … occurrence in a text.
    """

    sequences: npt.NDArray[np.object_]
    lengths: Numbers
    features: Numbers

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, rows: Ints) -> _Block:
        chosen = np.zeros(len(self), np.bool_)
        chosen[rows] = True
        return _Block(
            self.sequences[chosen], self.lengths[chosen], self.features[np.repeat(chosen, self.lengths)]
        )


class _Best:
    """The nearest members of each candidate of a block, best first; -1 if there is none yet."""

    def __init__(self, candidates: int, nearest: int) -> None:
        self.members = np.full((candidates, nearest), -1)
        self.scores = np.full((candidates, nearest), -1.0)

    @property
    def last_score(self) -> Floats:
        return self.scores[:, -1]

    def still_near(self, rows: Ints, members: Ints, bounds: Floats) -> tuple[Ints, Ints, Floats]:
        """Return the pairs that would rank before the last of the nearest if their bound were their score."""
        last, member = self.last_score[rows], self.members[rows, -1]
        near = (bounds > last) | ((bounds == last) & (members < member))
        return rows[near], members[near], bounds[near]

    def take(self, rows: Ints, members: Ints, scores: Floats) -> None:
        """Insert scored pairs. A pair that is already present changes nothing."""
        rows, members, scores = self.still_near(rows, members, scores)
        touched, rows = np.unique(rows, return_inverse=True)
        rows = np.concatenate([np.repeat(np.arange(len(touched)), self.members.shape[1]), rows])
        members = np.concatenate([self.members[touched].ravel(), members])
        scores = np.concatenate([self.scores[touched].ravel(), scores])
        order = np.lexsort((members, -scores, rows))
        rows, members, scores = rows[order], members[order], scores[order]
        again = np.zeros(len(rows), np.bool_)
        again[1:] = (rows[1:] == rows[:-1]) & (members[1:] == members[:-1]) & (members[1:] >= 0)
        rows, members, scores = rows[~again], members[~again], scores[~again]
        rank = _rank(rows)
        placed = rank < self.members.shape[1]
        self.members[touched[rows[placed]], rank[placed]] = members[placed]
        self.scores[touched[rows[placed]], rank[placed]] = scores[placed]


class _Growing:
    """An array that can be extended efficiently."""

    def __init__(self, empty: npt.NDArray[Any]) -> None:
        self._room, self._used = empty, 0

    @property
    def rows(self) -> npt.NDArray[Any]:
        return self._room[: self._used]

    def extend(self, rows: npt.NDArray[Any]) -> None:
        used = self._used + len(rows)
        if used > len(self._room):
            room = np.empty((max(used, int(len(self._room) * _GROWTH)), *rows.shape[1:]), self._room.dtype)
            room[: self._used] = self.rows
            self._room = room
        self._room[self._used : used] = rows
        self._used = used


def _sequence(ids: list[int]) -> str | list[int]:
    """Return token numbers in the fastest form for RapidFuzz: a string, if there are enough code points."""
    return "".join(map(chr, ids)) if max(ids, default=0) < _CODE_POINTS else ids.copy()


def _rank(rows: Ints) -> Ints:
    """Return the rank of each element among its equals in a sorted array."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _equally_full(frequency: Ints) -> npt.NDArray[np.uint8]:
    """Assign features to equally full buckets: each in turn to the emptiest."""
    buckets = np.arange(len(frequency)) % _BUCKETS
    fullness = [(0, bucket) for bucket in range(_BUCKETS)]
    present = np.flatnonzero(frequency)
    for feature in present[np.argsort(-frequency[present], kind="stable")].tolist():
        full, buckets[feature] = fullness[0]
        heapq.heapreplace(fullness, (full + int(frequency[feature]), buckets[feature]))
    return buckets.astype(np.uint8)
