"""A text that an engine ended within thoughts goes on, and ends where an engine that watches every token ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.language_model.continuing import Part, Sampled, through_thoughts
from selfimprove_dagster.language_model.prompting import Thinking
from selfimprove_dagster.language_model.stopping import StopStrings

TEXTS = ("a", "<t>", "</t>", ".", "..", "</t>.", "b.", ".<t>", "</", "t>", "<end>")
END = len(TEXTS) - 1
MARKS = Thinking("<t>", "</t>")


def decoded(token_ids: Sequence[int]) -> str:
    return "".join(TEXTS[token] for token in token_ids if token != END)


def stops_at(*stop: str) -> StopStrings:
    return StopStrings(stop, lambda: TEXTS, decoded, MARKS)


def engine(
    streams: Sequence[Sequence[int]], asked: list[Part] | None = None
) -> Callable[[Sequence[Part]], list[Sampled]]:
    """Return an engine that says these tokens, and ends a part where a stop string appears in it.

    A prompt is the index of its stream, and what was said of it.
    """

    def sample(parts: Sequence[Part]) -> list[Sampled]:
        found = []
        for part in parts:
            if asked is not None:
                asked.append(part)
            (index, *said), ids, stopped = part.prompt, [], False
            for token in streams[index][len(said) :][: part.room]:
                ids.append(token)
                stopped = any(text in decoded(ids) for text in part.stop)
                if stopped or token == END:
                    break
            ends = stopped or ids[-1:] == [END]
            drawn = Generation(ids, [-0.5] * len(ids), decoded(ids), "stop" if ends else "length")
            found.append(Sampled(drawn, stopped))
        return found

    return sample


def ended(row: Generation, stops: StopStrings) -> tuple[list[int], str]:
    """Return the tokens and the reason, as the engines cut them."""
    length = stops.length(row.token_ids)
    return (row.token_ids, row.finish_reason) if length is None else (row.token_ids[:length], "stop")


STREAMS = some.lists(some.lists(some.integers(0, END - 1), min_size=30, max_size=30), min_size=1, max_size=3)


@given(streams=STREAMS, room=some.integers(1, 29), ends=some.integers(0, 29))
def test_a_row_ends_where_watching_every_token_ends_it(
    streams: list[list[int]], room: int, ends: int
) -> None:
    stops = stops_at(".", "a<t>")
    streams = [[*stream[:ends], END, *stream[ends:]] for stream in streams]
    rows = [Part([index], index, room, stops.stop) for index in range(len(streams))]
    sample = engine(streams)
    found = through_thoughts(rows, sample(rows), stops, sample)
    unstopped = [one.part for one in sample([replace(row, stop=()) for row in rows])]
    assert [ended(row, stops) for row in found] == [ended(row, stops) for row in unstopped]
    assert all(len(row.logprobs) == len(row.token_ids) <= room for row in found)


def test_a_thought_takes_two_more_requests_whatever_is_in_it() -> None:
    thoughts = [TEXTS.index(one) for one in ("<t>", ".", "a", ".", "b.", "..", "</t>")]
    stream = [*thoughts, 0, 0, TEXTS.index("."), 0]
    asked: list[Part] = []
    sample = engine([stream], asked)
    rows = [Part([0], 7, 20, (".",))]
    (row,) = through_thoughts(rows, sample(rows), stops_at("."), sample)
    assert row.token_ids == stream[:-1]
    assert row.text == "<t>.a.b...</t>aa."
    assert [part.stop for part in asked] == [(".",), ("</t>",), (".",)]
    assert [part.room for part in asked] == [20, 18, 13]
    assert len({part.seed for part in asked}) == 3


@pytest.mark.parametrize("stream", [[0, 0, 3, 0], [0, 3, 1, 0]], ids=["no_thoughts", "thoughts_later"])
def test_a_row_without_open_thoughts_is_asked_for_once(stream: list[int]) -> None:
    asked: list[Part] = []
    sample = engine([stream], asked)
    rows = [Part([0], 7, 20, (".",))]
    first = sample(rows)
    assert through_thoughts(rows, first, stops_at("."), sample) == [first[0].part]
    assert len(asked) == 1


def test_a_row_that_fails_in_the_middle_has_failed() -> None:
    rows = [Part([0], 7, 20, (".",))]
    lost = Generation.without_text("failed", "the server returned no text")
    first = engine([[1, 3, 0]])(rows)
    assert through_thoughts(rows, first, stops_at("."), lambda parts: [Sampled(lost, False)]) == [lost]
