"""Continue texts that an engine ended at a stop string within the model's thoughts.

Stop strings do not end thoughts, but engines such as vLLM know nothing of thoughts. A text that ended within them is
sampled on from its tokens up to the closing mark, and from there up to a stop string. So each thought takes at most
two more requests, however many stop strings are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.language_model.stopping import StopStrings
from selfimprove_dagster.lots import seed_of


@dataclass(frozen=True)
class Part:
    """What to sample next of a row: after `prompt`, at most `room` tokens, up to one of the strings `stop`."""

    prompt: Sequence[int]
    seed: int
    room: int
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Sampled:
    """A part of a row as an engine returns it, and whether a stop string ended it."""

    part: Generation
    stopped: bool


def through_thoughts(
    rows: Sequence[Part],
    first: Sequence[Sampled],
    stops: StopStrings,
    sample: Callable[[Sequence[Part]], Sequence[Sampled]],
) -> list[Generation]:
    """Return the rows that were sampled `first`, those continued with `sample` that ended within their thoughts.

    A continued row has all its tokens and their whole text, with the stop string. Its seed is derived from that of
    the row and the number of its tokens, so that no random numbers are used twice.
    """
    found = [one.part for one in first]
    waiting = [index for index, one in enumerate(first) if one.stopped]
    while waiting := [index for index in waiting if _goes_on(found[index], stops)]:
        full = {index for index in waiting if len(found[index].token_ids) >= rows[index].room}
        for index in full:
            found[index] = replace(found[index], finish_reason="length")
        asked = [index for index in waiting if index not in full]
        sampled = sample([_next(rows[index], found[index].token_ids, stops) for index in asked])
        for index, one in zip(asked, sampled, strict=True):
            found[index] = _joined(found[index], one.part, stops)
        waiting = [index for index, one in zip(asked, sampled, strict=True) if one.stopped]
    return found


def _goes_on(row: Generation, stops: StopStrings) -> bool:
    """Whether a row that a string ended has thoughts, and none of the stop strings after them."""
    text = stops.decode(row.token_ids)
    thinks = stops.begun or stops.thinking.open in text
    return thinks and row.problem is None and stops.length(row.token_ids) is None


def _next(row: Part, token_ids: Sequence[int], stops: StopStrings) -> Part:
    in_thoughts = stops.thinking.start(stops.decode(token_ids), stops.begun) is None
    return Part(
        [*row.prompt, *token_ids],
        seed_of(row.seed, len(token_ids)),
        row.room - len(token_ids),
        (stops.thinking.close,) if in_thoughts else stops.stop,
    )


def _joined(row: Generation, more: Generation, stops: StopStrings) -> Generation:
    if more.problem is not None:
        return more
    ids = [*row.token_ids, *more.token_ids]
    return replace(more, token_ids=ids, logprobs=[*row.logprobs, *more.logprobs], text=stops.decode(ids))
