"""Compute attention for grouped-query models without copying the keys and values for every query head.

transformers' "eager" attention repeats the key/value heads to the number of query heads on each step, which
for one new token per row is more work than the attention itself. Here the query heads of a group are folded
into the length dimension, so that a plain matrix product reads the cache in place: 0.4 ms per layer instead
of 1.3 ms (eager) and 0.5 ms (SDPA) for 256 rows × 80 positions × 4 heads of 32 on two CPU cores.

Sequences are packed into one row without padding, with shared prefixes stored once, so that all layers except
attention process only distinct tokens. Attention separates the strands again (`Packed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from selfimprove_dagster.language_model.cache import SharedPromptCache

GROUPED_ATTENTION = "selfimprove_grouped"


LONGEST_FOLDED_SCORES = 1 << 16
"""Query length × key length above which PyTorch's kernel, which never stores the scores, is used."""


SPREAD = 0.8
"""Minimum length, relative to the longest, of strands whose attention is computed together."""


@dataclass(frozen=True)
class Strands:
    """The own tokens of some sequences of a packed batch, of similar length.

    `queries` [strands, q] and `keys` [strands, k] are the positions of their tokens in the batch, with the
    tokens that they continue before their own. `mask` [strands, 1, q, k] is added to the scores.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Packed:
    """Sequences that are concatenated to one row of tokens, without padding and without repeated prefixes.

    A token attends to earlier tokens of its own sequence. `outputs` [tokens] is the position of each token in
    the concatenated attention of the groups of strands.
    """

    strands: list[Strands]
    outputs: Tensor


def packed(paths: Sequence[np.ndarray], begins: np.ndarray, like: Tensor) -> Packed:
    """Return the packing of sequences with tokens at `paths[i]` of the batch; their own start at `begins[i]`.

    Every sequence has at least one own token. `like` gives the device and dtype of the mask.
    """
    whole = np.array([len(path) for path in paths])
    lengths = whole - begins
    flat, starts = np.concatenate(paths), np.cumsum(whole) - whole
    order = np.argsort(-lengths, kind="stable")
    outputs = np.empty(lengths.sum(), dtype=np.int64)
    groups: list[Strands] = []
    taken = at = 0
    while at < len(order):
        longest = lengths[order[at]]
        chosen = order[at : at + int((lengths[order[at:]] >= SPREAD * longest).sum())]
        before, first = begins[chosen, None], starts[chosen, None]
        own, left = np.arange(longest), np.arange(before.max())
        # Padding repeats the last token: its output is not used, and no earlier query attends to it.
        queries = flat[first + before + np.minimum(own, lengths[chosen, None] - 1)]
        shared = flat[first + np.minimum(left, np.maximum(before - 1, 0))]
        seen = np.broadcast_to(own[None, :] <= own[:, None], (len(chosen), longest, longest))
        read = np.broadcast_to((left < before)[:, None], (len(chosen), longest, len(left)))
        hidden = torch.from_numpy(~np.concatenate((read, seen), axis=2)[:, None]).to(like.device)
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        mask.masked_fill_(hidden, torch.finfo(like.dtype).min)
        keys = np.concatenate((shared, queries), axis=1)
        groups.append(
            Strands(torch.from_numpy(queries).to(like.device), torch.from_numpy(keys).to(like.device), mask)
        )
        real = own < lengths[chosen, None]
        outputs[queries[real]] = taken + np.flatnonzero(real)
        taken += queries.size
        at += len(chosen)
    return Packed(groups, torch.from_numpy(outputs).to(like.device))


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cohorts: Sequence[SharedPromptCache] | None = None,
    packing: Packed | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention for inference (`dropout` is ignored).

    With `cohorts` (one new token per row, rows in the order of the cohorts), past keys and values come from
    there. With `packing` (a batch of one row), attention is computed per strand instead of over the row.

    `query`: [rows, heads, q, d]; `key`, `value`: [rows, key heads, k, d]; `attention_mask`: added to the
    scores, [rows, 1, q, k]. Returns [rows, q, heads, d]. Raises NotImplementedError for other changes of the
    scores (soft capping, sinks).
    """
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise NotImplementedError("grouped attention supports neither soft capping nor sinks")
    if packing is not None:
        return _packed_attention(module, query, key, value, scaling, packing), None
    rows, heads, query_length, size = query.shape
    key_heads, key_length = key.shape[1], key.shape[2]
    scaling = size**-0.5 if scaling is None else scaling
    if cohorts is not None:
        return _cohort_attention(module, query * scaling, key, value, cohorts), None
    if query_length > 1 and query_length * key_length > LONGEST_FOLDED_SCORES:
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=heads != key_heads
        )
        return output.transpose(1, 2).contiguous(), None
    group = heads // key_heads
    folded = (query * scaling).reshape(rows, key_heads, group * query_length, size)
    scores = torch.matmul(folded, key.transpose(2, 3))
    if attention_mask is not None:
        if query_length == 1:
            scores += attention_mask
        else:
            scores.view(rows, key_heads, group, query_length, key_length).add_(attention_mask[:, :, None])
    output = torch.matmul(scores.softmax(-1), value)
    return output.view(rows, heads, query_length, value.shape[-1]).transpose(1, 2).contiguous(), None


def _cohort_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, cohorts: Sequence[SharedPromptCache]
) -> Tensor:
    """Compute attention of one scaled query per row, [rows, heads, 1, d] → [rows, 1, heads, d]."""
    rows, heads, _, size = query.shape
    key_heads = key.shape[1]
    folded = query.reshape(rows, key_heads, heads // key_heads, size)
    sizes = [len(cohort.sources) for cohort in cohorts]
    outputs = [
        cohort.attend(module.layer_idx, *states)
        for cohort, *states in zip(
            cohorts, folded.split(sizes), key.split(sizes), value.split(sizes), strict=True
        )
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output.reshape(rows, 1, heads, value.shape[-1])


def _packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, packing: Packed
) -> Tensor:
    """Compute attention of the strands, group by group: [1, heads, tokens, d] → [1, tokens, heads, d]."""
    outputs = [
        grouped_attention(
            module,
            _taken(query, group.queries),
            _taken(key, group.keys),
            _taken(value, group.keys),
            group.mask,
            scaling,
        )[0].flatten(0, 1)
        for group in packing.strands
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output.index_select(0, packing.outputs)[None]


def _taken(states: Tensor, places: Tensor) -> Tensor:
    """Gather [1, heads, tokens, d] at `places` [strands, length] as contiguous [strands, heads, length, d]."""
    heads, size = states.shape[1], states.shape[3]
    index = places[:, None] * heads + torch.arange(heads, device=places.device)[:, None]
    taken = states[0].transpose(0, 1).reshape(-1, size).index_select(0, index.reshape(-1))
    return taken.view(len(places), heads, -1, size)


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)


AttentionMaskInterface.register(GROUPED_ATTENTION, eager_mask)
