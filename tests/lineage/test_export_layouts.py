"""Layouts of exports: what each line says, and that `datasets` and TRL open them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.small_lake import known_ancestry, make_experiment

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Message, ToolCall, ToolCalls, ToolResult, stored
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.export_cards import Card
from selfimprove_dagster.export_layouts import LAYOUTS, lines, with_messages
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of

Line = dict[str, Any]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ROWS = pl.DataFrame(
    {
        "id": ["ex:1", "ex:2"],
        "prompt": [
            stored([Message("user", "Why?")]),
            stored(
                [
                    Message("system", "Be kind."),
                    Message("user", "Hi"),
                    Message("assistant", "Yo"),
                    Message("user", "?"),
                ]
            ),
        ],
        "completion": [" So.", "!"],
    }
)


def made(layout: str, rows: pl.DataFrame = ROWS, card: Card | None = None, system: str = "") -> list[Line]:
    return [*lines(layout, rows, card or Card(), system)]


# ---- what each line says -------------------------------------------------------------------------------


def test_chat_has_the_messages_that_the_model_read_with_the_system_text_and_the_answer() -> None:
    assert made("chat", system="Be brief.") == [
        {
            "messages": [said("system", "Be brief."), said("user", "Why?"), said("assistant", "So.")],
            "id": "ex:1",
        },
        {
            "messages": [
                said("system", "Be brief.\n\nBe kind."),
                said("user", "Hi"),
                said("assistant", "Yo"),
                said("user", "?"),
                said("assistant", "!"),
            ],
            "id": "ex:2",
        },
    ]


def test_sharegpt_has_the_same_turns_under_its_own_names() -> None:
    (_, second) = made("sharegpt")
    assert [(one["from"], one["value"]) for one in second["conversations"]] == [
        ("system", "Be kind."),
        ("human", "Hi"),
        ("gpt", "Yo"),
        ("human", "?"),
        ("gpt", "!"),
    ]


def test_an_alpaca_instruction_is_what_the_user_says_or_the_whole_conversation() -> None:
    assert made("alpaca") == [
        {"instruction": "Why?", "input": "", "output": "So.", "id": "ex:1"},
        {
            "instruction": "system: Be kind.\n\nuser: Hi\n\nassistant: Yo\n\nuser: ?",
            "input": "",
            "output": "!",
            "id": "ex:2",
        },
    ]


def test_a_task_says_its_input_after_a_blank_line_and_alpaca_keeps_both_apart() -> None:
    rows = pl.DataFrame(
        {
            "id": ["ex:1", "ex:2"],
            "prompt": ["Task: Sort.\nInput: b a\nOutput:", "Task: Rhyme.\nOutput:"],
            "completion": [" a b", " Time."],
            "instruction": ["Sort.", "Rhyme."],
            "input": ["b a", " "],
            "output": ["a b", "Time."],
        }
    )
    assert [one["messages"][0]["content"] for one in made("chat", rows)] == ["Sort.\n\nb a", "Rhyme."]
    assert made("alpaca", rows)[0] == {"instruction": "Sort.", "input": "b a", "output": "a b", "id": "ex:1"}


def test_a_text_prompt_is_what_the_user_says_unless_the_method_declares_which_part_of_it() -> None:
    rows = pl.DataFrame(
        {"id": ["ex:1"], "prompt": ["Q: 1 + 1?\nA:"], "completion": [" Two. 2"], "question": ["1 + 1?"]}
    )
    assert made("chat", rows)[0]["messages"] == [said("user", "Q: 1 + 1?\nA:"), said("assistant", "Two. 2")]
    card = Card(asks=lambda row: [Message("user", row["question"])], says=lambda row: row["completion"][-1])
    (line,) = made("chat", rows, card, "Add.")
    assert line["messages"] == [said("system", "Add."), said("user", "1 + 1?"), said("assistant", "2")]


def test_calls_of_tools_stay_with_the_schemas_of_the_tools() -> None:
    schema = {"type": "function", "function": {"name": "Sum", "parameters": {"type": "object"}}}
    asked = stored(
        [
            Message("user", "1 + 1?"),
            ToolCalls("", (ToolCall("Sum", {"terms": [1, 1]}),)),
            ToolResult("Sum", "2"),
        ],
        [schema],
    )
    rows = pl.DataFrame({"id": ["ex:1"], "prompt": [asked], "completion": ["Two."]})
    (chat,) = made("chat", rows)
    assert chat["tools"] == [schema]
    assert chat["messages"][1]["tool_calls"][0]["function"] == {"name": "Sum", "arguments": {"terms": [1, 1]}}
    assert chat["messages"][2] == {"role": "tool", "content": "2", "name": "Sum"}
    (shared,) = made("sharegpt", rows)
    assert [one["from"] for one in shared["conversations"]] == [
        "human",
        "function_call",
        "observation",
        "gpt",
    ]
    assert json.loads(shared["conversations"][1]["value"]) == [
        {"name": "Sum", "arguments": {"terms": [1, 1]}}
    ]
    assert json.loads(shared["tools"]) == [schema]


def test_calls_of_tools_stay_in_parquet(tmp_path: Path) -> None:
    calls = ToolCalls("", (ToolCall("Sum", {"terms": [1, 1]}),))
    asked = stored([Message("user", "1 + 1?"), calls, ToolResult("Sum", "2")])
    rows = pl.DataFrame({"id": ["ex:1"], "prompt": [asked], "completion": ["Two."]})
    with_messages(rows, "").write_parquet(tmp_path / "rows.parquet")
    (messages,) = pl.read_parquet(tmp_path / "rows.parquet")["prompt"].to_list()
    assert messages[0] == {"role": "user", "content": "1 + 1?", "tool_calls": None, "name": None}
    (call,) = messages[1]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "Sum", "arguments": '{"terms": [1, 1]}'}}
    assert messages[2] == {"role": "tool", "content": "2", "tool_calls": None, "name": "Sum"}


PAIRS = pl.DataFrame({"id": ["ex:1"], "prompt": ["Why?"], "chosen": [" So."], "rejected": [" No."]})


def test_a_pair_is_a_prompt_with_both_responses() -> None:
    assert made("preference", PAIRS) == [
        {
            "prompt": [said("user", "Why?")],
            "chosen": [said("assistant", "So.")],
            "rejected": [said("assistant", "No.")],
            "id": "ex:1",
        }
    ]


@pytest.mark.parametrize(
    ("layout", "rows", "match"),
    [
        ("chat", PAIRS, "these are pairs of responses: export them as preference"),
        ("alpaca", PAIRS, "these are pairs of responses"),
        ("sharegpt", PAIRS, "these are pairs of responses"),
        ("preference", ROWS, "needs the columns prompt, chosen and rejected.*export them as chat"),
        ("chat", ROWS.drop("completion"), "needs the columns prompt and completion, or instruction, input"),
    ],
)
def test_rows_that_do_not_fit_a_layout_are_refused_with_those_that_do(
    layout: str, rows: pl.DataFrame, match: str
) -> None:
    with pytest.raises(ExperimentError, match=match):
        made(layout, rows)


def test_stored_prompts_are_lists_of_messages_in_parquet() -> None:
    asked = with_messages(ROWS, "Be brief.")
    assert asked["prompt"].to_list()[0] == [said("system", "Be brief."), said("user", "Why?")]
    assert asked["completion"].to_list() == [[said("assistant", " So.")], [said("assistant", "!")]]


# ---- methods -------------------------------------------------------------------------------------------


def exported(lake: Lake, experiment: Any, layout: str, folder: Path) -> list[Line]:
    export_dataset(lake, experiment, folder / layout, None, layout)
    text = (folder / layout / "train.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_paths_are_exported_with_the_bare_question_and_a_whole_answer(
    finished_home: Home, tmp_path: Path
) -> None:
    lake, experiment = finished_home.lake, finished_home.experiment("small")
    rows = lake.read("lmsi/filtered_dataset", partition_of("small", 1)).to_dicts()
    chat, shared, alpaca = (
        exported(lake, experiment, one, tmp_path) for one in ("chat", "sharegpt", "alpaca")
    )
    assert len(rows) == len(chat) == len(shared) == len(alpaca) > 20
    formats = set()
    for row, talk, turns, task in zip(rows, chat, shared, alpaca, strict=True):
        user, assistant = talk["messages"]
        assert user == said("user", row["question"]) and "Q:" not in user["content"]
        whole = row["completion"].strip()
        if row["format"] == "zero_shot_direct":
            whole = f"The answer is {whole}"
        assert assistant == said("assistant", whole)
        assert whole.endswith(f"The answer is {row['answer']}.")
        assert [one["value"] for one in turns["conversations"]] == [row["question"], whole]
        assert (task["instruction"], task["input"], task["output"]) == (row["question"], "", whole)
        assert talk["id"] == turns["id"] == task["id"] == row["id"]
        formats.add(row["format"])
    assert "zero_shot_direct" in formats, "the format whose prompt holds the beginning of the answer"


def test_every_method_with_a_dataset_has_a_layout_or_refuses_it() -> None:
    """By columns alone, so that a new method cannot be forgotten."""
    fits: dict[str, set[str]] = {}
    for name in registry.methods():
        method = registry.method(name)
        if method.dataset is None or method.card is None:
            continue
        row = dict.fromkeys(method.dataset.content, "") | {"id": "ex:1"}
        frame = pl.DataFrame([row]).select(*(method.card.columns or row))
        for layout in LAYOUTS:
            if layout in method.card.refused:
                continue
            try:
                assert "id" in next(lines(layout, frame, method.card))
            except ExperimentError as error:
                assert "export them as" in str(error)
            else:
                fits.setdefault(name, set()).add(layout)
    pairs, single = {"preference"}, {"chat", "sharegpt", "alpaca"}
    assert {*map(frozenset, fits.values())} == {frozenset(pairs), frozenset(single)}
    assert fits["lmsi"] == fits["self_instruct"] == fits["constitutional"] == single
    assert fits["rlaif"] == fits["rlhf"] == fits["pit"] == pairs


# ---- tools that open them ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


@pytest.mark.parametrize("layout", ["huggingface", "parquet", "jsonl", "chat", "sharegpt", "alpaca"])
def test_datasets_opens_the_folder(lake: Lake, tmp_path: Path, layout: str) -> None:
    import datasets

    known = known_ancestry(lake)
    experiment = make_experiment(tmp_path)
    export_dataset(lake, experiment, tmp_path / "out", None, layout, card=True)
    opened = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert opened["id"] == [known.example]
    shown = json.dumps(opened[0])
    assert "1 + 1 = 2. The answer is 2." in shown and "What is 1 + 1?" in shown


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def trained(kind: str, file: Path, folder: Path) -> float:
    """The loss of one step of a trainer of TRL on a file of JSON Lines."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = str(Path(registry.__file__).parent / "embedded" / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    rows = datasets.load_dataset("json", data_files=str(file), split="train")
    settings = getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_steps=1,
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer = getattr(trl, f"{kind}Trainer")(
        model, args=settings, train_dataset=rows, processing_class=tokenizer
    )
    return float(trainer.train().training_loss)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["chat", "sharegpt"])
def test_trl_trains_on_conversations(finished_home: Home, tmp_path: Path, layout: str) -> None:
    exported(finished_home.lake, finished_home.experiment("small"), layout, tmp_path)
    assert 0 < trained("SFT", tmp_path / layout / "train.jsonl", tmp_path / "model") < 20


@pytest.mark.slow
def test_trl_trains_on_preferences(judge_home: Home, tmp_path: Path) -> None:
    exported(judge_home.lake, judge_home.experiment("ai"), "preference", tmp_path)
    loss = trained("DPO", tmp_path / "preference" / "train.jsonl", tmp_path / "model")
    assert loss == pytest.approx(0.6931, abs=1e-3), "the loss of a policy that equals its reference, log 2"
