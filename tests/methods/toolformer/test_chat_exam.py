"""The mode of Toolformer's exam in which a chat model calls tools in the format of its template."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.models import ToldModel

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.language_model.replies import Reply, read_reply, response_template
from selfimprove_dagster.methods.toolformer.exam import CHAT, EXAM, ToolExam
from selfimprove_dagster.methods.toolformer.files import HeldOutText
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.tables import MADE_CALL
from selfimprove_dagster.tools.registry import open_tools

DAY = datetime.date(2020, 11, 20)
CALLS = {
    "The orchard has 14 rows of 25 trees,": '{"name": "Calculator", "arguments": {"input": "14 * 25"}}',
    "It is closed today, a": '{"name": "Calendar"}',
}


class Chatting(ToldModel):
    """A chat model that calls a tool and then repeats what the tool returned."""

    prompting = Prompting(chat=True)

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        return read_reply(self.decode(token_ids), response_template(None, ""))


def says(prompt: str) -> str:
    turns = messages_of(prompt)
    if turns[-1].role == "tool":
        return turns[-1].content.replace("Today is ", "")
    (call,) = (call for begun, call in CALLS.items() if turns[0].content.endswith(begun))
    return f"<tool_call>{call}</tool_call>"


def experiment(
    folder: Path, *, model: dict[str, Any] | None = None, **evaluation: Any
) -> ToolformerExperiment:
    for name in ("texts.jsonl", "exam.jsonl"):
        (folder / name).write_text("")
    template = folder / "template.jinja"
    template.write_text("{{ messages[0].content }}")
    found = parse_experiment(
        {
            "name": "mine",
            "method": "toolformer",
            "model": {"path": str(BASE_MODEL), "template": str(template)} if model is None else model,
            "seeds": {"file": "texts.jsonl"},
            "tools": {"names": ["Calculator", "Calendar"]},
            "annotation": {"texts": 1},
            "evaluation": {"file": "exam.jsonl", "max_tokens": 50, "max_call_tokens": 50, **evaluation},
        },
        folder=folder,
    )
    assert isinstance(found, ToolformerExperiment)
    return found


def exam(folder: Path, **evaluation: Any) -> ToolExam:
    texts = [
        HeldOutText(begun, "exam.jsonl", line, "CC0-1.0", answer, date=DAY)
        for line, (begun, answer) in enumerate(zip(CALLS, ("350", "Friday"), strict=True), start=1)
    ]
    return ToolExam(
        experiment(folder, **evaluation), texts, [], lambda: closing(open_tools(["Calculator", "Calendar"]))
    )


def test_every_beginning_is_also_asked_in_a_conversation(tmp_path: Path) -> None:
    asked = exam(tmp_path, chat_tools=True)
    assert [part.mode for part in asked.parts] == ["with_tools", "greedy", CHAT]
    rows = asked.sit_part(Chatting(says), asked.parts[-1])  # type: ignore[arg-type]
    assert [(row["mode"], row["text"], row["correct"]) for row in rows] == [
        (CHAT, " 350", True),
        (CHAT, " Friday, November 20, 2020.", True),
    ]
    ((first,), (second,)) = (row["calls"] for row in rows)
    assert first == {
        "position": None,
        "written": 'Calculator(input: "14 * 25")',
        "tool": "Calculator",
        "arguments": '{"input": "14 * 25"}',
        "result": "350",
        "problem": None,
    }
    assert (second["tool"], second["result"]) == ("Calendar", "Today is Friday, November 20, 2020.")
    assert pl.Series([first, second], dtype=MADE_CALL).to_list() == [first, second]


def test_only_an_exam_with_that_mode_records_it(tmp_path: Path) -> None:
    without, asked = exam(tmp_path), exam(tmp_path, chat_tools=True)
    assert [part.mode for part in without.parts] == ["with_tools", "greedy"]
    added = asked.parameters
    assert {name: value for name, value in added.items() if name != "chat_tools"} == without.parameters
    assert added["chat_tools"]["prompting"]["template"] == "{{ messages[0].content }}"
    other = replace(
        asked,
        experiment=experiment(
            tmp_path, chat_tools=True, model={"path": str(BASE_MODEL), "prompting": "auto"}
        ),
    )
    assert other.parameters["chat_tools"]["prompting"] == {}


def test_a_model_that_is_asked_in_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"evaluation\.chat_tools needs a chat model"):
        experiment(tmp_path, chat_tools=True, model={"path": str(BASE_MODEL), "prompting": "text"})
    auto = experiment(tmp_path, chat_tools=True, model={"path": str(BASE_MODEL)})
    with pytest.raises(ExperimentError, match=r"is asked in plain text; name a model with a chat template"):
        EXAM.open(None, auto, None, None)  # type: ignore[arg-type]
