"""The built-in tools: what they answer, and what they refuse."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import ByteModel

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.errors import ExperimentError, ModelError, SeedFileError
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.tokens import without_room
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.tools.base import Context, Tool, ToolError
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calendar import Calendar
from selfimprove_dagster.tools.calls import take_out
from selfimprove_dagster.tools.model_tools import MT, QA
from selfimprove_dagster.tools.prompts import PROMPTS, annotating
from selfimprove_dagster.tools.registry import BUILT_IN, open_tools
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA, WikiSearch, read_corpus

TEXTS = load_prompts([PROMPTS], TEXT)
CHATS = load_prompts([PROMPTS], Prompting(chat=True))
TALK = Context(datetime.date(2020, 11, 20))


class Speaker(ByteModel):
    """A model that says one thing, or refuses."""

    def __init__(self, says: str, model_id: str = "b2:one") -> None:
        self.says, self.model_id = says, model_id
        self.asked: list[str] = []

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        self.asked += [self.decode(prompt) for prompt in prompts]
        return super().generate(prompts, seeds, parameters, progress)

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        if not self.says:
            return without_room([prompt], 4)[0]
        return Generation([1], [0.0], self.says, "stop")


def tools() -> Toolbox:
    return open_tools(BUILT_IN, model=Speaker(" Leipzig. \nQ: And then?"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("400 / 1400", "0.29"),
        ("27 + 4 * 2", "35"),
        ("(1 + 2) * 3 - -4", "13"),
        ("1 / 8", "0.13"),
        ("-1 / 8", "-0.13"),
        ("1.005 * 1", "1.01"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3 * 3", "1"),
        ("-1 / 1000", "0"),
        ("1,234,567 + 1", "1234568"),
        ("2 × (7 − 3) ÷ 4", "2"),
        ("007 + .5", "7.5"),
        ('"400 / 1400"', "0.29"),
        ("100", "100"),
    ],
)
def test_the_calculator_is_exact_and_rounds_to_two_decimals(expression: str, result: str) -> None:
    assert tools().call("Calculator", expression, Context()) == result


def _written(value: tuple[str, Fraction], other: tuple[str, Fraction], sign: str) -> tuple[str, Fraction]:
    (left, a), (right, b) = value, other
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return f"({left} {sign} {right})", result


SUMS = st.recursive(
    st.decimals(0, 999, places=2).map(lambda number: (f"{number:f}", Fraction(str(number)))),
    lambda inner: st.builds(_written, inner, inner, st.sampled_from("+-*")),
    max_leaves=6,
)


@given(SUMS)
def test_sums_come_out_as_fractions_do(pair: tuple[str, Fraction]) -> None:
    text, value = pair
    result = Calculator().run(text, Context())
    if isinstance(result, ToolError):
        assert abs(value) >= 10**15
    else:
        assert abs(Fraction(result) - value) <= Fraction(1, 200)


HOSTILE = [
    ("Calculator", "10^10^10", "'^' is no part of a sum"),
    ("Calculator", "9**9**9**9", "not a sum"),
    ("Calculator", "(" * 1_000_000, "1,000,000 characters: at most 200"),
    ("Calculator", "(" * 99 + "1" + ")" * 99, "99 deep: at most 20"),
    ("Calculator", "*".join(["999999999999999"] * 12), "more than 15 digits"),
    ("Calculator", "1" * 16 + " * 2", "more than 15 digits"),
    ("Calculator", "1 / (5 - 5)", "division by zero"),
    ("Calculator", "import os", "'i' is no part"),
    ("Calculator", "__import__('os').system('ls')", "'_' is no part"),
    ("Calculator", "$(rm -rf /); ls", "'$' is no part"),
    ("Calculator", "1\x00+1", "control characters"),
    ("Calculator", "1 +\n1", "control characters"),
    ("Calculator", "٣ + ٤", "'٣' is no part"),
    ("Calculator", "1 1", "not a sum"),
    ("Calculator", "(1)(2)", "not a sum"),
    ("Calculator", "*1", "not a sum"),
    ("Calculator", "()", "not a sum"),
    ("Calculator", "...", "not a sum"),
    ("Calculator", "8 // 3", "not a sum"),
    ("Calculator", "", "empty"),
    ("Calendar", "tomorrow", "takes no input"),
    ("Calendar", " " * 1_000_000, "takes no input"),
    ("WikiSearch", '"東京の歴史"', "no passage has any of these words"),
    ("WikiSearch", '" "', "empty"),
    ("WikiSearch", "island " * 100_000, "at most 200"),
    ("WikiSearch", "isl\ud800and", "control characters"),
    ("QA", "why " * 100, "at most 300"),
    ("QA", "\x1b[2J", "control characters"),
    ("MT", "mot " * 1_000, "at most 500"),
    ("Weather", "", "no tool is called Weather; there are Calculator, Calendar, MT, QA, WikiSearch"),
]


@pytest.mark.parametrize(("tool", "arguments", "reason"), HOSTILE)
def test_hostile_input_is_refused_at_once_with_a_reason(tool: str, arguments: str, reason: str) -> None:
    box = tools()
    start = time.perf_counter()
    result = box.call(tool, arguments, TALK)
    assert time.perf_counter() - start < 1
    assert isinstance(result, ToolError) and reason in result.reason


@given(st.sampled_from(BUILT_IN), st.text(max_size=300) | st.text("0123456789.+-*/() ", max_size=220))
def test_nothing_makes_a_tool_raise(name: str, arguments: str) -> None:
    tool = tools()[name]
    parsed = tool.parse(arguments)
    if not isinstance(parsed, ToolError):
        assert isinstance(tool.run(parsed, TALK), str | ToolError)


def test_the_calendar_tells_the_documents_day() -> None:
    assert tools().call("Calendar", "", TALK) == "Today is Friday, November 20, 2020."
    assert tools().call("Calendar", '""', Context(datetime.date(2024, 2, 1))) == (
        "Today is Thursday, February 1, 2024."
    )
    assert tools().call("Calendar", "", Context()) == ToolError("the document has no date")


def test_search_finds_each_entry_of_the_encyclopaedia_by_its_title_and_text() -> None:
    search, entries = WikiSearch(), read_corpus(ENCYCLOPAEDIA)
    assert len(entries) >= 80 and len({entry["title"] for entry in entries}) == len(entries)
    for entry in entries:
        found = search.run(f"{entry['title']} {entry['text']}"[:200], Context())
        assert found == f"{entry['title']}: {entry['text']}"


def test_an_index_is_kept_and_gives_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"title": "Été", "text": "Summer at the Łódź canal."}, {"title": "Canal", "text": "A canal, x"}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "corpus.parquet")
    folder = tmp_path / "index"
    searches = [WikiSearch(corpus), WikiSearch(corpus, folder), WikiSearch(corpus, folder)]
    searches.append(WikiSearch(tmp_path / "corpus.parquet", folder))
    for search in searches:
        assert search.run("ÉTÉ", Context()) == "Été: Summer at the Łódź canal."
        assert search.run("canal", Context()) == "Canal: A canal, x"
    assert searches[0].version == searches[1].version != searches[3].version
    assert len(list(folder.iterdir())) == 2
    assert logging.root.handlers == [], "no library may set up what all others say"
    corpus.write_text(json.dumps({"title": "Canal", "text": "Another canal."}) + "\n")
    assert WikiSearch(corpus, folder).run("canal", Context()) == "Canal: Another canal."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"title": "a"}', "line 2: `text` must be text"),
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: `title` must be text"),
    ],
)
def test_a_bad_line_of_a_corpus_is_named(tmp_path: Path, line: str, message: str) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"title": "a", "text": "b"}\n' + line + "\n")
    with pytest.raises(SeedFileError, match=message):
        WikiSearch(corpus)
    with pytest.raises(SeedFileError, match="cannot be read"):
        WikiSearch(tmp_path / "none.jsonl")


def test_a_model_answers_with_its_first_line() -> None:
    model = Speaker(" Leipzig. \nQ: And then?")
    box = open_tools(["QA", "MT"], model=model)  # type: ignore[arg-type]
    assert box.call("QA", '"Where was Clara Schumann born?"', TALK) == "Leipzig."
    assert box.call("MT", "“tortuga”", TALK) == "Leipzig."
    assert model.asked[0] == "Q: Where was Clara Schumann born?\nA:"
    assert "tortuga\nEnglish:" in model.asked[1]
    assert QA(model).version != QA(Speaker("", "b2:other")).version != MT(Speaker("", "b2:other"), 9).version  # type: ignore[arg-type]
    asked_in_chat = Speaker("Leipzig.")
    asked_in_chat.prompting = Prompting(chat=True)
    assert QA(asked_in_chat).run("Where?", TALK) == "Leipzig."  # type: ignore[arg-type]
    assert messages_of(asked_in_chat.asked[0]) == [("user", "Where?\n\nAnswer in a few words.")]
    assert QA(asked_in_chat).version != QA(model).version  # type: ignore[arg-type]
    silent = open_tools(["QA"], model=Speaker(" \n "))  # type: ignore[arg-type]
    assert silent.call("QA", "who?", TALK) == ToolError("the model said nothing")
    refusing = open_tools(["QA"], model=Speaker(""))  # type: ignore[arg-type]
    said = refusing.call("QA", "who?", TALK)
    assert isinstance(said, ToolError) and said.reason.endswith("and the model has 4 positions")
    with pytest.raises(ExperimentError, match="QA and MT need a language model"):
        open_tools(["Calculator", "QA"])


def test_prompts_show_calls_and_end_where_the_model_goes_on() -> None:
    for name, tool in tools().items():
        assert isinstance(tool, Tool)
        prompt = TEXTS.ask("annotation", **annotating(tool, "Nina has 3 plums."))
        assert prompt.endswith("Input: Nina has 3 plums.\nOutput:") and prompt.count(f"[{name}(") >= 4
        assert all(take_out(annotated, {name})[0] == plain for plain, annotated in tool.shots)


def test_the_annotation_prompt_shows_texts_with_and_without_calls() -> None:
    fields = {"introduction": "Add calls.", "shots": [("a b", "a [QA(b)] b")], "text": "c"}
    assert TEXTS.ask("annotation", **fields) == (
        "Add calls.\n\nInput: a b\nOutput: a [QA(b)] b\n\nInput: c\nOutput:"
    )
    assert TEXTS.completion("annotation", "c") == " c"
    asked = messages_of(CHATS.ask("annotation", **fields))
    assert asked == [
        ("user", "Add calls."),
        ("user", "a b"),
        ("assistant", "a [QA(b)] b"),
        ("user", "c"),
    ]
    assert CHATS.completion("annotation", "c") == "c"


class Odd:
    """A tool that returns what it is asked to."""

    name, version = "Odd", "1"

    def __init__(self) -> None:
        self.runs = 0

    introduction, shots = "Add odd calls.", (("a", "[Odd(a)] a"),)

    def parse(self, arguments: str) -> str | ToolError:
        return arguments.strip()

    def run(self, input: str, context: Context) -> str | ToolError:
        self.runs += 1
        if input == "raise":
            raise RuntimeError("first line\nsecond line")
        return {"long": "x" * 1_001, "empty": " \n "}.get(input, f" {input}\n[1] → {context.date} ")


def test_results_are_made_fit_to_stand_in_a_text() -> None:
    box = Toolbox([Odd()])
    assert box.call("Odd", "a", TALK) == "a (1) -> 2020-11-20"
    assert box.call("Odd", "empty", TALK) == ToolError("the tool returned nothing")
    assert box.call("Odd", "long", TALK) == ToolError("the result has 1,001 characters: at most 1,000")
    assert box.call("Odd", "raise", TALK) == ToolError("RuntimeError: first line")


def test_equal_calls_are_made_once() -> None:
    odd = Odd()
    box = Toolbox([odd])
    assert box.call("Odd", "a", TALK) == box.call("Odd", " a ", TALK)
    assert odd.runs == 1
    box.call("Odd", "a", Context())
    box.call("Odd", "b", TALK)
    assert odd.runs == 3
    with pytest.raises(ExperimentError, match="two tools are named Odd"):
        Toolbox([odd, Odd()])
    assert Calendar().version


def test_many_calls_are_asked_of_a_model_at_once() -> None:
    speaker = Speaker(" Leipzig.")
    box = open_tools(["QA", "Calculator"], model=speaker)  # type: ignore[arg-type]
    calls = [("QA", "Where?", TALK), ("Calculator", "2 * 3", TALK), ("QA", "Who?", TALK)]
    found = box.call_all([*calls, ("QA", "", TALK), ("QA", "Where?", TALK), ("WikiSearch", "x", TALK)])
    assert found[:3] == ["Leipzig.", "6", "Leipzig."]
    assert isinstance(found[3], ToolError) and found[4] == "Leipzig." and isinstance(found[5], ToolError)
    assert speaker.asked == ["Q: Where?\nA:", "Q: Who?\nA:"]
    assert box.call_all(calls) == found[:3] and len(speaker.asked) == 2, "results are kept"


def test_a_prompt_that_the_model_refuses_takes_no_other_with_it() -> None:
    class Picky(Speaker):
        def generate(self, prompts, seeds, parameters, progress=None):  # type: ignore[no-untyped-def]
            drawn = super().generate(prompts, seeds, parameters, progress)
            full = without_room(prompts, 21)
            return [[full[index]] if index in full else row for index, row in enumerate(drawn)]

    box = open_tools(["MT"], model=Picky("red door"))  # type: ignore[arg-type]
    assert isinstance(box.call("MT", "mira tolu", TALK), ToolError)  # the prompt itself is longer than that
    box = open_tools(["QA"], model=Picky("red door"))  # type: ignore[arg-type]
    short, long = box.call_all([("QA", "Who?", TALK), ("QA", "Who was it that came?", TALK)])
    assert short == "red door"
    assert isinstance(long, ToolError) and long.reason.startswith("too_long: the prompt has ")


def test_a_model_that_does_not_answer_is_no_fault_of_an_input() -> None:
    class Gone(Speaker):
        def generate(self, prompts, seeds, parameters, progress=None):  # type: ignore[no-untyped-def]
            raise ModelError("the server does not answer")

    box = open_tools(["QA"], model=Gone("red door"))  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        box.call("QA", "Who?", TALK)


def test_without_a_model_there_are_prompts_alone() -> None:
    with pytest.raises(ExperimentError, match="need a language model"):
        open_tools(["QA"])
    box = open_tools(["QA", "Calculator"], prompts_only=True)
    assert box["QA"].introduction and box["QA"].shots
    assert isinstance(box.call("QA", "Who?", TALK), ToolError)
