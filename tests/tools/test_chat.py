"""The loop in which a chat model calls tools: what it is shown, which calls are made, and when it ends."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from kit.models import ToldModel

from selfimprove_dagster.conversation import (
    Message,
    ToolCall,
    ToolCalls,
    ToolResult,
    messages_of,
    stored,
    tools_of,
)
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import RefusedPrompt, SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.replies import UNREADABLE, Reply, read_reply, response_template
from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.chat import ChatCall, ChatTranscript, chat_with_tools
from selfimprove_dagster.tools.registry import open_tools
from selfimprove_dagster.tools.schemas import call_input, tool_schema
from selfimprove_dagster.tools.toolbox import Toolbox

LENGTH = """
class Length:
    '''Counts the letters of a word.'''

    name = "Length"
    version = "1"
    introduction = "Your task is to add calls."
    shots = (("An ox has 2.", 'An ox has [Length("ox")] 2.'),)

    def parse(self, arguments):
        return arguments[1:-1]

    def run(self, input, context):
        while input == "endless":
            pass
        return str(len(input))
"""


class Chatting(ToldModel):
    """A chat model that says what its conversation makes it say, in the form of Hermes."""

    prompting = Prompting(chat=True)

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        return read_reply(self.decode(token_ids), response_template(None, ""))


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def chatting(*turns: str, **options: object) -> Chatting:
    """A model that says these in turn."""
    return Chatting(
        lambda prompt: turns[sum(one.role == "assistant" for one in messages_of(prompt))], **options
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolbox]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "my_tools.py").write_text(LENGTH)
    opened = open_tools(["Calculator", "Calendar", "my_tools.py:Length"], folder=folder, time_limit=0.5)
    yield opened
    opened.close()


QUESTION = stored([Message("user", "What is 6 * 7?")])
SUM = ToolCall("Calculator", {"input": "6 * 7"})


def test_a_call_is_answered_and_the_model_goes_on(box: Toolbox) -> None:
    model = chatting(f"I calculate.{call('Calculator', input='6 * 7')}", "It is 42.")
    made: list[tuple[int, ChatCall]] = []
    (answer,) = chat_with_tools(model, [QUESTION], box, report=lambda number, one: made.append((number, one)))  # type: ignore[arg-type]
    turns = (ToolCalls("I calculate.", (SUM,)), ToolResult("Calculator", "42"))
    tokens = sum(len(f" {one}") for one in (f"I calculate.{call('Calculator', input='6 * 7')}", "It is 42."))
    assert answer == ChatTranscript(" It is 42.", (ChatCall(SUM, "42"),), turns, tokens, "stop")
    assert made == [(0, ChatCall(SUM, "42"))]
    asked, went_on = (batch[0] for batch in model.batches)
    assert tools_of(asked) == tools_of(went_on) == [tool_schema(tool) for tool in box.values()]
    assert messages_of(went_on) == [Message("user", "What is 6 * 7?"), *turns]


def test_conversations_run_in_one_batch_and_end_on_their_own(box: Toolbox) -> None:
    def says(prompt: str) -> str:
        turns = messages_of(prompt)
        wanted, done = int(turns[0].content), sum(isinstance(one, ToolResult) for one in turns)
        return call("Calculator", input=f"{done} + 1") if done < wanted else f"{done} calls"

    model = Chatting(says)
    prompts = [stored([Message("user", str(number))]) for number in (2, 0, 1)]
    answers = chat_with_tools(model, prompts, box)  # type: ignore[arg-type]
    assert [one.text for one in answers] == [" 2 calls", " 0 calls", " 1 calls"]
    assert [[made.result for made in one.calls] for one in answers] == [["1", "2"], [], ["1"]]
    assert [len(batch) for batch in model.batches] == [3, 2, 1]


def test_several_calls_of_a_turn_have_their_results_in_order(box: Toolbox) -> None:
    model = chatting(
        call("Calendar")
        + call("Length", input="house")
        + call("Calendar", input="")
        + call("Length", input=12),
        "So.",
    )
    day = Context(datetime.date(2020, 11, 20))
    parameters = SamplingParameters(max_tokens=400)
    (answer,) = chat_with_tools(model, [QUESTION], box, contexts=[day], parameters=parameters)  # type: ignore[arg-type]
    today = "Today is Friday, November 20, 2020."
    assert [one.result for one in answer.calls] == [today, "5", today, "2"]
    assert [(one.role, one.content) for one in answer.messages[1:]] == [
        ("tool", one) for one in (today, "5", today, "2")
    ]


@pytest.mark.parametrize(
    ("written", "name", "problem"),
    [
        ("<tool_call>{</tool_call>", "invalid", UNREADABLE),
        (call("Sum", input="1"), "Sum", "no tool is called Sum; there are Calculator, Calendar, Length"),
        (
            call("Calculator", expression="1"),
            "Calculator",
            "takes the argument input and no other: the call has expression",
        ),
        (call("Calculator"), "Calculator", "takes the argument input and no other: the call has none"),
        (call("Calculator", input=["1"]), "Calculator", "the argument input of Calculator must be a text"),
        (call("Calculator", input=True), "Calculator", "the argument input of Calculator must be a text"),
        (call("Calculator", input="1 / 0"), "Calculator", "division by zero"),
        (call("Calendar", zone="UTC"), "Calendar", "Calendar takes no arguments: the call has zone"),
        (call("Calendar"), "Calendar", "the document has no date"),
        (call("Length", input="endless"), "Length", "took longer than 0.5 s and was stopped"),
    ],
)
def test_a_call_that_fails_is_answered_with_the_reason(
    written: str, name: str, problem: str, box: Toolbox
) -> None:
    (answer,) = chat_with_tools(chatting(written, "I do not know."), [QUESTION], box)  # type: ignore[arg-type]
    (made,) = answer.calls
    assert made.call.name == name and made.result is None and problem in (made.problem or "")
    assert answer.messages[1:] == (ToolResult(name, f"Error: {made.problem}"),)
    assert answer.text == " I do not know."


def test_no_more_calls_are_made_than_allowed(box: Toolbox) -> None:
    sums = [call("Calculator", input=f"{number} + 1") for number in range(9)]
    model = chatting(sums[0], sums[1] + sums[2], f"Once more{sums[3]}", "never said")
    (answer,) = chat_with_tools(model, [QUESTION], box, most_calls=2)  # type: ignore[arg-type]
    assert [(one.result, one.problem) for one in answer.calls] == [
        ("1", None),
        ("2", None),
        (None, "at most 2 calls are made"),
    ]
    assert (answer.text, len(model.batches)) == ("Once more", 3)


def test_a_conversation_that_fills_the_context_ends(box: Toolbox) -> None:
    schemas = [tool_schema(tool) for tool in box.values()]
    model = chatting(
        call("Calculator", input="6 * 7"),
        "It is 42.",
        positions=len(stored(messages_of(QUESTION), schemas)) + 60,
    )
    (answer,) = chat_with_tools(model, [QUESTION], box)  # type: ignore[arg-type]
    assert (answer.text, answer.finish_reason) == ("", "length")
    assert answer.problem == "the results of the calls leave no room in the model"


def test_a_conversation_that_the_template_refuses_ends(box: Toolbox) -> None:
    class OneCallOnly(Chatting):
        def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
            found = super().encode_prompts(prompts)
            return [
                RefusedPrompt("only one call is possible")
                if any(isinstance(turn, ToolCalls) and len(turn.calls) > 1 for turn in messages_of(one))
                else ids
                for one, ids in zip(prompts, found, strict=True)
            ]

    model = OneCallOnly(lambda prompt: 2 * call("Calculator", input="6 * 7"))
    (answer,) = chat_with_tools(model, [QUESTION], box)  # type: ignore[arg-type]
    assert answer.problem == "refused: only one call is possible" and len(answer.calls) == 2


def test_stop_strings_do_not_cut_calls_and_text_models_are_refused(box: Toolbox) -> None:
    stopped: list[tuple[str, ...]] = []

    class Noting(Chatting):
        def path(self, prompt, seed, parameters):  # type: ignore[no-untyped-def]
            stopped.append(parameters.stop)
            return super().path(prompt, seed, parameters)

    chat_with_tools(Noting(lambda prompt: "So."), [QUESTION], box, parameters=SamplingParameters(stop=("}",)))  # type: ignore[arg-type]
    assert stopped == [()]
    model = Chatting(lambda prompt: "So.")
    model.prompting = TEXT
    with pytest.raises(ModelError, match=r"is asked in plain text.*name a template \(in model\.template"):
        chat_with_tools(model, [QUESTION], box)  # type: ignore[arg-type]


def test_a_tool_of_a_user_describes_itself(box: Toolbox, tmp_path: Path) -> None:
    function = tool_schema(box["Length"])["function"]
    assert function["description"] == "Counts the letters of a word."
    assert function["parameters"]["properties"]["input"]["description"] == "for example: ox"
    assert call_input(box["Length"], {"input": "a house"}) == '"a house"'
    (tmp_path / "bare.py").write_text(
        LENGTH.replace("'''Counts the letters of a word.'''", "").replace('[Length("ox")] ', "")
    )
    bare = open_tools(["bare.py:Length"], folder=tmp_path)
    function = tool_schema(bare["Length"])["function"]
    bare.close()
    assert function["description"] == "Your task is to add calls."
    assert function["parameters"]["properties"]["input"]["description"] == "what the tool is asked"
