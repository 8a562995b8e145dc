"""What each engine promises about repeated runs, in one line."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model import ENGINES, open_language_model, promise_of


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        ("transformers", {"device": "cpu"}, "the same texts and ids again"),
        ("vllm", {}, "a repeated or resumed run gives"),
        ("openai", {"send_seeds": True}, "it depends on the server"),
        ("openai", {"send_seeds": False}, "no seeds are sent"),
    ],
)
def test_an_engine_promises_in_one_line_before_it_is_opened(
    engine: str, options: dict[str, Any], said: str
) -> None:
    promise = promise_of(engine, **options)
    assert said in promise
    assert "\n" not in promise


def test_an_open_model_promises_what_its_engine_does() -> None:
    with closing(open_language_model(embedded.BASE_MODEL, device="cpu")) as model:
        assert model.promise == promise_of("transformers")


def test_an_engine_without_a_promise_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "mine", "selfimprove_dagster.language_model:open_language_model")
    assert promise_of("mine") == "the engine mine makes no promise about repeated runs"


def test_an_unknown_engine_has_no_promise() -> None:
    with pytest.raises(ModelError, match="unknown engine 'steam'"):
        promise_of("steam")
