"""Run forward passes of a decoder-only network of transformers over token ids, without sampling or text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.attention import GROUPED_ATTENTION, packed
from selfimprove_dagster.language_model.cache import PaddedCache, SharedPromptCache, is_plain
from selfimprove_dagster.language_model.folder import most_positions

CohortCache = SharedPromptCache | PaddedCache


LOGIT_ELEMENTS = 1 << 22
"""Maximum number of logits in memory while scoring (16 MB in float32)."""


SHARED_TOKENS = 0.75
"""Maximum share of distinct tokens in a padded batch of prompts for which they are packed."""


LANE_PARAMETERS = 50_000_000
"""Maximum number of parameters for which rows, rather than operations, are distributed among CPU cores;
measured at one million only."""


ROUNDINGS = 1.5
"""How far apart two ways of computing the same logits may lie, as a multiple of what one more rounding of every
layer's output changes (found in 50 architectures: up to 1.03 of it; another mask is off by 10 times as much)."""


WRONG_DIALECT = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)
"""Errors that models raise for an unsupported mask, cache or argument."""


@dataclass
class Prefill:
    """Encoded prompts with left padding.

    `mask`: [prompts, length], int64 ones and zeros; `logits` of the next token: [prompts, vocabulary].
    """

    cache: DynamicCache
    mask: Tensor
    logits: Tensor


class Network:
    """Forward passes of a model whose conventions (masks, positions, output layer) `adapt` has detected."""

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self.device: torch.device = model.device
        self.parameters: int = model.num_parameters()
        arguments = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in arguments
        self.takes_logits_to_keep = "logits_to_keep" in arguments
        self.shares_prompts = False
        self.head: Any = None
        # A four-dimensional mask is used unchanged; the attention of cohorts needs none.
        self.no_mask = torch.zeros((1, 1, 1, 1), dtype=model.dtype, device=model.device)
        self.max_length = most_positions(model.config)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.rounding = 0.0

    @property
    def lanes(self) -> int:
        """Return the number of parallel lanes: one per core for a small model on the CPU, else one."""
        small = self.parameters <= LANE_PARAMETERS
        return torch.get_num_threads() if self.device.type == "cpu" and small else 1

    @property
    def _caps_scores(self) -> bool:
        """Whether attention scores are capped, which SDPA leaves out: too small a change to tell from rounding."""
        config = self.model.config.get_text_config(decoder=True)
        return getattr(config, "attn_logit_softcapping", None) is not None

    @torch.inference_mode()
    def adapt(self, attentions: Sequence[str]) -> None:
        """Select the first attention that agrees with plain forward passes, and detect other features.

        Three short token sequences are run one by one under the model's own eager attention, without
        padding or cache; padded batches and cached steps must give the same logits, but for the rounding of the
        model's number format. An attention that the model does not have is passed over. Raises ModelError where
        it is the only one asked for, and where padding on the left changes the logits.
        """
        generator = torch.Generator().manual_seed(0)
        sequences = [
            torch.randint(self.vocabulary, (size,), generator=generator).tolist() for size in (9, 6, 3)
        ]
        self.model.set_attn_implementation("eager")
        expected = [self._logits_alone(ids) for ids in sequences]
        self.rounding = max(self._rounding(*pair) for pair in zip(sequences, expected, strict=True))
        for attention in dict.fromkeys([*attentions, "eager"]):
            if attention == "sdpa" and self._caps_scores:
                continue
            try:
                self.model.set_attn_implementation(attention)
            except (ValueError, ImportError) as error:
                if len(attentions) > 1:
                    continue
                raise ModelError(
                    f"attention {attention!r} cannot be used with this model: {error}"
                ) from error
            for self.shares_prompts in (True, False) if attention == GROUPED_ATTENTION else (False,):
                if self._agrees(sequences, expected):
                    self.head = self._plain_head(sequences[0])
                    return
        raise ModelError(
            f"{type(self.model).__name__} gives different logits with left padding than without: "
            "this engine cannot batch it"
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Encode non-empty prompts; if they share much, encode common prefixes once."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        width = int(lengths.max())
        present = np.arange(width) >= (width - lengths)[:, None]
        mask = torch.from_numpy(present.astype(np.int64)).to(self.device)
        cache = DynamicCache(config=self.model.config)
        order = sorted(range(len(prompts)), key=lambda index: tuple(prompts[index]))
        if self.shares_prompts and _different(prompts, order) <= SHARED_TOKENS * present.size:
            return self._packed_prefill(prompts, order, Prefill(cache, mask, self.no_mask))
        ids = np.full((len(prompts), width), self.pad_token_id, dtype=np.int64)
        ids[present] = np.concatenate([np.asarray(prompt) for prompt in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(
            torch.from_numpy(ids).to(self.device), mask, positions, past_key_values=cache, use_cache=True
        )
        return Prefill(cache, mask, logits)

    def _packed_prefill(
        self, prompts: Sequence[Sequence[int]], order: Sequence[int], empty: Prefill
    ) -> Prefill:
        """Encode prompts with `packed_states`, in sorted `order`; fill `empty`."""
        ordered = [prompts[index] for index in order]
        states, paths = self.packed_states(ordered, past_key_values=empty.cache, use_cache=True)
        places = np.zeros(empty.mask.shape, dtype=np.int64)
        for index, path in zip(order, paths, strict=True):
            places[index, -len(path) :] = path
        taken = torch.from_numpy(places).to(self.device)
        for layer in empty.cache.layers:
            # [1, heads, tokens, d] → [prompts, heads, width, d]
            layer.keys, layer.values = (
                part[0][:, taken].transpose(0, 1).contiguous() for part in (layer.keys, layer.values)
            )
        last = states[taken[:, -1]]
        return Prefill(empty.cache, empty.mask, last if self.head is None else self.head(last))

    @torch.inference_mode()
    def open_cache(self, prefill: Prefill, sources: np.ndarray) -> CohortCache:
        """Return the cache of a cohort whose row i continues prompt `sources[i]` (ascending), from `prefill`."""
        kind = SharedPromptCache if self.shares_prompts else PaddedCache
        return kind(prefill.cache, prefill.mask, sources)

    @torch.inference_mode()
    def step(self, caches: Sequence[CohortCache], tokens: np.ndarray, positions: np.ndarray) -> Tensor:
        """Return logits [rows, vocabulary] after one more token per row.

        `tokens` and `positions` are in the order of the cohorts.

        Cohorts with shared prompts are processed as one batch, others one by one.
        """
        for cache in caches:
            cache.advance()
        ids = torch.from_numpy(tokens).to(self.device)[:, None]
        places = torch.from_numpy(positions).to(self.device)[:, None]
        if self.shares_prompts:
            return self._forward(ids, self.no_mask, places, use_cache=False, cohorts=caches)
        logits, start = [], 0
        for cache in caches:
            assert isinstance(cache, PaddedCache)
            rows = slice(start, start + len(cache.mask))
            logits.append(
                self._forward(
                    ids[rows], cache.mask, places[rows], past_key_values=cache.states, use_cache=True
                )
            )
            start = rows.stop
        return torch.cat(logits)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, **options: Any) -> Tensor:
        """Return the logits at the last position."""
        if self.takes_logits_to_keep:
            options["logits_to_keep"] = 1
        if self.takes_positions:
            options["position_ids"] = positions
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **options).logits[:, -1]
        return logits

    @torch.inference_mode()
    def states(self, ids: Tensor, **options: Any) -> Tensor:
        """Return the input of `log_probabilities` for right-padded ids [rows, length]: [rows, length, width].

        These are the last hidden states, or the logits if there is more than an output layer between the two.
        Right padding needs no mask in a causal model. `options` are passed to the model.
        """
        options.setdefault("use_cache", False)
        if self.head is None:
            logits: Tensor = self.model(input_ids=ids, **options).logits
            return logits
        hidden: Tensor = self.model.base_model(input_ids=ids, **options).last_hidden_state
        return hidden

    def packed_states(
        self, sequences: Sequence[Sequence[int]], **options: Any
    ) -> tuple[Tensor, list[np.ndarray]]:
        """Return `states` of the distinct tokens, [tokens, width], and the indices of each sequence's tokens.

        This requires `shares_prompts`.

        A sequence continues the one before it as far as they agree, so sorted sequences read every common
        prefix once. `options` are passed to the model.
        """
        paths, begins, ids, positions = [], [], [], []
        path, taken = np.empty(0, dtype=np.int64), 0
        before: Sequence[int] = ()
        for sequence in sequences:
            begin = agreement(before, sequence)
            own = np.arange(taken, taken + len(sequence) - begin)
            path = np.concatenate((path[:begin], own))
            paths.append(path)
            begins.append(begin)
            ids.append(np.asarray(sequence[begin:], dtype=np.int64))
            positions.append(np.arange(begin, len(sequence)))
            before, taken = sequence, taken + len(own)
        strands = [index for index, begin in enumerate(begins) if begin < len(paths[index])]
        states = self.states(
            torch.from_numpy(np.concatenate(ids))[None].to(self.device),
            attention_mask=self.no_mask,
            position_ids=torch.from_numpy(np.concatenate(positions))[None].to(self.device),
            packing=packed([paths[i] for i in strands], np.array(begins)[strands], self.no_mask),
            **options,
        )
        return states[0], paths

    @torch.inference_mode()
    def log_probabilities(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return ln p of `targets` [positions, several] given `states` [positions, width], in float32."""
        return torch.cat(
            [logits.log_softmax(-1).gather(-1, part) for logits, part in self._logits(states, targets)]
        )

    def likelier(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return how many tokens are more likely than the one of `targets` [positions, 1], given the states.

        If it is impossible, all tokens count.
        """
        counts = []
        for logits, part in self._logits(states, targets):
            own = logits.gather(-1, part)
            count = (logits > own).sum(-1, keepdim=True)
            counts.append(count.masked_fill(own.isneginf(), logits.shape[-1]))
        return torch.cat(counts)

    def _logits(self, states: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [positions, vocabulary] with the targets there, some positions at a time."""
        size = max(1, LOGIT_ELEMENTS // self.vocabulary)
        for piece, part in zip(states.split(size), targets.split(size), strict=True):
            yield (piece if self.head is None else self.head(piece)).float(), part

    def _agrees(self, sequences: list[list[int]], expected: list[Tensor]) -> bool:
        """Return whether prefilling all but two tokens and stepping through these gives the `expected` last
        logits.

        With shared prompts, packed strands must give all of the logits.
        """
        lengths = np.array([len(sequence) for sequence in sequences])
        # The first prompt is used twice, so that sharing is tested as well.
        sources = np.array([0, *range(len(sequences))])
        try:
            prefill = self.prefill([sequence[:-2] for sequence in sequences])
            if self.shares_prompts and not is_plain(prefill.cache):
                return False
            found = [prefill.logits]
            cache = self.open_cache(prefill, sources)
            for back in (-2, -1):
                tokens = np.array([sequences[source][back] for source in sources])
                found.append(self.step([cache], tokens, lengths[sources] + back)[1:])
            if self.shares_prompts:
                # One sequence continues after five tokens of the one before it, another is its end.
                forked = [sequences[0], sequences[0][:5] + sequences[1][5:], *sequences[1:]]
                states, paths = self.packed_states([*forked, sequences[-1][:2]])
                wanted = [expected[0], expected[0][:5], *expected[1:], expected[-1][:2]]
                kept = [path[: len(logits)] for path, logits in zip(paths, wanted, strict=True)]
                if not self._close(states[np.concatenate(kept)].float(), torch.cat(wanted)):
                    return False
        except WRONG_DIALECT:
            return False
        steps = torch.stack([step.float() for step in found], dim=1)
        return all(self._close(row, logits[-3:]) for row, logits in zip(steps, expected, strict=True))

    def _plain_head(self, sequence: list[int]) -> Any:
        """The output layer, if it alone turns the base model's last hidden state into logits.

        Both ways compute the same states, so that only the last rounding may differ.
        """
        head = self.model.get_output_embeddings()
        if head is None or self.model.base_model is self.model:
            return None
        ids = torch.tensor([sequence], device=self.device)
        try:
            logits = head(self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)[0].float()
        except WRONG_DIALECT:
            return None
        expected = self._logits_alone(sequence)
        rounding = 2 * torch.finfo(self.model.dtype).eps * expected.abs().max()
        return (
            head
            if (logits - expected).abs().max() <= torch.maximum(rounding, 1e-3 * expected.std())
            else None
        )

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        """Equal up to rounding, as a share of the logits' spread (a wrong mask is off by about all of it)."""
        share = max(1e-3, min(ROUNDINGS * self.rounding, 0.5))
        return bool((found - expected).abs().max() <= share * expected.std() + 1e-5)

    def _logits_alone(self, sequence: list[int]) -> Tensor:
        """Logits [length, vocabulary] of one sequence, without padding or cache."""
        logits: Tensor = self.model(input_ids=torch.tensor([sequence], device=self.device)).logits
        return logits[0].float()

    def _rounding(self, sequence: list[int], expected: Tensor) -> float:
        """The furthest that a logit moves when every layer rounds its output once more, up or down by chance: a
        share of the logits' spread.
        """
        generator = torch.Generator(self.device).manual_seed(0)

        def round_again(module: Any, inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return output
            step = torch.rand(output.shape, generator=generator, device=output.device) * 2 - 1
            return (output.float() * (1 + step * torch.finfo(output.dtype).eps)).to(output.dtype)

        layers = [module for module in self.model.modules() if not any(module.children())]
        hooks = [layer.register_forward_hook(round_again) for layer in layers]
        try:
            moved = (self._logits_alone(sequence) - expected).abs().max()
        finally:
            for hook in hooks:
                hook.remove()
        return float(moved / expected.std())


def agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:size]) != np.asarray(other[:size]))
    return int(differ[0]) if len(differ) else size


def _different(sequences: Sequence[Sequence[int]], order: Sequence[int]) -> int:
    """Return the number of tokens to read if each sequence continues the one before it in this order."""
    shared = sum(agreement(sequences[i], sequences[j]) for i, j in pairwise(order))
    return sum(map(len, sequences)) - shared
