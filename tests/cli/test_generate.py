"""`selfimprove generate` says what the model wrote, and that it wrote nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit.models import ByteModel
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import ExperimentError, ModelError
from selfimprove_dagster.language_model.base import FinishReason, Generation, SamplingParameters
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.language_model.replies import Reply, read_reply, response_template


class Writes(ByteModel):
    """Writes the same text after every prompt."""

    model_id = "b2:writes"

    def __init__(self, text: str, finish_reason: FinishReason) -> None:
        self.text, self.finish_reason = text, finish_reason

    def path(self, prompt: object, seed: int, parameters: SamplingParameters) -> Generation:
        ids = self.encode_continuation(self.text)
        return Generation(ids, [-0.5] * len(ids), self.text, self.finish_reason)

    def among_likeliest(
        self, contexts: list[list[int]], continuations: list[list[int]], token_id: int, most: int
    ) -> list[list[bool]]:
        return [[False] * len(ids) for ids in continuations]


def said(monkeypatch: pytest.MonkeyPatch, model: Writes, *options: str) -> str:
    monkeypatch.setattr("selfimprove_dagster.language_model.open_language_model", lambda *_, **__: model)
    done = CliRunner().invoke(app, ["generate", "What is 17 + 25?", *options])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize("text", ["", "  \n "])
@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("options", [(), ("--improve", "self-refine", "--rounds", "1")])
def test_an_empty_completion_is_reported_with_its_finish_reason(
    text: str, reason: FinishReason, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said(monkeypatch, Writes(text, reason), *options)
    assert found.startswith("What is 17 + 25?")
    if options:
        assert "0 answer: " in found and "0 answer: (" not in found
    else:
        assert f"empty completion: no text in {len(text)} tokens, finish reason {reason}" in found


def test_a_completion_is_printed_after_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, Writes(" It is 42.", "stop")) == "What is 17 + 25? It is 42."


class Chats(Writes):
    """A chat model that calls the calculator once, and then answers."""

    prompting = Prompting(chat=True)

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        asked = self.decode(prompt)
        text = "It is 42." if '"role":"tool"' in asked else self.text
        return Generation(ids := self.encode(text), [-0.5] * len(ids), text, "stop")

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        return read_reply(self.decode(token_ids), response_template(None, ""))


def test_the_calls_of_a_chat_model_are_printed_with_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>{"name": "Calculator", "arguments": {"input": "17 + 25"}}</tool_call>'
    assert said(monkeypatch, Chats(call, "stop"), "--tool", "calculator", "--tool", "Calendar") == (
        'What is 17 + 25?: Calculator(input: "17 + 25") → 42 What is 17 + 25? It is 42.'
    )
    broken = said(monkeypatch, Chats("<tool_call>{</tool_call>", "stop"), "--tool", "calculator")
    assert 'invalid(text: "{") → error: this call cannot be read' in broken


@pytest.mark.parametrize("options", [("--regex", "[A-D]"), ("--json-schema", "schema.json")])
def test_a_text_that_does_not_match_is_printed_and_is_an_error(
    options: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text('{"enum": ["B", 2]}')
    monkeypatch.setattr(
        "selfimprove_dagster.language_model.open_language_model", lambda *_, **__: Writes("Two", "length")
    )
    done = CliRunner().invoke(app, ["generate", "What is 1 + 1?", *options])
    assert "What is 1 + 1?Two" in done.output and done.exit_code == 1
    assert isinstance(done.exception, ModelError)
    assert str(done.exception).startswith("1 of 1 texts do not match the ")
    assert "finish reason length" in str(done.exception) and "--max-tokens" in str(done.exception)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--tool", "Sum"), "'Sum' is none of Calculator"),
        (("--tool", "Calendar", "--tools", "Calendar"), "omit one of them"),
        (("--tool", "Calendar", "--improve", "self-refine"), "refines answers without tools"),
        (("--tool", "Calendar"), "asked in plain text"),
    ],
)
def test_tools_that_cannot_be_called_are_refused(
    options: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "selfimprove_dagster.language_model.open_language_model", lambda *_, **__: Writes("So.", "stop")
    )
    done = CliRunner().invoke(app, ["generate", "What?", *options])
    assert done.exit_code == 1
    assert why in " ".join((done.output + str(done.exception)).split())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--regex", "["), "--regex: '\\[' is no regular expression"),
        (("--json-schema", "nowhere.json"), "--json-schema: nowhere.json cannot be read"),
        (("--regex", "a", "--json-schema", "nowhere.json"), "give either --regex or --json-schema"),
        (("--regex", "a", "--tools", "Calculator"), "omit the tools and --improve"),
        (("--regex", "a", "--improve", "pit"), "omit the tools and --improve"),
    ],
)
def test_wrong_options_for_a_structure_are_refused(options: tuple[str, ...], why: str) -> None:
    done = CliRunner().invoke(app, ["generate", "x", *options])
    assert isinstance(done.exception, ExperimentError)
    assert re.search(why, str(done.exception))


def test_the_embedded_model_writes_what_matches() -> None:
    done = CliRunner().invoke(app, ["generate", "Q: What is 17 + 25?\nA:", "--regex", " [0-9]{2}"])
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"Q: What is 17 \+ 25\?\nA: [0-9]{2}\n", done.output)
