"""The engine for providers against a provider on 127.0.0.1 that misbehaves as asked."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from kit import provider as kit
from kit.provider import Provider

from selfimprove_dagster.conversation import Message, ToolCall, ToolCalls, ToolResult, stored
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.opening import identity_of, opening_options
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model import open_language_model, remote
from selfimprove_dagster.language_model.base import (
    SamplingParameters,
    Served,
    Usage,
    check_chooses,
    check_scores,
)
from selfimprove_dagster.language_model.chat_engine import ChatLanguageModel, named
from selfimprove_dagster.language_model.options import closed_probabilities
from selfimprove_dagster.language_model.paid import PAID, Journal
from selfimprove_dagster.language_model.structure import Structure

KEY = "sk-very-secret-4711"
NAME = "small-1"
GREEDY = SamplingParameters(temperature=0.0, max_tokens=16)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with kit.running() as running:
        yield running


def section_of(provider: Provider | None, server: Any = None, **fields: Any) -> ModelSection:
    url = {"url": provider.url} if provider else {}
    return ModelSection.model_validate(
        {"path": NAME, "engine": "chat", "server": {**url, **(server or {})}, **fields}
    )


def opened(provider: Provider | None, server: Any = None, **fields: Any) -> ChatLanguageModel:
    section = section_of(provider, server, **fields)
    model = open_language_model(section.path, **opening_options(section))
    assert isinstance(model, ChatLanguageModel)
    if provider:
        provider.bodies.clear()
    return model


def conversations(*texts: str) -> list[str]:
    return [stored([Message("user", text)]) for text in texts]


def test_a_completion_has_text_counts_and_who_answered(provider: Provider) -> None:
    model = opened(provider)
    counted: list[tuple[int, int]] = []
    drawn = model.generate(
        model.encode_prompts(conversations("Is it?", "And this?")),
        [[2**40 + 1, 2], [3]],
        SamplingParameters(temperature=0.7, top_p=0.9, max_tokens=16),
        lambda rows, tokens: counted.append((rows, tokens)),
    )
    assert [len(row) for row in drawn] == [2, 1]
    path = drawn[0][0]
    assert (path.text, path.token_ids, path.logprobs, path.finish_reason) == ("It is fine.", [], [], "stop")
    assert path.usage == Usage(2, 3) and path.tokens == 3
    assert path.served == Served("small-1-2026-01-01", "fp_1", "2026-09-21T14:13:20+00:00")
    assert sorted(counted) == [(1, 3)] * 3
    body = next(one for one in provider.bodies if one["seed"] == 1)
    assert body == {
        "model": NAME,
        "messages": [{"role": "user", "content": "Is it?"}],
        "max_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 1,
    }


def test_a_text_is_one_message(provider: Provider) -> None:
    model = opened(provider, prompting="text")
    model.generate(model.encode_prompts(["Q: Is it?\nA:"]), [[1]], GREEDY)
    assert provider.bodies[-1]["messages"] == [{"role": "user", "content": "Q: Is it?\nA:"}]


def test_messages_calls_and_results_are_sent_as_the_protocol_has_them(provider: Provider) -> None:
    model = opened(provider, system="Be brief.")
    turns = [
        Message("user", "What is 2 + 2?"),
        ToolCalls("", (ToolCall("Calculator", {"expression": "2 + 2"}),)),
        ToolResult("Calculator", "4"),
    ]
    tools = [{"type": "function", "function": {"name": "Calculator", "parameters": {}}}]
    call = {
        "id": "x",
        "type": "function",
        "function": {"name": "Calculator", "arguments": '{"expression": "4"}'},
    }
    provider.script = [kit.message("tool_calls", content=None, tool_calls=[call])]
    ((path,),) = model.generate(model.encode_prompts([stored(turns, tools)]), [[1]], GREEDY)
    body = provider.bodies[-1]
    assert body["tools"] == tools
    assert [one["role"] for one in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"expression": "2 + 2"}'
    assert body["messages"][3]["tool_call_id"] == body["messages"][2]["tool_calls"][0]["id"]
    assert path.reply and path.reply.calls[0].call == ToolCall("Calculator", {"expression": "4"})


def test_texts_are_cut_here_after_their_thoughts(provider: Provider) -> None:
    provider.says = lambda body: "<think>this. or</think>\nThis. That."
    model = opened(provider)
    ((path,),) = model.generate(
        model.encode_prompts(conversations("Which?")), [[1]], replace(GREEDY, stop=(".",))
    )
    assert (path.text, path.finish_reason) == ("This", "stop")
    assert "stop" not in provider.bodies[-1]


def test_equal_prompts_with_equal_seeds_are_asked_once(provider: Provider) -> None:
    model = opened(provider, server={"send_seeds": False})
    done: list[int] = []
    asked = model.encode_prompts(conversations("Is it?", "Is it?", "Is it?"))
    drawn = model.generate(asked, [[0], [0], [1]], GREEDY, lambda rows, tokens: done.append(rows))
    assert len(provider.bodies) == 2 and sum(done) == 3 and len(drawn) == 3
    assert not any("seed" in body for body in provider.bodies)


# ---- what a provider can do ---------------------------------------------------------------------------


def test_log_probabilities_are_kept_where_the_provider_gives_them(provider: Provider) -> None:
    provider.gives_logprobs = True
    model = opened(provider)
    ((path,),) = model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert path.logprobs == [-0.5] * 3 and path.token_ids == []


@pytest.mark.parametrize("drops", [True, False])
def test_what_the_provider_cannot_do_is_said_at_start(
    provider: Provider, caplog: pytest.LogCaptureFixture, drops: bool
) -> None:
    if not drops:
        provider.refused_fields = {"logprobs", "max_tokens"}
    model = opened(provider, chat={"answers": 3})
    assert "does not score given texts" in caplog.text
    assert "asked to write the option, 3 times" in caplog.text
    caplog.clear()
    opened(provider, chat={"answers": 3})
    assert not caplog.text, "once in a process"
    assert "a replay is not exact" in model.promise
    check_chooses(model)
    with pytest.raises(ModelError, match="does not score given texts"):
        check_scores(model)
    with pytest.raises(ModelError, match="does not score given texts"):
        model.score([[1]], [[2]])
    model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert ("max_tokens" in provider.bodies[-1]) == drops
    assert "logprobs" not in provider.bodies[-1]


def test_a_model_that_is_opened_again_is_not_asked_again_what_it_can_do(provider: Provider) -> None:
    opened(provider)
    section = section_of(provider)
    open_language_model(section.path, **opening_options(section))
    assert provider.bodies == []


def test_a_refused_field_can_be_left_out(provider: Provider) -> None:
    provider.refused_fields = {"temperature"}
    with pytest.raises(ModelError, match=r"unsupported field: .*temperature.*model\.chat\.request"):
        opened(provider)
    model = opened(provider, chat={"request": {"temperature": None, "reasoning_effort": "low"}})
    model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert "temperature" not in provider.bodies[-1] and provider.bodies[-1]["reasoning_effort"] == "low"


def test_a_schema_is_asked_for_and_a_regular_expression_is_refused(provider: Provider) -> None:
    model = opened(provider)
    asked = model.encode_prompts(conversations("Is it?"))
    fields = {"answer": {"type": "integer"}}
    strict = {"type": "object", "properties": fields, "required": ["answer"], "additionalProperties": False}
    for schema, is_strict in ((strict, True), ({"type": "object", "properties": fields}, False)):
        model.generate(asked, [[1]], replace(GREEDY, structure=Structure.of_schema(schema)))
        assert provider.bodies[-1]["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": is_strict},
        }
    with pytest.raises(ModelError, match="regular expression, which providers do not know"):
        model.generate(asked, [[1]], replace(GREEDY, structure=Structure(regex="[A-D]")))


def test_litellm_asks_for_the_same(provider: Provider) -> None:
    pytest.importorskip("litellm")
    model = opened(provider, path="openai/small-1", chat={"api": "litellm"})
    provider.poisons = {"poison": kit.status(400)}
    drawn = model.generate(model.encode_prompts(conversations("Is it?", "the poison")), [[1], [2]], GREEDY)
    assert [path.finish_reason for (path,) in drawn] == ["stop", "refused"]
    assert {(body["model"], body["seed"]) for body in provider.bodies} == {(NAME, 1), (NAME, 2)}


# ---- judging ------------------------------------------------------------------------------------------


def test_a_judge_names_the_option(provider: Provider) -> None:
    provider.says = lambda body: "(B)." if "second" in body["messages"][-1]["content"] else "I cannot say."
    model = opened(provider)
    found = closed_probabilities(
        model, model.encode_prompts(conversations("the second?", "neither?")), [" (A)", " (B)"]
    )
    assert found[0] == [0.0, 1.0] and all(map(isnan, found[1]))
    assert provider.bodies[-1]["temperature"] == 0
    assert provider.asked[0].endswith("Reply with exactly one of the following, and nothing else:\n- A\n- B")


def test_several_answers_give_shares(provider: Provider) -> None:
    provider.says = lambda body: "10" if body["seed"] < 3 else "1" if body["seed"] == 3 else "no idea"
    model = opened(provider, chat={"answers": 5})
    (found,) = closed_probabilities(
        model, model.encode_prompts(conversations("How good?")), [str(rating) for rating in range(1, 11)]
    )
    assert found == [0.25, *[0.0] * 8, 0.75], "an option that begins another does not count it"
    assert len(provider.bodies) == 5 and {body["temperature"] for body in provider.bodies} == {1.0}


def test_likely_first_tokens_decide_where_the_provider_gives_them(provider: Provider) -> None:
    provider.gives_logprobs = True
    model = opened(provider, chat={"answers": 5})
    provider.likely = [("A", -0.5), (" B", -1.5), ("It", -3.0)]
    asked = model.encode_prompts(conversations("Which?"))
    ((first, second),) = closed_probabilities(model, asked, ["A", "B"])
    assert first / second == pytest.approx(2.71828, rel=1e-4) and first + second == 1
    provider.likely, provider.says = [("The", -0.1)], lambda body: "The answer is B."
    assert closed_probabilities(model, model.encode_prompts(conversations("And?")), ["A", "B"]) == [[0, 1]]
    assert len(provider.bodies) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        ("**(b)**", 1),
        ("The answer is B.", 1),
        ("A or B", None),
        ("", None),
        ("Better", None),
    ],
)
def test_an_option_is_named_as_a_whole_word(text: str, expected: int | None) -> None:
    assert named(text, ["A", "B"]) == expected
    assert named("It is fine as it is", ["fine", "It is fine as it is"]) == 1
    assert named("10", ["1", "10"]) == 1


# ---- identity -----------------------------------------------------------------------------------------


def test_the_id_of_a_model_follows_from_its_section(provider: Provider) -> None:
    model = opened(provider)
    section = section_of(provider)
    assert model.model_id == identity_of(section)
    same = section_of(
        provider, server={"concurrency": 3, "key_variable": "OTHER"}, prices={"input": 1, "output": 2}
    )
    assert identity_of(same) == model.model_id
    port = provider.server_address[1]
    with_password = {"url": f"http://user:word@127.0.0.1:{port}/v1/"}
    assert identity_of(section_of(None, server=with_password)) == model.model_id
    others = [
        section_of(provider, path="small-2"),
        section_of(provider, chat={"snapshot": "May"}),
        section_of(provider, chat={"request": {"reasoning_effort": "low"}}),
        section_of(None, server={"url": "http://127.0.0.1:1/v1"}),
    ]
    assert len({model.model_id, *map(identity_of, others)}) == 5


# ---- failures -----------------------------------------------------------------------------------------

POISONS = {
    "400": (kit.status(400), "refused", "refused: the server refused with status 400: "),
    "long": (
        kit.status(400, "This model's maximum context length is 10 tokens"),
        "too_long",
        "too_long: the server refused with status 400: ",
    ),
    "500": (kit.status(500), "failed", "failed: the server failed 2 times, finally with: status 500"),
    "half": (
        kit.half_a_body,
        "failed",
        "failed: the server failed 2 times, finally with: RemoteProtocolError",
    ),
    "nothing": (
        kit.nothing,
        "failed",
        "failed: the server failed 2 times, finally with: RemoteProtocolError",
    ),
    "null": (kit.message(content=None), "failed", "failed: the provider returned no text"),
    "no_choices": (kit.no_choices, "failed", "failed: the provider answered without a message"),
    "filtered": (
        kit.message("content_filter", content=""),
        "refused",
        "refused: the provider's content filter left out the text",
    ),
    "refusal": (
        kit.message(content=None, refusal="I must not."),
        "refused",
        "refused: the model refused: I must not.",
    ),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_prompt_that_is_not_answered_is_one_failed_row(provider: Provider, name: str) -> None:
    poison, reason, problem = POISONS[name]
    model = opened(provider, server={"attempts": 2})
    provider.poisons = {"poison": poison}
    done: list[int] = []
    drawn = model.generate(
        model.encode_prompts(conversations("Is it?", "the poison", "And this?")),
        [[1], [2, 3], [4]],
        GREEDY,
        lambda rows, tokens: done.append(rows),
    )
    assert [[path.finish_reason for path in row] for row in drawn] == [["stop"], [reason] * 2, ["stop"]]
    assert all(str(path.problem).startswith(problem) and path.text == "" for path in drawn[1])
    assert sum(done) == 4


def test_an_empty_text_is_a_completion(provider: Provider) -> None:
    model = opened(provider)
    provider.script = [kit.message("length", content="")]
    ((path,),) = model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert (path.text, path.finish_reason, path.problem) == ("", "length", None)


@pytest.mark.parametrize("misbehave", [kit.status(429), kit.status(503), kit.half_a_body, kit.nothing])
def test_what_failed_for_a_while_is_asked_again(provider: Provider, misbehave: kit.Misbehaviour) -> None:
    model = opened(provider)
    provider.script = [misbehave, misbehave]
    ((path,),) = model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert path.text == "It is fine." and len(provider.bodies) == 3


def test_the_wait_that_the_provider_asks_for_is_kept(provider: Provider) -> None:
    model = opened(provider)
    provider.script = [kit.status(429, **{"Retry-After": "0.4"})]
    started = time.monotonic()
    model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert time.monotonic() - started >= 0.4


def test_a_wrong_key_ends_the_work_and_is_not_shown(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = opened(provider)
    provider.script = [kit.status(401, f"no such key: {KEY}")]
    with pytest.raises(ModelError, match=r"status 401: .*\*\*\*.*OPENAI_API_KEY") as raised:
        model.generate(model.encode_prompts(conversations("Is it?")), [[1]], GREEDY)
    assert provider.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(raised.value) + caplog.text


def test_a_provider_that_is_down_can_be_asked_later() -> None:
    with pytest.raises(ModelUnavailable, match=r"the server at http://127\.0\.0\.1:9/v1 failed 2 times"):
        opened(None, server={"url": "http://user:word@127.0.0.1:9/v1", "attempts": 2})


# ---- limits, several servers --------------------------------------------------------------------------


def test_requests_are_spaced_by_the_limits(provider: Provider) -> None:
    model = opened(provider, server={"requests_per_minute": 1200})
    asked = model.encode_prompts(conversations(*"abcdef"))
    started = time.monotonic()
    model.generate(asked, [[1]] * 6, GREEDY)
    assert max(provider.times) - started >= 5 * 0.05


def test_tokens_are_spaced_by_the_limits() -> None:
    pace = remote.Pace(tokens_per_minute=600)
    assert [pace.wait(tokens, 100.0) for tokens in (10, 20, 5)] == [0.0, 1.0, 3.0]
    assert pace.wait(1, 200.0) == 0.0
    both = remote.Pace(requests_per_minute=60, tokens_per_minute=600)
    assert [both.wait(1, 0.0), both.wait(1, 0.0)] == [0.0, 1.0]


def test_several_servers_share_the_work_and_one_that_fails_is_left_out_for_a_while(
    provider: Provider,
) -> None:
    with kit.running() as second:
        model = opened(provider, server={"url": [provider.url, second.url], "concurrency": 4})
        provider.pause = second.pause = 0.05
        asked = model.encode_prompts(conversations(*map(str, range(16))))
        model.generate(asked, [[1]] * 16, GREEDY)
        assert abs(len(provider.bodies) - len(second.bodies)) <= 4
        second.script = [kit.status(500)]
        model.generate(asked, [[2]] * 16, GREEDY)
        left_out = model._remote.servers[1]
        assert 0 < left_out.out_until - time.monotonic() <= remote.LEFT_OUT
        before = len(second.bodies)
        model.generate(asked, [[3]] * 16, GREEDY)
        assert len(second.bodies) == before
        left_out.out_until = 0.0
        drawn = model.generate(asked, [[4]] * 16, GREEDY)
        assert len(second.bodies) > before and left_out.failures == 0
        assert all(path.text for (path,) in drawn)
        provider.poisons = second.poisons = {"": kit.status(500)}
        model._remote.attempts = 3
        with pytest.raises(ModelUnavailable, match=r"the servers at .*, .* failed 3 times"):
            model.generate(asked, [[5]] * 16, GREEDY)


# ---- money --------------------------------------------------------------------------------------------


def test_answers_are_paid_once(provider: Provider) -> None:
    model = opened(provider, prices={"input": 10.0, "output": 1000.0})
    asked = model.encode_prompts(conversations("Is it?", "And this?"))
    PAID.begin()
    before = PAID.money
    first = model.generate(asked, [[1], [2]], GREEDY)
    assert PAID.money - before == pytest.approx(2 * (2 * 10 + 3 * 1000) / 1e6)
    assert model.generate(asked, [[1], [2]], GREEDY) == first and len(provider.bodies) == 2, (
        "as after a crash"
    )
    assert PAID.money - before == pytest.approx(2 * (2 * 10 + 3 * 1000) / 1e6), "counted once for these rows"
    PAID.begin()
    model.generate(asked, [[1], [2]], GREEDY)
    assert PAID.money - before == pytest.approx(4 * (2 * 10 + 3 * 1000) / 1e6), "the rows were not stored"
    with PAID.unsettled():
        PAID.settle()
    PAID.begin()
    model.generate(asked, [[1], [2]], GREEDY)
    assert PAID.money - before == pytest.approx(6 * (2 * 10 + 3 * 1000) / 1e6), "a pilot keeps no rows"
    PAID.settle()
    model.generate(asked, [[1], [2]], GREEDY)
    assert PAID.money - before == pytest.approx(6 * (2 * 10 + 3 * 1000) / 1e6) and len(provider.bodies) == 2
    replayed = open_language_model(NAME, **opening_options(section_of(provider)), keep_answers=False)
    assert replayed.generate(asked, [[1], [2]], GREEDY) == first and len(provider.bodies) == 4
    Journal.of_home().clear()
    model.generate(asked, [[1], [2]], GREEDY)
    assert len(provider.bodies) == 6


def test_an_answer_that_may_succeed_later_is_not_kept(provider: Provider) -> None:
    model = opened(provider)
    asked = model.encode_prompts(conversations("Is it?"))
    provider.script = [kit.message(content=None)]
    assert model.generate(asked, [[1]], GREEDY)[0][0].finish_reason == "failed"
    assert model.generate(asked, [[1]], GREEDY)[0][0].text == "It is fine."


def test_equal_requests_of_a_batch_are_sent_once(provider: Provider) -> None:
    model = opened(provider)
    prompts = model.encode_prompts(conversations(*["Is it?"] * 4, "And this?"))
    drawn = model.generate(prompts, [[1]] * 5, GREEDY)
    assert [row[0].text for row in drawn] == [kit.FINE] * 5
    assert len(provider.bodies) == 2


def test_a_key_that_is_not_set_is_named(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    provider.script = [kit.status(401)]
    with pytest.raises(ModelError, match="the key is missing: set the environment variable OPENAI_API_KEY"):
        opened(provider)


def test_a_journal_holds_no_prompt_and_no_key(provider: Provider) -> None:
    model = opened(provider)
    model.generate(model.encode_prompts(conversations("a secret question")), [[1]], GREEDY)
    content = b"".join(path.read_bytes() for path in Journal.of_home().path.parent.glob("responses.sqlite*"))
    assert b"It is fine." in content
    assert KEY.encode() not in content and b"secret question" not in content
    assert json.loads(json.dumps(provider.bodies))
