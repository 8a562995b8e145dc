"""Requests that are sent in batches to a provider on 127.0.0.1, which ends them as asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import provider as kit
from kit.provider import Provider

from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.opening import identity_of, opening_options
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model import open_language_model, remote
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.chat_engine import ChatLanguageModel
from selfimprove_dagster.language_model.options import closed_probabilities
from selfimprove_dagster.language_model.paid import PAID, Journal

GREEDY = SamplingParameters(temperature=0.0, max_tokens=16)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with kit.running() as running:
        yield running


def section_of(provider: Provider, batch: Any = None, **fields: Any) -> ModelSection:
    server = {"url": provider.url, "attempts": 3, "batch": {"poll": 0.02, **(batch or {})}}
    return ModelSection.model_validate({"path": "small-1", "engine": "chat", "server": server, **fields})


def opened(provider: Provider, **fields: Any) -> ChatLanguageModel:
    section = section_of(provider, **fields)
    model = open_language_model(section.path, **opening_options(section, in_batches=True))
    assert isinstance(model, ChatLanguageModel)
    provider.bodies.clear()
    return model


def conversations(*texts: str) -> list[str]:
    return [stored([Message("user", text)]) for text in texts]


def texts(model: ChatLanguageModel, *questions: str) -> list[str]:
    """Return the answers, and the problems of those that failed."""
    asked = model.encode_prompts(conversations(*questions))
    drawn = model.generate(asked, [[number] for number in range(len(asked))], GREEDY)
    return [path.problem or path.text for (path,) in drawn]


def test_a_batch_is_answered_paid_once_and_deleted(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    provider.looks = 3
    model = opened(provider, prices={"input": 10.0, "output": 1000.0, "batch": 0.5})
    PAID.begin()
    before = PAID.money
    assert texts(model, "Is it?", "And this?", "Is it?") == [kit.FINE] * 3
    assert PAID.money - before == pytest.approx(0.5 * 3 * (2 * 10 + 3 * 1000) / 1e6)
    assert len(provider.batched) == 3 and not provider.bodies and len(provider.batches) == 1
    assert (
        "batch batch_0 of small-1 of 127.0.0.1" in caplog.text and "0 of 3 answered, 0 failed" in caplog.text
    )
    assert provider.files == {}, "the provider keeps no prompt and no answer"
    (batch,) = provider.batches.values()
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    assert texts(model, "Is it?", "And this?") == [kit.FINE] * 2 and len(provider.batches) == 1
    assert Journal.of_home().batches() == []


def test_the_same_model_answers_in_batches_and_alone(provider: Provider) -> None:
    section = section_of(provider)
    alone = section.model_copy(update={"server": section.server.model_copy(update={"batch": None})})
    assert identity_of(section) == identity_of(alone) == opened(provider).model_id
    model = open_language_model(section.path, **opening_options(section))
    texts(model, "Is it?")  # type: ignore[arg-type]
    assert provider.batches == {}, "who waits for an answer asks alone"


def test_lines_that_fail_are_rows_that_fail_or_are_asked_again(provider: Provider) -> None:
    model = opened(provider)
    provider.poisons = {
        "refused": kit.status(400),
        "long": kit.status(400, "This model's maximum context length is 10 tokens"),
        "busy": kit.status(429),
        "null": kit.message(content=None),
        "filtered": kit.message("content_filter", content=""),
    }
    found = texts(model, "Is it?", "a refused", "a long", "a busy", "a null", "a filtered")
    assert found[0] == kit.FINE
    assert found[1].startswith("refused: the server refused with status 400")
    assert found[2].startswith("too_long: the server refused with status 400")
    assert found[3] == "failed: failed in 3 batches, finally with: status 429"
    assert found[4] == "failed: the provider returned no text"
    assert found[5] == "refused: the provider's content filter left out the text"
    assert len(provider.batches) == 3 and not provider.bodies
    provider.poisons = {}
    assert texts(model, "Is it?", "a refused", "a long", "a busy", "a null")[3:] == [kit.FINE] * 2
    assert provider.batched.count(provider.batched[0]) == 1, "what was answered is not asked again"


def test_a_provider_that_answers_no_line_ends_the_work(provider: Provider) -> None:
    model = opened(provider)
    provider.poisons = {"": kit.status(503)}
    with pytest.raises(ModelUnavailable, match="failed in 3 batches, finally with: status 503"):
        texts(model, "Is it?", "And this?")
    assert Journal.of_home().batches() == []


def test_what_a_batch_left_when_it_expired_is_asked_again(provider: Provider) -> None:
    model = opened(provider)
    provider.expires_after = 2
    assert texts(model, *"abcde") == [kit.FINE] * 5
    first, second = provider.batches.values()
    assert (first["status"], second["request_counts"]["total"]) == ("expired", 3)
    assert sorted(provider.batched) == sorted({*provider.batched}), "nothing is sent twice"


def test_many_requests_are_several_batches(provider: Provider) -> None:
    model = opened(provider, batch={"most": 2})
    assert texts(model, *"abcde") == [kit.FINE] * 5
    assert [one["request_counts"]["total"] for one in provider.batches.values()] == [2, 2, 1]


@pytest.mark.parametrize("call", ["POST /files", "POST /batches", "GET /batches/batch_0"])
def test_calls_that_fail_for_a_while_are_repeated(provider: Provider, call: str) -> None:
    model = opened(provider)
    failures = [kit.status(429, **{"Retry-After": "0.05"}), kit.status(503)]

    def fail(now: str) -> None:
        if now == call and failures:
            provider.script.append(failures.pop())

    provider.before_call = fail
    assert texts(model, "Is it?") == [kit.FINE] and failures == []
    assert len(provider.batches) == 1


def test_a_provider_without_batches_is_named(provider: Provider) -> None:
    model = opened(provider)
    provider.before_call = lambda call: provider.script.append(kit.status(404, "no such route"))
    with pytest.raises(ModelError, match=r"refused with status 404: .*server\.batch"):
        texts(model, "Is it?")


def test_a_refused_batch_ends_the_work_with_the_reason(provider: Provider) -> None:
    model = opened(provider)
    provider.refuses_batches = "the model knows no seed"
    with pytest.raises(
        ModelError, match=r"refused the batch batch_0: line 1: the model knows no seed.*server\.batch"
    ):
        texts(model, "Is it?")
    provider.refuses_batches = None
    assert texts(model, "Is it?") == [kit.FINE] and len(provider.batches) == 2, "it is not waited for again"


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize(
    "call", ["POST /files", "POST /batches", "GET /batches/batch_0", "GET /files", "DELETE /files"]
)
@pytest.mark.parametrize("after", [False, True])
def test_a_killed_run_goes_on_with_the_same_batch(
    provider: Provider, call: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before a call, or after it without its answer."""
    from openai import AsyncOpenAI

    model = opened(provider, prices={"input": 10.0, "output": 100.0})
    real = AsyncOpenAI.request

    async def dies(self: Any, cast_to: Any, options: Any, **rest: Any) -> Any:
        now = f"{options.method.upper()} {options.url}"
        if not now.startswith(call):
            return await real(self, cast_to, options, **rest)
        if after:
            await real(self, cast_to, options, **rest)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AsyncOpenAI, "request", dies)
        with pytest.raises(BaseException) as raised:
            texts(model, "Is it?", "And this?", "And that?")
        assert is_killed(raised.value)
    PAID.begin()
    before = PAID.money
    again = opened(provider, prices={"input": 10.0, "output": 100.0})
    assert texts(again, "Is it?", "And this?", "And that?") == [kit.FINE] * 3
    assert PAID.money - before == pytest.approx(3 * (2 * 10 + 3 * 100) / 1e6)
    assert len(provider.batches) == 1 and len(provider.batched) == 3, "sent twice"


def is_killed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_killed, error.exceptions))
    return isinstance(error, Killed)


def test_a_judge_asks_in_batches(provider: Provider) -> None:
    provider.says = lambda body: "B"
    model = opened(provider)
    asked = model.encode_prompts(conversations("Which?", "And which?"))
    assert closed_probabilities(model, asked, ["A", "B"]) == [[0.0, 1.0]] * 2
    assert len(provider.batches) == 1 and not provider.bodies


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "openai"}, r"server\.batch is for the engine chat"),
        ({"chat": {"api": "litellm"}}, r"server\.batch is for the engine chat with chat\.api openai"),
        ({"server": {"url": ["http://a/v1", "http://b/v1"], "batch": {}}}, r"needs one address"),
    ],
)
def test_batches_are_refused_where_there_are_none(changes: dict[str, Any], said: str) -> None:
    given = {"path": "small-1", "engine": "chat", "server": {"batch": {}}, **changes}
    with pytest.raises(ValueError, match=said):
        ModelSection.model_validate(given)


def test_settings_without_batches_are_hashed_as_before() -> None:
    section = ModelSection.model_validate(
        {"path": "small-1", "engine": "chat", "prices": {"input": 1, "output": 2}}
    )
    assert "batch" not in json.dumps(section.model_dump(mode="json"))
