"""Log-probabilities and ranks of given tokens: shared contexts read once, only what is asked for kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.lanes import merged
from selfimprove_dagster.language_model.network import Network

SCORED_TOKENS = 2048
"""Tokens in one batch at most (if one sequence is not longer): smaller ones of a small model have more
overhead, larger ones leave the CPU's caches (with 512 and 4096: 0.8 and 0.95 of the speed)."""


@dataclass(frozen=True)
class Question:
    """Read `context` and `continuation`; after position first + j, how probable is each of targets[j]?

    `targets`: [positions, several] token ids. Questions of one context read it once.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    first: int
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.context) + len(self.continuation)


Read = Callable[[Network, Tensor, Tensor], Tensor]
"""What is read off states [positions, width] and targets [positions, several], such as their ln p."""


def answers(
    network: Network, questions: Sequence[Question], read: Read = Network.log_probabilities
) -> list[np.ndarray]:
    """What `read` finds of each question's targets, of their shape; equal questions are answered once.

    Raises ModelError for one that is too long.
    """
    for index, question in enumerate(questions):
        if len(question) > network.max_length:
            raise ModelError(
                f"sequence {index} has {len(question)} tokens and the model has {network.max_length} "
                "positions: shorten it"
            )
    keys = [(item.context, item.continuation, item.first, item.targets.tobytes()) for item in questions]
    different = dict(zip(keys, questions, strict=True))
    order, questions = list(different), list(different.values())
    batches = _shared_batches(questions) if network.shares_prompts else _padded_batches(questions)
    answer = partial(_packed_answer if network.shares_prompts else _padded_answer, read)
    lanes = [batches[lane :: network.lanes] for lane in range(min(network.lanes, len(batches)))]
    found = {}
    for batch, values in merged([partial(_lane, answer, network, questions, lane) for lane in lanes]):
        for index, value in zip(batch, values, strict=True):
            found[order[index]] = value
    return [found[key] for key in keys]


def _lane(
    answer: Callable[[Network, Sequence[Question]], list[np.ndarray]],
    network: Network,
    questions: Sequence[Question],
    batches: Sequence[list[int]],
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    for batch in batches:
        yield batch, answer(network, [questions[index] for index in batch])


def _shared_batches(questions: Sequence[Question]) -> list[list[int]]:
    """Questions of one context together; a context is read once in each batch, which has room for at least as
    many tokens of its continuations.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.context, []).append(index)
    batches: list[list[int]] = []
    tokens = SCORED_TOKENS
    # Questions of similar length follow one another, since their attention is computed together.
    for group in sorted(groups.values(), key=lambda group: -len(questions[group[0]].continuation)):
        context = len(questions[group[0]].context)
        tokens += context
        for index in group:
            tokens += len(questions[index].continuation)
            if not batches or tokens > max(SCORED_TOKENS, 2 * context):
                batches.append([])
                tokens = len(questions[index])
            batches[-1].append(index)
    return batches


@torch.inference_mode()
def _packed_answer(read: Read, network: Network, questions: Sequence[Question]) -> list[np.ndarray]:
    """One batch, questions of one context together."""
    strands: list[Sequence[int]] = []
    contexts: list[int] = []
    columns = []
    context = start = taken = 0
    for question in questions:
        if not strands or question.context != strands[context]:
            context, start = len(strands), taken
            strands.append(question.context)
            contexts.append(context)
            taken += len(question.context)
        places = question.first + np.arange(len(question.targets))
        inside = places < len(question.context)
        columns.append(places + np.where(inside, start, taken - len(question.context)))
        if question.continuation:
            strands.append(question.continuation)
            contexts.append(context)
            taken += len(question.continuation)
    states = network.packed_states(strands, np.array(contexts))
    return _read(read, network, states, np.concatenate(columns), questions)


def _padded_batches(questions: Sequence[Question]) -> list[list[int]]:
    """Questions of similar length together, the longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(questions)), key=lambda index: -len(questions[index])):
        if not batches or len(questions[batches[-1][0]]) * (len(batches[-1]) + 1) > SCORED_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


@torch.inference_mode()
def _padded_answer(read: Read, network: Network, questions: Sequence[Question]) -> list[np.ndarray]:
    """One batch, the longest question first, each read whole."""
    width = len(questions[0])
    ids = np.full((len(questions), width), network.pad_token_id, dtype=np.int64)
    columns = []
    for row, question in enumerate(questions):
        ids[row, : len(question)] = [*question.context, *question.continuation]
        columns.append(row * width + question.first + np.arange(len(question.targets)))
    states = network.states(torch.from_numpy(ids).to(network.device)).flatten(0, 1)
    return _read(read, network, states, np.concatenate(columns), questions)


def _read(
    read: Read, network: Network, states: Tensor, columns: np.ndarray, questions: Sequence[Question]
) -> list[np.ndarray]:
    """What is read of the questions' targets at `columns` of `states` [tokens, width]."""
    targets = torch.from_numpy(np.concatenate([question.targets for question in questions]))
    places = states.index_select(0, torch.from_numpy(columns).to(states.device))
    values = read(network, places, targets.to(states.device)).cpu().numpy()
    return np.split(values, np.cumsum([len(question.targets) for question in questions])[:-1])
