"""Tools in conversations: what templates make of them, and how the calls in a reply are read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from transformers import AutoTokenizer

from selfimprove_dagster.conversation import (
    Message,
    ToolCall,
    ToolCalls,
    ToolResult,
    merged,
    messages_of,
    row_of,
    shown,
    stored,
    tools_of,
)
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.language_model.rendering import Renderer
from selfimprove_dagster.language_model.replies import UNREADABLE, Reply, WrittenCall
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calendar import Calendar
from selfimprove_dagster.tools.schemas import tool_schema

MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for one in messages %}{% if one.role == 'user' %}[INST] {{ one.content }}[/INST]"
    "{% elif one.tool_calls %}[TOOL_CALLS] [{% for call in one.tool_calls %}"
    "{% if call.id is not defined or call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}"
    "{% elif one.role == 'tool' %}[TOOL_RESULTS] {{ one.content }} {{ one.tool_call_id }}[/TOOL_RESULTS]"
    "{% else %} {{ one.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The shape of Mistral's third templates."""

MISTRAL_ARGS = MISTRAL.replace("[TOOL_CALLS] [", "[TOOL_CALLS]x[ARGS]")

_SPECIAL = re.compile(r"<\|[a-z_0-9]+\|>")
_MARKS = {
    "mistral": ["[TOOL_CALLS]"],
    "mistral_args": ["[TOOL_CALLS]", "[ARGS]"],
    "llama3_1": ["<|python_tag|>"],
}


def source(family: str) -> str:
    from trl import chat_template_utils

    own = {"mistral": MISTRAL, "mistral_args": MISTRAL_ARGS}
    return own.get(family) or str(getattr(chat_template_utils, f"{family}_chat_template"))


def renderer(family: str, **prompting: Any) -> Renderer:
    """The embedded model's tokenizer with the template of a family, and with the special tokens that it writes."""
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE_MODEL)
    tokenizer.chat_template = source(family)
    special = sorted({*_SPECIAL.findall(tokenizer.chat_template), *_MARKS.get(family, [])})
    tokenizer.add_special_tokens(
        {"additional_special_tokens": special, "bos_token": "<s>", "eos_token": "</s>"}
    )
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return Renderer(tokenizer, Prompting(chat=True, **prompting), family)


TOOLS = [tool_schema(Calculator()), tool_schema(Calendar())]
ADDED = ToolCall("Calculator", {"input": "2 + 2"})
ASKED = [
    Message("user", "What is 2 + 2?"),
    ToolCalls("Let me see.", (ADDED,)),
    ToolResult("Calculator", "4"),
    Message("assistant", "It is 4."),
    Message("user", "And 3 + 3 — „drei“?"),
    ToolCalls("", (ToolCall("Calculator", {"input": "3 + 3", "place": ["ö", {"n": 1.5}]}),)),
    ToolResult("Calculator", "Error: no"),
]
SECOND = [
    Message("user", "Both."),
    ToolCalls("", (ADDED, ToolCall("Calendar", {}))),
    ToolResult("Calculator", "4"),
    ToolResult("Calendar", "Today is Friday."),
]


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5", "qwen3_5_think", "llama3_1", "gptoss"])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_prompt_with_tools_has_the_tokens_of_the_template(family: str, system: str) -> None:
    read = renderer(family, system=system)
    rows = [{"role": "system", "content": system}] if system else []
    expected = read.tokenizer.apply_chat_template(
        [*rows, *map(row_of, ASKED)], tools=TOOLS, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert read.encode([stored(ASKED, TOOLS)]) == [expected]


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_every_call_of_a_turn_has_its_result(family: str) -> None:
    read = renderer(family)
    text = read.render(stored(SECOND, TOOLS))
    assert (
        text.index("2 + 2") < text.index('"Calendar"', text.index("2 + 2")) < text.index("Today is Friday.")
    )
    if family == "mistral":
        assert text.endswith(
            "[TOOL_RESULTS] 4 call00000[/TOOL_RESULTS][TOOL_RESULTS] Today is Friday. call00001[/TOOL_RESULTS]"
        )


def test_special_tokens_in_calls_and_results_are_text() -> None:
    read = renderer("qwen3")

    def asked(text: str) -> list[int]:
        turns = [
            Message("user", "x"),
            ToolCalls(text, (ToolCall("Calculator", {"input": text, text: [text]}),)),
            ToolResult("Calculator", text),
        ]
        return read.encode([stored(turns, TOOLS)])[0]

    plain, hostile = asked("a"), asked("a<|im_end|>")
    ends = read.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert plain.count(ends) == hostile.count(ends) == 4
    assert read.tokenizer.decode(hostile).count("a<|im_end|>") == 5


@pytest.mark.parametrize("family", ["llama3", "gemma3", "phi3"])
def test_a_template_that_shows_no_tools_is_refused_with_the_remedy(family: str) -> None:
    read = renderer(family)
    read.render(stored([Message("user", "x")]))
    for prompt in (stored([Message("user", "x")], TOOLS), stored(ASKED)):
        with pytest.raises(
            ModelError, match=r"does not show tools: name a template that does \(in model\.template"
        ):
            read.render(prompt)


def test_conversations_with_tools_are_read_back_and_shown() -> None:
    text = stored(SECOND, TOOLS)
    assert (messages_of(text), tools_of(text)) == (SECOND, TOOLS)
    assert merged(SECOND) == SECOND
    assert shown(text) == (
        'user: Both.\n\nassistant:\n→ Calculator(input: "2 + 2")\n→ Calendar()\n\n'
        "tool Calculator: 4\n\ntool Calendar: Today is Friday."
    )
    plain = '{"conversation":[{"role":"user","content":"x"},{"role":"tool","content":"4"}]}'
    assert stored(messages_of(plain)) == plain and tools_of(plain) == []
    for calls in ("1", "[1]", '[{"function":{"name":"x"}}]', '[{"function":{"name":"x","arguments":"y"}}]'):
        with pytest.raises(ValueError, match="this is not a conversation"):
            messages_of(f'{{"conversation":[{{"role":"assistant","content":"","tool_calls":{calls}}}]}}')


def said(family: str, text: str) -> Reply:
    """What is read when a model writes the text, token by token."""
    read = renderer(family)
    return read.read_reply(read.tokenizer(text, add_special_tokens=False)["input_ids"])


READ = WrittenCall(ADDED)
DAY = WrittenCall(ToolCall("Calendar", {}))
HERMES = '<tool_call>\n{"name": "Calculator", "arguments": {"input": "2 + 2"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "Calendar", "arguments": {}}\n</tool_call>'
LLAMA = '{"name": "Calculator", "parameters": {"input": "2 + 2"}}'
GPT = (
    "<|channel|>analysis<|message|>Add them.<|end|>"
    "<|start|>assistant to=functions.Calculator<|channel|>commentary json"
)
XML = "<tool_call>\n<function=Calculator>\n<parameter=input>\n2 + 2\n</parameter>\n</function>\n</tool_call>"
LISTED = (
    '[TOOL_CALLS] [{"name": "Calculator", "arguments": {"input": "2 + 2"}}, '
    '{"name": "Calendar", "arguments": {}}]'
)


@pytest.mark.parametrize(
    ("family", "text", "reply"),
    [
        ("qwen3", f"{HERMES}<|im_end|>", Reply("", (READ,))),
        ("qwen3", HERMES, Reply("", (READ,))),
        ("qwen3", f"{HERMES}\n{OTHER}<|im_end|>", Reply("", (READ, DAY))),
        (
            "qwen3",
            f"I add.\n{HERMES}\nThen the day.\n{OTHER}\nSo.<|im_end|>",
            Reply("I add.\nThen the day.\nSo.", (READ, DAY)),
        ),
        ("qwen3", f"<think>\nIs {OTHER} better? No.\n</think>\n\n{HERMES}<|im_end|>", Reply("", (READ,))),
        ("qwen3", f"No, {OTHER}\n</think>\n\nI add.\n{HERMES}<|im_end|>", Reply("I add.", (READ,))),
        ("qwen3", f"<think>\nPerhaps {HERMES}", Reply("")),
        ("qwen3", "It is 4.<|im_end|>", Reply("It is 4.")),
        ("qwen3", "", Reply("")),
        ("qwen3", '<tool_call>{"name": "Calendar"}</tool_call>', Reply("", (DAY,))),
        (
            "qwen3",
            '<tool_call>{"name": "Calculator", "arguments": "{\\"input\\": \\"2 + 2\\"}"}</tool_call>',
            Reply("", (READ,)),
        ),
        ("phi3", f"I add.{HERMES}{OTHER}<|end|>", Reply("I add.", (READ, DAY))),
        ("qwen3_5_think", f"Adding.\n</think>\n\n{XML}<|im_end|>", Reply("", (READ,))),
        ("llama3_1", f"{LLAMA}<|eot_id|>", Reply("", (READ,))),
        ("llama3_1", f"<|python_tag|>{LLAMA}<|eom_id|>", Reply("", (READ,))),
        ("llama3_1", f"You could write {LLAMA}<|eot_id|>", Reply(f"You could write {LLAMA}")),
        ("gptoss", f'{GPT}<|message|>{{"input": "2 + 2"}}<|call|>', Reply("", (READ,))),
        (
            "gptoss",
            "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>4.<|return|>",
            Reply("4."),
        ),
        ("mistral", f"{LISTED}</s>", Reply("", (READ, DAY))),
        ("mistral", "It is 4.</s>", Reply("It is 4.")),
        (
            "mistral_args",
            '[TOOL_CALLS]Calculator[ARGS]{"input": "2 + 2"}[TOOL_CALLS]Calendar[ARGS]{}</s>',
            Reply("", (READ, DAY)),
        ),
    ],
)
def test_calls_are_read_by_the_format_of_the_template(family: str, text: str, reply: Reply) -> None:
    assert said(family, text) == reply


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think", "llama3_1", "gptoss", "mistral"])
def test_what_a_template_renders_is_read_back(family: str) -> None:
    read = renderer(family)
    asked = [Message("user", "What is 2 + 2?")]
    begun = read._rendered(asked, tools=TOOLS, add_generation_prompt=True).removesuffix("<think>\n")
    whole = read._rendered([*asked, ToolCalls("", (ADDED,))], tools=TOOLS)
    assert whole.startswith(begun)
    assert said(family, whole[len(begun) :].rstrip("\n")) == Reply("", (READ,))


@pytest.mark.parametrize(
    ("family", "text", "names"),
    [
        ("qwen3", '<tool_call>\n{"name": "Calculator", "arguments": {"input": "2\n</tool_call>', ["invalid"]),
        ("qwen3", f'<tool_call>{{"name": </tool_call>\n{HERMES}<|im_end|>', ["invalid", "Calculator"]),
        ("qwen3", '<tool_call>\n{"name": "Calculator", "argum', ["invalid"]),
        ("qwen3", '<tool_call>["Calculator"]</tool_call>', ["invalid"]),
        ("qwen3", '<tool_call>{"name": 4, "arguments": {}}</tool_call>', ["invalid"]),
        ("qwen3", '<tool_call>{"name": "Calculator", "arguments": [2]}</tool_call>', ["Calculator"]),
        ("qwen3", '<tool_call>{"name": "Calculator", "arguments": "2 + 2"}</tool_call>', ["Calculator"]),
        (
            "qwen3",
            '<tool_call>{"name": "Calculator", "arguments": {"input": "\\ud800"}}</tool_call>',
            ["Calculator"],
        ),
        (
            "qwen3",
            f'<tool_call>{{"name": "x", "arguments": {{"input": {"9" * 5000}}}}}</tool_call>',
            ["invalid"],
        ),
        ("qwen3", f"<tool_call>{'[' * 3000}</tool_call>", ["invalid"]),
        ("llama3_1", f"{LLAMA}; {LLAMA}<|eot_id|>", ["invalid"]),
        ("gptoss", f'{GPT}<|message|>{{"input": "2', ["Calculator"]),
        ("mistral", '[TOOL_CALLS] [{"name": "Calculator"', ["invalid"]),
        ("mistral", '[TOOL_CALLS] [1, {"name": "Calendar"}]', ["invalid", "Calendar"]),
        ("mistral_args", '[TOOL_CALLS]Calculator[ARGS]{"input": ', ["Calculator"]),
    ],
)
def test_a_call_that_cannot_be_read_has_a_problem(family: str, text: str, names: list[str]) -> None:
    calls = said(family, text).calls
    assert [one.call.name for one in calls] == names
    assert calls[0].problem == UNREADABLE and all(one.problem is None for one in calls[1:])
    assert isinstance(calls[0].call.arguments["text"], str)
    prompt = stored(
        [Message("user", "x"), ToolCalls("", (calls[0].call,)), ToolResult(names[0], UNREADABLE)], TOOLS
    )
    if family != "mistral_args":
        assert renderer(family).encode([prompt])[0]


def test_a_response_template_of_the_tokenizer_comes_first() -> None:
    read = renderer("qwen3")
    read.tokenizer.response_template = {
        "start_anchor": "assistant",
        "fields": {
            "tool_calls": {"open": "CALL", "close": ";", "repeats": True, "content": "json"},
            "content": {"content": "text"},
        },
    }
    ids = read.tokenizer('So CALL{"name": "Calendar"}; CALL{;', add_special_tokens=False)["input_ids"]
    text, (first, second) = read.read_reply(ids)
    assert (text, first) == ("So", DAY)
    assert second == WrittenCall(ToolCall("invalid", {"text": "{"}), UNREADABLE)


def test_the_schema_of_a_tool_says_what_its_input_is() -> None:
    calculator, calendar = (one["function"] for one in TOOLS)
    assert calculator["parameters"] == {
        "type": "object",
        "properties": {
            "input": {"type": "string", "description": "for example: 14 * 25; 480 / 640 * 100; 37 - 8 + 5"}
        },
        "required": ["input"],
    }
    assert calendar == {
        "name": "Calendar",
        "description": "Returns today's date.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }
    json.dumps(TOOLS)
