"""Toolformer with a language model: where it would call a tool, what its calls are worth, calling while it
writes (Schick et al., 2302.04761). What follows from the numbers alone is in `methods/toolformer/`.

Positions are counted in characters, so that they mean the same to every tokenizer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

from selfimprove_dagster.conversation import Message, messages_of, stored
from selfimprove_dagster.language_model.base import LanguageModel, RefusedPrompt, no_scores
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
    """p(<API> | P(x), x_<i) at each position where a token begins, ascending; or the `problem` of a text without."""

    positions: list[int]
    probabilities: list[float]
    problem: str | None = None


@dataclass(frozen=True)
class Annotated:
    """A text that is to be annotated: the prompt that asks for it, and `written`, the text as it follows the prompt."""

    prompt: str
    text: str
    written: str


def position_probabilities(
    model: LanguageModel, texts: Sequence[Annotated], opening: int
) -> list[OpeningProbabilities]:
    """How probable the token `opening` is at each position of each text, one forward pass a text."""
    contexts = _begun(model, texts)
    sequences = [[*context.prompt, *context.tokens[:-1]] for context in contexts]
    found = model.next_token_probability(sequences, opening)
    result = []
    for context, row in zip(contexts, found, strict=True):
        if isinstance(context.prompt, RefusedPrompt):
            result.append(OpeningProbabilities([], [], context.prompt.problem))
            continue
        if any(map(isnan, row)):
            tokens = len(context.prompt) + len(context.tokens)
            result.append(OpeningProbabilities([], [], no_scores(model, tokens)))
            continue
        after = row[len(context.prompt) - 1 :]
        by_position = {position: after[index] for position, index in context.indices.items()}
        result.append(OpeningProbabilities(list(by_position), list(by_position.values())))
    return result


def call_prompts(
    model: LanguageModel, places: Sequence[tuple[Annotated, int]], opening: int
) -> list[tuple[str, list[int]]]:
    """The prompts after which the model writes a call before each character of a text, with their token ids.

    They are the prompt of the text, the text up to there, and the opening token. In a conversation the last two are
    what the assistant has said so far. Raises ValueError for a position where no token begins.
    """
    texts = list(dict.fromkeys(text for text, _ in places))
    contexts = dict(zip(texts, _begun(model, texts), strict=True))
    prompts = []
    for text, position in places:
        context = contexts[text]
        if position not in context.indices:
            raise ValueError(f"no token of the text begins at its character {position}")
        said = [*context.tokens[: context.indices[position]], opening]
        ids = [*context.prompt, *said]
        if model.prompting.chat:
            asked = stored([*messages_of(text.prompt), Message("assistant", model.decode(said))])
        else:
            asked = model.decode(ids)
        prompts.append((asked, ids))
    return prompts


@dataclass(frozen=True)
class _Begun:
    """Token ids of a prompt and of a text after it, and the token that begins at each position of the text."""

    prompt: list[int]
    tokens: list[int]
    indices: Mapping[int, int]


def _begun(model: LanguageModel, texts: Sequence[Annotated]) -> list[_Begun]:
    asked = model.encode_prompts([one.prompt for one in texts])
    said = model.encode_continuations([one.written for one in texts])
    found = []
    for one, prompt, tokens in zip(texts, asked, said, strict=True):
        before = one.written.index(one.text)
        starts = _known_starts(model, one.written, tokens)
        indices = {max(0, start - before): index for start, index in starts}
        begin = prompt if isinstance(prompt, RefusedPrompt) else prompt or [model.end_token_id]
        found.append(_Begun(begin, tokens, indices))
    return found


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

    All of them are plain texts, also for a chat model, which is trained on texts.

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
