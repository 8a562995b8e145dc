"""Toolformer with a language model: where it would call a tool, what its calls are worth, calling while it
writes (Schick et al., 2302.04761). What follows from the numbers alone is in `methods/toolformer/`.

Positions are counted in characters, so that they mean the same to every tokenizer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfimprove_dagster.language_model.base import (
    LanguageModel,
)
from selfimprove_dagster.methods.toolformer.loss import WINDOW, Losses, prefixes, weighted_loss
from selfimprove_dagster.tools.calls import PlacedCall
from selfimprove_dagster.tools.writing import begun

SEPARATOR = "\n"
"""Between a prefix z and the text, so that the text has the same tokens after every prefix."""


_LONGEST_CHARACTER = 32
"""Tokens of one character at most: bytes of a cluster, or a piece that a tokenizer gives back otherwise."""


def token_starts(model: LanguageModel, text: str, token_ids: Sequence[int]) -> list[int | None]:
    """The character of the text at which each of its tokens begins; None for one that begins inside a
    character, and for all after one that does not come back as it was.
    """
    starts: list[int | None] = []
    pending: list[int] = []
    done = 0
    for token in token_ids:
        starts.append(None if pending else done)
        pending.append(token)
        piece = model.decode(pending)
        if not piece:
            continue
        if len(pending) > _LONGEST_CHARACTER:
            return starts + [None] * (len(token_ids) - len(starts))
        # Some tokenizers leave out the space before a word that is decoded alone.
        space = not text.startswith(piece, done) and text.startswith(f" {piece}", done)
        if space or text.startswith(piece, done):
            done += len(piece) + space
            pending = []
    return starts


@dataclass(frozen=True)
class OpeningProbabilities:
    """p(<API> | P(x), x_<i) at each position where a token begins, ascending."""

    positions: list[int]
    probabilities: list[float]


def position_probabilities(
    model: LanguageModel, prompts: Sequence[str], texts: Sequence[str], opening: int
) -> list[OpeningProbabilities]:
    """How probable the token `opening` is at each position of each text, one forward pass a text.

    `prompts[i]` is the annotation prompt of `texts[i]`, which ends in `Output:`.
    """
    contexts = [_after_prompt(model, *pair) for pair in zip(prompts, texts, strict=True)]
    sequences = [[*context.prompt, *context.tokens[:-1]] for context in contexts]
    found = model.next_token_probability(sequences, opening)
    result = []
    for context, row in zip(contexts, found, strict=True):
        after = row[len(context.prompt) - 1 :]
        by_position = {position: after[index] for position, index in context.indices.items()}
        result.append(OpeningProbabilities(list(by_position), list(by_position.values())))
    return result


@dataclass(frozen=True)
class CallRequest:
    """Sample one call before the character `position` of the text from each seed."""

    prompt: str
    text: str
    position: int
    seeds: Sequence[int]


def call_prompts(model: LanguageModel, requests: Sequence[CallRequest], opening: int) -> list[list[int]]:
    """Token ids after which the model writes each call: prompt, text up to the position, opening token.

    Raises ValueError for a position where no token begins.
    """
    contexts: dict[tuple[str, str], _AfterPrompt] = {}
    prompts = []
    for request in requests:
        key = (request.prompt, request.text)
        if key not in contexts:
            contexts[key] = _after_prompt(model, *key)
        context = contexts[key]
        if request.position not in context.indices:
            raise ValueError(f"no token of the text begins at its character {request.position}")
        index = context.indices[request.position]
        prompts.append([*context.prompt, *context.tokens[:index], opening])
    return prompts


@dataclass(frozen=True)
class _AfterPrompt:
    """Token ids of a prompt and of a text after it, and the token that begins at each position."""

    prompt: list[int]
    tokens: list[int]
    indices: Mapping[int, int]


def _after_prompt(model: LanguageModel, prompt: str, text: str) -> _AfterPrompt:
    spaced = f" {text}"
    tokens = model.encode_continuation(spaced)
    indices = {max(0, start - 1): index for start, index in _known_starts(model, spaced, tokens)}
    return _AfterPrompt(begun(model, prompt), tokens, indices)


# --- scoring calls ---


def score_calls(
    model: LanguageModel,
    texts: Sequence[str],
    candidates: Sequence[tuple[int, PlacedCall]],
    *,
    least_reduction: float | None = None,
) -> list[Losses]:
    """L_i of each candidate, (index of its text, call with its result), under its three prefixes.

    A prefix and its text are read once for all windows of candidates that share both: the text without any
    call once for all of its candidates. What follows the last window is not read, and what prefixes have in
    common is read once by engines that can.

    With `least_reduction`, the lowest τ_f of interest, prefixes that can no longer matter are not read: L⁻ is
    at most the loss without a call and L⁺ at least 0. Their losses are None; which calls pass is the same.

    Raises ValueError for a call without a result, or after which no token begins.
    """
    read = list(dict.fromkeys(text for text, _ in candidates))
    ids = dict(zip(read, model.encode_continuations([texts[text] for text in read]), strict=True))
    starts = {text: _known_starts(model, texts[text], tokens) for text, tokens in ids.items()}
    windows = []
    for text, placed in candidates:
        at = bisect_left(starts[text], (placed.position, 0))
        if at == len(starts[text]):
            raise ValueError(f"no token of text {text} begins at or after its character {placed.position}")
        windows.append((text, starts[text][at][1], prefixes(placed.call)))
    empty = _losses(model, ids, [(text, first, none) for text, first, (none, _, _) in windows])
    losses = [Losses(no_call, None, None) for no_call in empty]
    # Read together, a call with its result and without share their beginnings; one by one, few are read.
    passes: tuple[dict[str, int], ...] = ({"call_with_result": 2, "call": 1},)
    if least_reduction is not None:
        passes = ({"call_with_result": 2}, {"call": 1})
    for names in passes:
        wanted = [
            (index, name, which)
            for index, known in enumerate(losses)
            if least_reduction is None or known.most_reduction >= least_reduction
            for name, which in names.items()
        ]
        chosen = [(*windows[index][:2], windows[index][2][which]) for index, _, which in wanted]
        for (index, name, _), loss in zip(wanted, _losses(model, ids, chosen), strict=True):
            losses[index] = replace(losses[index], **{name: loss})
    return losses


def _losses(
    model: LanguageModel, ids: Mapping[int, list[int]], windows: Sequence[tuple[int, int, str]]
) -> list[float]:
    """L_i of each window: a text's index, the index of the window's first token in it, and the prefix."""
    firsts: dict[tuple[int, str], set[int]] = {}
    for text, first, prefix in windows:
        firsts.setdefault((text, prefix), set()).add(first)
    begin = begun(model, "")
    named = list(dict.fromkeys(prefix for _, prefix in firsts if prefix))
    encoded = model.encode_continuations([prefix + SEPARATOR for prefix in named])
    opened = {"": [], **dict(zip(named, encoded, strict=True))}
    contexts, continuations = [], []
    for (text, prefix), several in firsts.items():
        contexts.append([*begin, *opened[prefix], *ids[text][: min(several)]])
        continuations.append(ids[text][min(several) : max(several) + WINDOW])
    found = dict(zip(firsts, model.score(contexts, continuations), strict=True))

    def loss(text: int, first: int, prefix: str) -> float:
        start = first - min(firsts[text, prefix])
        return weighted_loss(found[text, prefix][start : start + WINDOW])

    return [loss(*window) for window in windows]


def _known_starts(model: LanguageModel, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """The characters at which tokens begin, ascending, each with its token's index."""
    return [(start, at) for at, start in enumerate(token_starts(model, text, ids)) if start is not None]
