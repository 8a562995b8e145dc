"""Compute log-probabilities and ranks of given tokens.

Common prefixes are read once, and only results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from selfimprove_dagster.language_model.lanes import merged
from selfimprove_dagster.language_model.network import Network, agreement

SCORED_TOKENS = 2048
"""Maximum number of tokens in a batch (unless one sequence is longer). For a small model, smaller batches
have more overhead and larger ones exceed the CPU's caches (with 512 and 4096: 0.8 and 0.95 of the speed)."""


@dataclass(frozen=True)
class Question:
    """A request: read `tokens`, and return the probability of each of targets[j] after position first + j.

    `targets`: [positions, several] token ids. Common prefixes of questions are read once.
    """

    tokens: tuple[int, ...]
    first: int
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


Read = Callable[[Network, Tensor, Tensor], Tensor]
"""Computes results, such as ln p, from states [positions, width] and targets [positions, several]."""


def answers(
    network: Network, questions: Sequence[Question], read: Read = Network.log_probabilities
) -> list[np.ndarray]:
    """Apply `read` to each question's targets; results have their shape, and equal questions are answered
    once.

    The results of a question that is longer than the model's context are NaN.
    """
    keys = [(item.tokens, item.first, item.targets.tobytes()) for item in questions]
    different = dict(zip(keys, questions, strict=True))
    found = {
        key: np.full(question.targets.shape, np.nan)
        for key, question in different.items()
        if len(question) > network.max_length
    }
    different = {key: question for key, question in different.items() if key not in found}
    order, questions = list(different), list(different.values())
    batches = _shared_batches(questions) if network.shares_prompts else _padded_batches(questions)
    answer = partial(_packed_answer if network.shares_prompts else _padded_answer, read)
    lanes = [batches[lane :: network.lanes] for lane in range(min(network.lanes, len(batches)))]
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
    """Group questions in the order of their tokens, so that each continues the one before as far as they
    agree.

    At most half of a batch is read again from an earlier one.
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
    """Answer one batch, in the order of the tokens; repeated targets after shared tokens are computed once."""
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
    """Group questions of similar length, the longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(questions)), key=lambda index: -len(questions[index])):
        if not batches or len(questions[batches[-1][0]]) * (len(batches[-1]) + 1) > SCORED_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


@torch.inference_mode()
def _padded_answer(read: Read, network: Network, questions: Sequence[Question]) -> list[np.ndarray]:
    """Answer one batch, the longest question first, without sharing prefixes."""
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
    """Apply `read` to `targets` [positions, several] at `columns` [positions] of `states` [tokens, width]."""
    places = states.index_select(0, torch.from_numpy(columns).to(states.device))
    values: np.ndarray = read(network, places, torch.from_numpy(targets).to(states.device)).cpu().numpy()
    return values


def _parted(values: np.ndarray, questions: Sequence[Question]) -> list[np.ndarray]:
    """Split values [positions, several] by question."""
    return np.split(values, np.cumsum([len(question.targets) for question in questions])[:-1])
