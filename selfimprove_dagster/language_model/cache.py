"""Cache keys and values of a cohort, i.e. rows that were started together, with several samples per prompt.

All rows of a cohort have the same age, so their own keys and values fill the same columns and need no mask.
Its prompts are stored once, however many samples each has:

    prompt 0   [p p p p p] ──┬── row 0  [a a a a]
                             └── row 1  [a a a a]
    prompt 1   [. . p p p] ───── row 2  [a a a a]        a row of prompt 1 has finished and left

Attention over a prompt is then one matrix product for all its samples, and no row reads columns that only
older rows have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

BLOCK_COLUMNS = 32
"""Number of columns by which the storage of the rows grows."""


def is_plain(cache: Cache) -> bool:
    """Return whether all layers are ordinary attention layers, as `SharedPromptCache` requires."""
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


class SharedPromptCache:
    """The keys and values of one cohort, read and written by `attend`, one layer at a time."""

    def __init__(self, prefilled: DynamicCache, mask: Tensor, sources: np.ndarray) -> None:
        """Take over `prefilled` right-aligned prompts.

        `mask`: their [prompts, length] of ones and zeros; `sources`: the prompt of each row, ascending.
        """
        self.prompts = [(layer.keys, layer.values) for layer in prefilled.layers]
        self.hidden: Tensor | None = None
        if not bool(mask.all()):
            lowest = torch.finfo(self.prompts[0][0].dtype).min
            self.hidden = ((1 - mask) * lowest).to(self.prompts[0][0].dtype)[:, None, None]
        self.device = mask.device
        self.age = 0
        self.capacity = BLOCK_COLUMNS
        self.rows = [
            tuple(
                states.new_empty((len(sources), states.shape[1], self.capacity, states.shape[3]))
                for states in layer
            )
            for layer in self.prompts
        ]
        self._arrange(sources)

    def _arrange(self, sources: np.ndarray) -> None:
        """Build index tables between rows and the grid [prompts, key heads, samples of a prompt]."""
        self.sources = sources
        prompts, heads = self.prompts[0][0].shape[:2]
        counts = np.bincount(sources, minlength=prompts)
        width = int(counts.max())
        self.alone = width == 1 and len(sources) == prompts
        sample = np.arange(len(sources)) - (np.cumsum(counts) - counts)[sources]
        # Places of the grid without a row compute some row's attention again, which is not used.
        rows = np.zeros((prompts, width), dtype=np.int64)
        rows[sources, sample] = np.arange(len(sources))
        head = np.arange(heads)
        to_grid = rows[:, None, :] * heads + head[None, :, None]
        to_rows = (sources[:, None] * heads + head) * width + sample[:, None]
        self.to_grid = torch.from_numpy(to_grid.reshape(-1)).to(self.device)
        self.to_rows = torch.from_numpy(to_rows.reshape(-1)).to(self.device)

    def advance(self) -> None:
        """Add one column."""
        if self.age == self.capacity:
            self._rebuild(None)
        self.age += 1

    def keep(self, kept: np.ndarray) -> None:
        """Shrink to these rows, ascending; prompts without rows are removed, too."""
        sources = self.sources[kept]
        prompts, sources = np.unique(sources, return_inverse=True)
        if len(prompts) < len(self.prompts[0][0]):
            chosen = torch.from_numpy(prompts).to(self.device)
            self.prompts = [(keys[chosen], values[chosen]) for keys, values in self.prompts]
            self.hidden = None if self.hidden is None else self.hidden[chosen]
        self._rebuild(torch.from_numpy(kept).to(self.device))
        self._arrange(sources.astype(np.int64))

    def _rebuild(self, kept: Tensor | None) -> None:
        """Copy the rows `kept` (None: all) to storage with at least one free column."""
        self.capacity = (self.age // BLOCK_COLUMNS + 1) * BLOCK_COLUMNS

        def moved(storage: Tensor) -> Tensor:
            filled = storage[:, :, : self.age]
            filled = filled if kept is None else filled.index_select(0, kept)
            rows, heads, _, size = filled.shape
            fresh = filled.new_empty((rows, heads, self.capacity, size))
            fresh[:, :, : self.age] = filled
            return fresh

        self.rows = [(moved(keys), moved(values)) for keys, values in self.rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute attention of one new token per row over its prompt, its previous tokens and itself.

        `query` (already scaled): [rows, key heads, group, d]; `key`, `value`: [rows, key heads, 1, d].
        Returns [rows, key heads, group, d of the values].
        """
        keys, values = (storage[:, :, : self.age] for storage in self.rows[layer])
        keys[:, :, -1:] = key
        values[:, :, -1:] = value
        prompt_keys, prompt_values = self.prompts[layer]
        scores = torch.matmul(self._grid(query), prompt_keys.transpose(2, 3))
        if self.hidden is not None:
            scores += self.hidden
        scores = torch.cat((self._spread(scores, query.shape), torch.matmul(query, keys.transpose(2, 3))), -1)
        weights = scores.softmax(-1)
        length = prompt_keys.shape[2]
        output = torch.matmul(weights[..., length:], values)
        shared = torch.matmul(self._grid(weights[..., :length]), prompt_values)
        return output.add_(self._spread(shared, query.shape))

    def _grid(self, states: Tensor) -> Tensor:
        """[rows, key heads, group, n] → [prompts, key heads, samples × group, n]."""
        if self.alone:
            return states
        _, heads, group, size = states.shape
        gathered = states.reshape(-1, group * size).index_select(0, self.to_grid)
        return gathered.view(len(self.prompts[0][0]), heads, -1, size)

    def _spread(self, states: Tensor, shape: torch.Size) -> Tensor:
        """[prompts, key heads, samples × group, n] → [rows, key heads, group, n]."""
        if self.alone:
            return states
        rows, heads, group, _ = shape
        size = states.shape[-1]
        return states.view(-1, group * size).index_select(0, self.to_rows).view(rows, heads, group, size)


class PaddedCache:
    """A cache for models with other layers (sliding windows, linear attention), based on that of
    transformers.

    The prompts are repeated for each sample, and the mask is the usual [rows, length] of ones and zeros.
    """

    def __init__(self, prefilled: DynamicCache, mask: Tensor, sources: np.ndarray) -> None:
        self.states: Any = prefilled
        self.mask = mask
        self.keep(sources)

    def advance(self) -> None:
        """Add one column."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.mask), 1))], dim=1)

    def keep(self, kept: np.ndarray) -> None:
        """Shrink to these rows, in this order."""
        chosen = torch.from_numpy(kept).to(self.mask.device)
        self.states.reorder_cache(chosen)
        self.mask = self.mask.index_select(0, chosen)
