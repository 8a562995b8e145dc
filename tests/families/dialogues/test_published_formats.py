"""Rows as data sets publish them: what of each is the prompt, the response, and what is preferred.

The shapes are those of the data sets' cards: messages of OpenAI and TRL, ShareGPT and LLaMA-Factory, Alpaca
(tatsu-lab/alpaca), HH-RLHF (Anthropic/hh-rlhf), TRL's preferences, and UltraFeedback
(HuggingFaceH4/ultrafeedback_binarized).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.imports import ROOT
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.conversation import Message, ToolCall, ToolCalls, ToolResult, messages_of
from selfimprove_dagster.families.dialogues.export import asked as exported
from selfimprove_dagster.families.dialogues.files import read_comparisons, read_held_out_prompts, read_prompts
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken, turns
from selfimprove_dagster.families.dialogues.settings import (
    ComparisonFile,
    DialogueEvaluationSection,
    PromptFile,
)
from selfimprove_dagster.home.files import section_in
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.methods.curate.files import examples
from selfimprove_dagster.methods.curate.settings import ExampleFile
from selfimprove_dagster.methods.unnatural_instructions.seeds import read_examples
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import read_questions, split
from selfimprove_dagster.seeds.settings import QuestionFile

HI, HELLO, GO = ("user", "hi?"), ("assistant", "hello"), ("assistant", "Go away.")
BRIEF = ("system", "Be brief.")


def said(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


def shared(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": value} for who, value in messages]


def file_of(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompt(folder: Path, row: Any) -> tuple[list[Any], str | None]:
    (found,), rejected = read_prompts(PromptFile(file=file_of(folder, row)))
    assert rejected == []
    return list(turns(found.prompt)), found.response


def comparison(folder: Path, row: Any) -> tuple[list[Any], str, str]:
    (found,), rejected = read_comparisons(ComparisonFile(file=file_of(folder, row)))
    assert rejected == []
    return list(turns(found.prompt)), found.chosen, found.rejected


ALPACA = {"instruction": "Add them.", "input": "1 and 2", "output": "3", "text": "Below is an instruction …"}


@pytest.mark.parametrize(
    ("row", "asked", "response"),
    [
        ({"messages": said(BRIEF, HI, HELLO)}, [BRIEF, HI], "hello"),
        ({"messages": said(HI)}, [HI], None),
        ({"messages": said(("developer", "Be brief."), HI)}, [BRIEF, HI], None),
        ({"messages": said(HI, HELLO, ("user", "So?"), GO)}, [HI, HELLO, ("user", "So?")], "Go away."),
        ({"id": "a_0", "conversations": shared(("human", "hi?"), ("gpt", "hello"))}, [HI], "hello"),
        (
            {"conversations": shared(("human", "hi?"), ("gpt", "hello")), "system": "Be brief.", "tools": ""},
            [BRIEF, HI],
            "hello",
        ),
        ({"conversations": shared(("system", "Be brief."), ("human", "hi?"))}, [BRIEF, HI], None),
        ({"conversations": json.dumps(shared(("user", "hi?"), ("chatgpt", "hello")))}, [HI], "hello"),
        (ALPACA, [("user", "Add them.\n\n1 and 2")], "3"),
        ({**ALPACA, "input": ""}, [("user", "Add them.")], "3"),
        (
            {**ALPACA, "system": "Be brief.", "history": [["hi?", "hello"]]},
            [BRIEF, HI, HELLO, ("user", "Add them.\n\n1 and 2")],
            "3",
        ),
        ({"prompt": said(BRIEF, HI)}, [BRIEF, HI], None),
        ({"prompt": "hi?", "messages": said(HI, HELLO), "prompt_id": "1"}, [HI], None),
        (
            {"messages": said(("user", [{"type": "text", "text": "hi"}, {"type": "text", "text": "you?"}]))},
            [("user", "hi\nyou?")],
            None,
        ),
    ],
)
def test_a_prompt_is_read_in_every_published_form(
    tmp_path: Path, row: Any, asked: list[Any], response: str | None
) -> None:
    assert prompt(tmp_path, row) == (asked, response)


HH = "\n\nHuman: hi?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "hi?", "chosen": "Human: hi?\n\nAssistant: hello", "rejected": f"{HH} Go away."}, [HI]),
        ({"prompt": HH, "chosen": " hello", "rejected": " Go away."}, [HI]),
        ({"prompt": HH, "chosen": f"{HH} hello", "rejected": f"{HH} Go away."}, [HI]),
        ({"chosen": f"{HH} hello", "rejected": f"{HH} Go away."}, [HI]),
        ({"chosen": said(HI, HELLO), "rejected": said(HI, GO)}, [HI]),
        ({"prompt": said(HI), "chosen": said(HELLO), "rejected": said(GO)}, [HI]),
        (
            {
                "prompt": "hi?",
                "prompt_id": "f0",
                "chosen": said(HI, HELLO),
                "rejected": said(HI, GO),
                "messages": said(HI, HELLO),
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            },
            [HI],
        ),
        ({"prompt": "hi?", "chosen": said(BRIEF, HI, HELLO), "rejected": said(BRIEF, HI, GO)}, [BRIEF, HI]),
        (
            {
                "prompt": "a?",
                "chosen": said(("user", "a?"), GO, HI, HELLO),
                "rejected": said(("user", "a?"), GO, HI, GO),
            },
            [("user", "a?"), GO, HI],
        ),
        (
            {
                "conversations": shared(("human", "hi?")),
                "chosen": {"from": "gpt", "value": "hello"},
                "rejected": {"from": "gpt", "value": "Go away."},
            },
            [HI],
        ),
        ({"instruction": "hi?", "input": "", "chosen": "hello", "rejected": "Go away."}, [HI]),
        ({"messages": said(HI, HELLO), "chosen": "hello", "rejected": "Go away."}, [HI]),
    ],
)
def test_the_response_is_what_the_assistant_says_and_nothing_more(
    tmp_path: Path, row: Any, asked: list[Any]
) -> None:
    assert comparison(tmp_path, row) == (asked, "hello", "Go away.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": "hi?", "chosen": "Human: who?\n\nAssistant: hello", "rejected": "Go away."},
            "the messages of field `chosen` before the last are not those of the prompt",
        ),
        (
            {"prompt": "hi?", "chosen": f"{HH}", "rejected": f"{HH} Go away."},
            "the dialogue in field `chosen` ends without a response",
        ),
        (
            {"prompt": "hi?", "chosen": said(BRIEF, HI, HELLO), "rejected": said(("system", "x"), HI, GO)},
            "the dialogues of the two responses differ before the last turn",
        ),
        (
            {"messages": said(("user", [{"type": "image_url", "image_url": {"url": "a.png"}}]))},
            "has a part of the type image_url; only text can be read",
        ),
        ({"conversations": shared(("human", "hi?"), ("function_call", "{")), "chosen": "a"}, "is not JSON"),
        ({**ALPACA, "history": ["hi?"], "chosen": "a", "rejected": "b"}, "must hold pairs"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(tmp_path: Path, row: Any, reason: str) -> None:
    found, (bad,) = read_comparisons(
        ComparisonFile(file=file_of(tmp_path, {"chosen": "", "rejected": "", **row}))
    )
    assert found == [] and reason in bad.reason


def test_a_response_may_quote_a_dialogue(tmp_path: Path) -> None:
    text = "So.\n\nHuman: he said.\n\nAssistant: she said."
    row = {"prompt": "hi?", "chosen": text, "rejected": f"{HH} {text} No."}
    assert comparison(tmp_path, row) == ([HI], text, f"{text} No.")


CALL = ToolCalls("", (ToolCall("weather", {"city": "Ulm"}),))
RESULT = ToolResult("weather", "rain")
OPENAI = [
    *said(BRIEF, ("user", "Weather?")),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]
TRL = [
    *OPENAI[:2],
    {
        "role": "assistant",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm", "day": None}}}
        ],
    },
    {"role": "tool", "name": "weather", "content": "rain"},
    OPENAI[-1],
]
LLAMA_FACTORY = shared(
    ("system", "Be brief."),
    ("human", "Weather?"),
    ("function_call", '{"name": "weather", "arguments": {"city": "Ulm"}}'),
    ("observation", "rain"),
    ("gpt", "It rains."),
)


def test_a_task_of_self_instruct_has_the_input_of_its_first_instance(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "instances": [{"input": "cat", "output": "Katze"}, {"input": "dog"}]}
    assert prompt(tmp_path, row) == ([Message("user", "Translate.\n\ncat")], "Katze")
    (found,), _ = read_examples(Path(file_of(tmp_path, row)))
    assert (found.task.input, found.task.output) == ("cat", "Katze")


@pytest.mark.parametrize("row", [{"messages": OPENAI}, {"messages": TRL}, {"conversations": LLAMA_FACTORY}])
def test_calls_of_tools_are_kept(tmp_path: Path, row: dict[str, Any]) -> None:
    asked, response = prompt(tmp_path, row)
    assert asked == [Message(*BRIEF), Message("user", "Weather?"), CALL, RESULT]
    assert response == "It rains."
    (found,), _ = read_prompts(PromptFile(file=file_of(tmp_path, row)))
    chat = load_prompts([PROMPTS], Prompting(chat=True)).ask("response", **spoken(found.prompt))
    assert messages_of(chat) == asked
    text = load_prompts([PROMPTS], TEXT).ask("response", **spoken(found.prompt))
    assert text == (
        "System: Be brief.\n\nHuman: Weather?\n\n"
        'Assistant: → weather(city: "Ulm")\n\nResult of weather: rain\n\nAssistant:'
    )
    assert list(exported({"prompt": found.prompt})) == asked


def test_a_table_has_the_same_messages(tmp_path: Path) -> None:
    pl.DataFrame({"messages": [TRL]}).write_parquet(tmp_path / "rows.parquet")
    (found,), rejected = read_prompts(PromptFile(file=str(tmp_path / "rows.parquet")))
    assert rejected == [] and list(turns(found.prompt))[2:] == [CALL, RESULT]


def test_a_held_out_prompt_may_have_its_response_in_the_messages(tmp_path: Path) -> None:
    row = {"conversations": shared(("human", "hi?"), ("gpt", "hello")), "wanted": ["hello"]}
    (found,), _ = read_held_out_prompts(DialogueEvaluationSection(file=file_of(tmp_path, row), max_tokens=8))
    assert (found.question, found.chosen) == ("hi?", "hello")


# ---- `selfimprove seeds inspect` ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "format", "lines"),
    [
        (
            [{"messages": said(BRIEF, HI, HELLO)}],
            "`messages` of `role` and `content`",
            ["prompt: System: Be brief.⏎⏎Human: hi?", "response: hello"],
        ),
        (
            [{"conversations": shared(("human", "hi?"), ("gpt", "hello"))}],
            "`conversations` of `from` and `value` (ShareGPT)",
            ["prompt: hi?", "response: hello"],
        ),
        (
            [ALPACA],
            "`instruction`, `input` and `output` (Alpaca)",
            ["prompt: Add them.⏎⏎1 and 2", "response: 3"],
        ),
        (
            [{"chosen": f"{HH} hello", "rejected": f"{HH} Go away."}],
            "HH-RLHF's `chosen` and `rejected`, each a whole dialogue as text",
            ["prompt: Human: hi?", "chosen: hello", "rejected: Go away."],
        ),
        (
            [{"prompt": said(HI), "chosen": said(HELLO), "rejected": said(GO)}],
            "TRL's `chosen` and `rejected`, each a response as messages",
            ["prompt: hi?", "chosen: hello"],
        ),
        (
            [{"prompt": "hi?", "chosen": said(HI, HELLO), "rejected": said(HI, GO), "score_chosen": 8.0}],
            "UltraFeedback's `chosen` and `rejected`, each a whole dialogue as messages",
            ["prompt: hi?", "chosen: hello", "rejected: Go away."],
        ),
        (
            [{"messages": OPENAI}],
            "`messages` of `role` and `content`",
            ["assistant:⏎→ weather", "response: It rains."],
        ),
        (
            [{"question": "1 + 1?", "answer": "#### 2"}],
            "`question` as text with `answer`",
            ["question: 1 + 1?"],
        ),
        ([{"foo": 1}], "fields without a known format: `foo`", ["no row can be read"]),
    ],
)
def test_inspect_says_the_format_and_shows_rows_as_they_are_read(
    tmp_path: Path, rows: list[Any], format: str, lines: list[str]
) -> None:
    shown = CliRunner().invoke(app, ["seeds", "inspect", file_of(tmp_path, *rows)], catch_exceptions=False)
    text = " ".join(shown.output.split())
    assert shown.exit_code == 0 and format in text
    for line in lines:
        assert " ".join(line.split()) in text, shown.output


def test_inspect_shows_three_rows_and_what_is_rejected(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"question": ""}, *({"question": f"{number}?"} for number in range(9)))
    shown = CliRunner().invoke(app, ["seeds", "inspect", file], catch_exceptions=False).output
    assert "rows.jsonl, line 4" in shown and "line 5" not in shown
    assert "rejected: rows.jsonl, line 1: the question is empty" in shown
    (tmp_path / "empty.jsonl").touch()
    shown = CliRunner().invoke(app, ["seeds", "inspect", str(tmp_path / "empty.jsonl")]).output
    assert "has no rows" in " ".join(shown.split())


def test_rejected_rows_are_kept_as_before(tmp_path: Path) -> None:
    _, (bad,) = read_prompts(PromptFile(file=file_of(tmp_path, {"conversations": 7})))
    assert bad == Rejected(
        "rows.jsonl", 1, "field `conversations` must hold a list of messages, not int", "{'conversations': 7}"
    )


# ---- UltraFeedback before it was binarised --------------------------------------------------------------


def rated(*scores: tuple[str, Any]) -> dict[str, Any]:
    completions = [{"model": "m", "response": text, "overall_score": score} for text, score in scores]
    return {"source": "sharegpt", "instruction": "hi?", "models": [], "completions": completions}


def test_the_best_and_the_worst_completion_are_a_pair(tmp_path: Path) -> None:
    row = rated(("so so", 5.0), ("Go away.", 1), ("hello", 8.5), ("unscored", None))
    assert comparison(tmp_path, row) == ([HI], "hello", "Go away.")


@pytest.mark.parametrize(
    "row", [rated(("hello", 5), ("hi", 5.0)), rated(("hello", 5)), rated(), rated(("a", None))]
)
def test_completions_without_two_scores_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    found, rejected = read_comparisons(ComparisonFile(file=file_of(tmp_path, row)))
    assert found == []
    assert rejected[0].reason == "field `completions` holds no two responses with different `overall_score`"


# ---- which method reads which row ------------------------------------------------------------------------

ROWS: dict[str, Any] = {
    "`question`": {"question": "How many?"},
    "`text`": {"text": "Tom has two apples."},
    "`prompt`": {"prompt": "hi?"},
    "one dialogue of one exchange": {"messages": said(HI, HELLO)},
    "a dialogue of several turns": {
        "conversations": shared(("human", "hi?"), ("gpt", "hello"), ("human", "So?"))
    },
    "`instruction`, `input`, `output`": {"instruction": "Add.", "input": "1, 2", "output": "3"},
    "`instruction`, `instances`": {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}]},
    "`chosen`, `rejected` with a prompt": {"prompt": "hi?", "chosen": "hello", "rejected": "Go away."},
    "`instruction`, `completions`": rated(("hello", 5), ("Go away.", 1)),
}


def test_the_table_of_the_documents_says_which_method_reads_which_row(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    head, _, *lines = [
        line for line in text.split("Which rows become seeds")[1].splitlines() if line[:1] == "|"
    ][:12]
    methods = [re.findall(r"`(\w+)`", cell) for cell in head.split("|")[2:-1]]
    said_of = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert [*said_of] == [*ROWS, "plain text"]
    wrong = []
    for name, cells in said_of.items():
        path = tmp_path / ("rows.txt" if name == "plain text" else "rows.jsonl")
        path.write_text("How many?\n" if name == "plain text" else json.dumps(ROWS[name]) + "\n")
        for column, cell in zip(methods, cells, strict=True):
            for method in column:
                declared = registry.method(method)
                section: Any = section_in(declared.experiment.model_fields["seeds"].annotation)
                assert declared.seeds is not None
                read = [*declared.seeds.kind.read(section(file=str(path)))]
                accepted = bool(read) and not any(isinstance(one, Rejected) for one in read)
                if accepted != (cell == "yes"):
                    wrong.append((name, method, read))
    assert wrong == [], [one[:2] for one in wrong]


# ---- finished dialogues as examples ----------------------------------------------------------------------


def test_curate_reads_dialogues_as_examples_and_prompts(tmp_path: Path) -> None:
    tool = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
    }
    rows = [
        {"messages": said(HI, HELLO)},
        {"messages": said(HI)},
        {
            "conversations": shared(
                ("system", "Be brief."), ("human", "hi?"), ("gpt", "hello"), ("human", "So?")
            )
        },
        {"messages": [*said(HI), tool, {"role": "tool", "content": "1"}, *said(HELLO)]},
        {"instruction": "Add.", "messages": said(HI, HELLO)},
    ]
    found, rejected = split(examples(ExampleFile(file=file_of(tmp_path, *rows))))
    assert [(row["source_line"], row["instruction"], row["output"]) for row in found] == [
        (1, "hi?", "hello"),
        (2, "hi?", None),
        (3, "System: Be brief.\n\nHuman: hi?\n\nAssistant: hello\n\nHuman: So?", None),
        (5, "Add.", None),
    ]
    assert [(one.source_line, one.reason.partition(";")[0]) for one in rejected] == [
        (4, "a dialogue with calls of tools is no example of text")
    ]


def test_a_question_is_the_one_message_of_the_user(tmp_path: Path) -> None:
    rows = [
        {"messages": said(HI, HELLO)},
        {"messages": said(HI, HELLO, ("user", "So?"))},
        {"messages": said(BRIEF, HI)},
    ]
    found, rejected = read_questions(QuestionFile(file=file_of(tmp_path, *rows)))
    assert [one.question for one in found] == ["hi?"]
    assert [(one.source_line, "one message of the user" in one.reason) for one in rejected] == [
        (2, True),
        (3, True),
    ]
