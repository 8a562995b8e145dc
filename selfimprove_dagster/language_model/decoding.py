"""Sample in batches: encode prompts once for all their samples, and replace finished rows by waiting ones.

Rows are decoded in cohorts, a few of which form the batch. A cohort starts by encoding its prompts, and its
rows leave when they finish; when enough rows have left, another cohort starts. The network processes all
cohorts as one batch; only attention processes them one by one, each with the length of its own rows.

transformers has its own continuous batching (`generate_batch`), but with one seed per run and not per
request, so a row cannot be replayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfimprove_dagster.language_model.base import FinishReason, SamplingParameters
from selfimprove_dagster.language_model.constraining import Constraint
from selfimprove_dagster.language_model.lanes import merged
from selfimprove_dagster.language_model.network import Network, agreement
from selfimprove_dagster.language_model.sampling import draw, uniforms
from selfimprove_dagster.language_model.stopping import StopStrings

COHORTS = 2
"""Number of cohorts in a full batch: more refill it more evenly, fewer have less overhead."""


EMPTY_SHARE = 0.2
"""Share of finished rows at which a cohort is shrunk."""


@dataclass(frozen=True)
class Row:
    """A continuation to sample, of at most `limit` tokens."""

    prompt: int
    sample: int
    seed: int
    limit: int


@dataclass(frozen=True)
class Drawn:
    """A finished continuation before it is decoded to text."""

    row: Row
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Cohort:
    """Rows that were started together; after k steps each has k + 1 tokens."""

    def __init__(
        self,
        network: Network,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[Sequence[Row]],
        constraint: Constraint | None = None,
    ) -> None:
        """Encode `prompts[i]` once for the rows `groups[i]`; `logits` belong to the rows' first tokens.

        With a `constraint`, each row has a matcher in `matchers`.
        """
        sources = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self.rows = [row for group in groups for row in group]
        self.live = np.ones(len(self.rows), dtype=bool)
        self.seeds = np.array([row.seed for row in self.rows], dtype=np.int64)
        self.limits = np.array([row.limit for row in self.rows], dtype=np.int64)
        self.lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)[sources]
        self.tokens = np.zeros((len(self.rows), int(self.limits.max())), dtype=np.int64)
        self.logprobs = np.zeros(self.tokens.shape, dtype=np.float32)
        self.drawn = 0
        self.matchers: list[Any] = [constraint.matcher() for _ in self.rows] if constraint else []
        prefill = network.prefill(prompts)
        self.logits = prefill.logits[torch.from_numpy(sources).to(prefill.logits.device)]
        self.cache = network.open_cache(prefill, sources)

    def __len__(self) -> int:
        return len(self.rows)

    def record(
        self, tokens: np.ndarray, logprobs: np.ndarray, ended: np.ndarray, stops: StopStrings
    ) -> list[Drawn]:
        """Record every row's next token; return the rows that it finishes.

        `ended` (bool) marks the end tokens.
        """
        self.tokens[:, self.drawn] = tokens
        self.logprobs[:, self.drawn] = logprobs
        self.drawn += 1
        for index in stops.candidates(tokens):
            if self.live[index] and not ended[index]:
                ended[index] = stops.completed(self.tokens[index, : self.drawn].tolist())
        finished = []
        for index in np.flatnonzero(self.live & (ended | (self.limits <= self.drawn))):
            self.live[index] = False
            finished.append(
                Drawn(
                    self.rows[index],
                    self.tokens[index, : self.drawn].tolist(),
                    self.logprobs[index, : self.drawn].tolist(),
                    "stop" if ended[index] else "length",
                )
            )
        return finished

    def shrink(self) -> None:
        """Remove finished rows, if there are enough of them."""
        if self.live.mean() > 1 - EMPTY_SHARE:
            return
        kept = np.flatnonzero(self.live)
        self.rows = [self.rows[index] for index in kept]
        self.matchers = [self.matchers[index] for index in kept] if self.matchers else []
        for name in ("live", "seeds", "limits", "lengths", "tokens", "logprobs"):
            setattr(self, name, getattr(self, name)[kept])
        if len(kept):
            self.cache.keep(kept)


@dataclass
class Decoder:
    """The constant state while the rows of one call are sampled."""

    network: Network
    parameters: SamplingParameters
    end_tokens: np.ndarray
    stops: StopStrings
    constraint: Constraint | None = None

    @torch.inference_mode()
    def begin(
        self, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Row]]
    ) -> tuple[Cohort, list[Drawn]]:
        """Return a cohort with its first tokens, and the rows that these finish."""
        cohort = Cohort(self.network, prompts, groups, self.constraint)
        return cohort, self._draw([cohort], cohort.logits)

    @torch.inference_mode()
    def step(self, cohorts: Sequence[Cohort]) -> list[Drawn]:
        """Sample one more token for every row; return the finished rows."""
        tokens = np.concatenate([cohort.tokens[:, cohort.drawn - 1] for cohort in cohorts])
        # Finished rows stay within the model's context because of their limit.
        positions = np.concatenate([cohort.lengths + cohort.drawn - 1 for cohort in cohorts])
        positions = np.minimum(positions, self.network.max_length - 1)
        logits = self.network.step([cohort.cache for cohort in cohorts], tokens, positions)
        return self._draw(cohorts, logits)

    def _draw(self, cohorts: Sequence[Cohort], logits: Tensor) -> list[Drawn]:
        seeds = np.concatenate([cohort.seeds for cohort in cohorts])
        steps = np.repeat([cohort.drawn for cohort in cohorts], [len(cohort) for cohort in cohorts])
        chance = torch.from_numpy(uniforms(seeds, steps)).to(logits.device)
        allowed = None
        if self.constraint:
            matchers = [matcher for cohort in cohorts for matcher in cohort.matchers]
            live = np.concatenate([cohort.live for cohort in cohorts])
            bits = self.constraint.allowed(matchers, live, logits.shape[-1])
            allowed = torch.from_numpy(bits).to(logits.device)
        drawn, chosen = draw(logits, chance, self.parameters, allowed)
        tokens, logprobs = drawn.cpu().numpy(), chosen.cpu().numpy()
        ended = np.isin(tokens, self.end_tokens)
        if self.constraint:
            self.constraint.follow(matchers, tokens, np.flatnonzero(live & ~ended))
        finished, start = [], 0
        for cohort in cohorts:
            part = slice(start, start + len(cohort))
            finished += cohort.record(tokens[part], logprobs[part], ended[part], self.stops)
            start = part.stop
        return finished


def rows_of_a_lane(expected: int, token_budget: int) -> int:
    """Return how many rows a lane has at once at most; `expected` is the largest number of tokens of a row."""
    return max(1, token_budget // expected)


def decode(
    decoder: Decoder, prompts: Sequence[Sequence[int]], rows: Sequence[Row], token_budget: int
) -> Generator[list[Drawn]]:
    """Sample all rows; yield them as they finish.

    A lane's batch has about `token_budget` tokens when its rows have half of their maximum length.
    """
    if not rows:
        return
    lanes = decoder.network.lanes
    most_rows = rows_of_a_lane(max(len(prompts[row.prompt]) + row.limit // 2 for row in rows), token_budget)
    # A small call should not leave a lane without work.
    most_rows = min(most_rows, -(-len(rows) // lanes))
    # Rows that all fit into the batches need no refilling: one cohort per lane.
    cohort_rows = most_rows if most_rows * lanes >= len(rows) else max(1, most_rows // COHORTS)
    groups = _groups(prompts, rows, cohort_rows)
    shares = [groups[lane::lanes] for lane in range(min(lanes, len(groups)))]
    yield from merged([partial(_lane, decoder, prompts, share, most_rows, cohort_rows) for share in shares])


def _lane(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    share: Sequence[list[Row]],
    most_rows: int,
    cohort_rows: int,
) -> Iterator[list[Drawn]]:
    """Sample the rows of `share` in order, at most `most_rows` at a time."""
    waiting = deque(share)
    cohorts: list[Cohort] = []
    while waiting or cohorts:
        while waiting and sum(map(len, cohorts)) + cohort_rows <= most_rows:
            groups = [waiting.popleft()]
            while waiting and sum(map(len, groups)) + len(waiting[0]) <= cohort_rows:
                groups.append(waiting.popleft())
            cohort, finished = decoder.begin([prompts[group[0].prompt] for group in groups], groups)
            cohorts.append(cohort)
            if finished:
                yield finished
        for cohort in cohorts:
            cohort.shrink()
        cohorts = [cohort for cohort in cohorts if len(cohort)]
        finished = decoder.step(cohorts) if cohorts else []
        if finished:
            yield finished


def _groups(prompts: Sequence[Sequence[int]], rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Group the rows of each prompt, with at most `most` rows per group.

    Prompts that share half of their tokens follow one another, so that a cohort reads these once. Otherwise
    the longest prompts come first.
    """
    by_prompt: dict[int, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, []).append(row)
    families: list[list[int]] = []
    for prompt in sorted(by_prompt, key=lambda prompt: tuple(prompts[prompt])):
        tokens = prompts[prompt]
        if not families or 2 * agreement(prompts[families[-1][-1]], tokens) < len(tokens):
            families.append([])
        families[-1].append(prompt)
    families.sort(key=lambda family: -max(len(prompts[prompt]) for prompt in family))
    groups = [by_prompt[prompt] for family in families for prompt in family]
    return [group[at : at + most] for group in groups for at in range(0, len(group), most)]
