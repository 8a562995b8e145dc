"""Log-probabilities and ranks of given tokens: beginnings that sequences share read once, only what is
asked for kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.lanes import merged
from selfimprove_dagster.language_model.network import Network, agreement

SCORED_TOKENS = 2048
"""Tokens in one batch at most (if one sequence is not longer): smaller ones of a small model have more
overhead, larger ones leave the CPU's caches (with 512 and 4096: 0.8 and 0.95 of the speed)."""


@dataclass(frozen=True)
class Question:
    """Read `tokens`; after position first + j, how probable is each of targets[j]?

    `targets`: [positions, several] token ids. What questions share at their beginning is read once.
    """

    tokens: tuple[int, ...]
    first: int
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


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
    keys = [(item.tokens, item.first, item.targets.tobytes()) for item in questions]
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
    """Questions in the order of their tokens, so that each continues the one before it as far as they agree;
    what a batch must read again of an earlier one is at most half of it.
    """
    batches: list[list[int]] = []
    before: tuple[int, ...] = ()
    tokens = most = 0
    for index in sorted(range(len(questions)), key=lambda index: questions[index].tokens):
        shared = agreement(before, questions[index].tokens)
        tokens += len(questions[index]) - shared
        if not batches or tokens > most:
            batches.append([])
            tokens, most = len(questions[index]), max(SCORED_TOKENS, 2 * shared)
        batches[-1].append(index)
        before = questions[index].tokens
    return batches


@torch.inference_mode()
def _packed_answer(read: Read, network: Network, questions: Sequence[Question]) -> list[np.ndarray]:
    """One batch, in the order of the tokens; what is asked again after shared tokens is answered once."""
    states, paths = network.packed_states([question.tokens for question in questions])
    columns = [
        path[question.first : question.first + len(question.targets)]
        for path, question in zip(paths, questions, strict=True)
    ]
    asked = np.column_stack(
        (np.concatenate(columns), np.concatenate([question.targets for question in questions]))
    )
    asked, inverse = np.unique(asked, axis=0, return_inverse=True)
    values = _read(read, network, states, asked[:, 0], asked[:, 1:])[inverse]
    return _parted(values, questions)


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
        ids[row, : len(question)] = question.tokens
        columns.append(row * width + question.first + np.arange(len(question.targets)))
    states = network.states(torch.from_numpy(ids).to(network.device)).flatten(0, 1)
    targets = np.concatenate([question.targets for question in questions])
    return _parted(_read(read, network, states, np.concatenate(columns), targets), questions)


def _read(
    read: Read, network: Network, states: Tensor, columns: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """What is read of `targets` [positions, several] at `columns` [positions] of `states` [tokens, width]."""
    places = states.index_select(0, torch.from_numpy(columns).to(states.device))
    values: np.ndarray = read(network, places, torch.from_numpy(targets).to(states.device)).cpu().numpy()
    return values


def _parted(values: np.ndarray, questions: Sequence[Question]) -> list[np.ndarray]:
    """The values [positions, several] of each question."""
    return np.split(values, np.cumsum([len(question.targets) for question in questions])[:-1])
