"""`selfimprove generate` says what the model wrote, and that it wrote nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kit.models import ByteModel
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import ExperimentError, ModelError
from selfimprove_dagster.language_model.base import FinishReason, Generation, SamplingParameters


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
        (("--regex", "["), "--regex: '\\[' is no regular expression"),
        (("--json-schema", "nowhere.json"), "--json-schema: nowhere.json cannot be read"),
        (("--regex", "a", "--json-schema", "nowhere.json"), "give either --regex or --json-schema"),
        (("--regex", "a", "--tools", "Calculator"), "omit --tools and --improve"),
        (("--regex", "a", "--improve", "pit"), "omit --tools and --improve"),
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
