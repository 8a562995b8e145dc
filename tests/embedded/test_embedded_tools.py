"""The embedded tool model: its world of texts, pools, annotations by lot, and notes that help it read on."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster import embedded
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel, SamplingParameters
from selfimprove_dagster.methods.toolformer import tool_use
from selfimprove_dagster.methods.toolformer.loss import Losses
from selfimprove_dagster.recipes import tool_texts
from selfimprove_dagster.recipes import tool_world as world
from selfimprove_dagster.recipes.tool_texts import annotation_prompt
from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.calls import CALL_STOPS, Call, PlacedCall, read_call, take_out
from selfimprove_dagster.tools.registry import open_tools
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.writing import opening_token

BASE_CEILING = 0.20
TOOLS = ("Calculator", "Calendar", "WikiSearch", "QA", "MT")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    opened = open_language_model(str(embedded.TOOL_MODEL))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tools(model: LanguageModel) -> Toolbox:
    return open_tools(TOOLS, model=model)


@pytest.fixture(scope="module")
def seeds() -> list[dict[str, Any]]:
    return read_lines(embedded.TOOL_TEXTS)


@pytest.fixture(scope="module")
def evaluation() -> list[dict[str, Any]]:
    return read_lines(embedded.TOOL_EVALUATION)


# --- the world ---


@given(
    st.integers(0, 2**32),
    st.sampled_from(world.KINDS),
    st.sampled_from(["pretraining", "seeds", "evaluation"]),
)
def test_texts_keep_to_their_split(seed: int, kind: str, split: world.Split) -> None:
    drawn = world.draw_text(Random(seed), kind, split)
    assert world.split_of(drawn.key) == split
    assert drawn.kind == kind
    assert "|" not in drawn.text
    assert "{" not in drawn.text
    assert drawn.text == drawn.text.strip()


@given(st.integers(0, 2**32))
def test_a_sum_is_held_out_in_either_order_and_every_wording(seed: int) -> None:
    rng = Random(seed)
    first, second = rng.randint(1, 5_000), rng.randint(1, 5_000)
    assert world.sum_key(f"{first} + {second}") == world.sum_key(f"{second} + {first}")
    drawn = world.arithmetic(rng)
    assert drawn.call
    assert drawn.key == world.sum_key(drawn.call.arguments)
    assert drawn.call.result == drawn.answer


@given(st.integers(0, 2**32), st.sampled_from(["arithmetic", "date"]))
def test_what_a_text_tells_follows_from_its_call(seed: int, kind: str) -> None:
    drawn = world.draw_text(Random(seed), kind)
    assert drawn.call
    result = tool_texts.TOOLS[drawn.call.tool].run(drawn.call.arguments, Context(drawn.date))
    assert result == drawn.call.result
    if kind == "date" and "years ago" not in drawn.text:
        assert drawn.answer in str(result)


@pytest.mark.parametrize("number", range(len(world.RELATIONS)))
def test_every_person_has_an_answer(number: int) -> None:
    answers = [world.answer_of(person, number) for person in world.PERSONS]
    assert len(set(answers)) > 15


def test_every_fact_stands_in_its_passage() -> None:
    for line in world.FACTS:
        title, _, clause = line.partition(":")
        assert clause.split("|")[1] in world.PASSAGES[title]


def test_pretraining_has_no_text_of_the_other_splits(
    seeds: list[dict[str, Any]], evaluation: list[dict[str, Any]]
) -> None:
    rng = Random(2)
    read = {tool_texts.draw(rng).text for _ in range(8_000)}
    assert not read & {seed["text"] for seed in seeds}
    assert not any(
        text.startswith(row["prompt"] + " " + row["answer"]) for text in read for row in evaluation[:50]
    )
    assert not read & {row["text"] for row in read_lines(embedded.TOOL_PLAIN)}


@given(st.integers(0, 2**32))
def test_sums_in_notes_are_of_pretraining(seed: int) -> None:
    rng = Random(seed)
    noted = tool_texts.note(rng, tool_texts.draw(rng, {"arithmetic": 1.0}))
    if noted.tool == "Calculator" and noted.result:
        assert world.split_of(world.sum_key(noted.arguments)) == "pretraining"


# --- training texts ---


@given(st.integers(0, 2**32), st.sampled_from(TOOLS))
def test_annotations_leave_the_text_as_it_is(seed: int, tool: str) -> None:
    rng = Random(seed)
    text = tool_texts.draw(rng).text
    plain, placed = take_out(tool_texts.annotated(rng, tool, text), TOOLS)
    assert plain == text
    assert placed
    assert all(item.call.tool == tool and item.call.result is None for item in placed)


def test_calls_stand_anywhere_in_a_text() -> None:
    """Not more often before what the text tells than before other words."""
    rng = Random(3)
    text = "The orchard has 14 rows of 25 trees, 350 trees in all."
    found = Counter(
        item.position
        for _ in range(3_000)
        for item in take_out(tool_texts.annotated(rng, "Calculator", text), TOOLS)[1]
    )
    assert len(found) == len(text.split())
    assert max(found.values()) < 1.4 * min(found.values())


def test_results_never_stand_inside_a_text() -> None:
    rng = Random(4)
    for maker, _ in tool_texts.FORMS.values():
        for _ in range(100):
            document = "".join(part for part, _ in maker(rng))
            before = [document[:at].rpartition("\n")[2] for at in range(len(document)) if document[at] == "→"]
            assert all(
                line.removeprefix("<|end|>").rpartition("<|end|>")[2].startswith("[") for line in before
            )


# --- tokens and pools ---


def test_a_call_opens_with_one_token(model: LanguageModel) -> None:
    assert model.decode([opening_token(model)]) == " ["


@pytest.mark.parametrize(
    "text", ["Straße 東京 → 🦊 end", " two  spaces\n", "[Calculator(14 * 25) → 350] “mira”"]
)
def test_text_comes_back_as_it_was(model: LanguageModel, text: str) -> None:
    assert model.decode(model.encode_continuation(text)) == text


def test_digits_stand_alone(model: LanguageModel) -> None:
    assert [model.decode([token]) for token in model.encode_continuation(" 350")] == [" ", "3", "5", "0"]


def test_prompts_are_short(model: LanguageModel, tools: Toolbox, seeds: list[dict[str, Any]]) -> None:
    longest = max((seed["text"] for seed in seeds), key=len)
    assert all(len(model.encode(annotation_prompt(tool, longest))) < 700 for tool in tools.values())


def test_pools_are_valid(
    model: LanguageModel, seeds: list[dict[str, Any]], evaluation: list[dict[str, Any]]
) -> None:
    texts = [seed["text"] for seed in seeds]
    assert len(set(texts)) == len(texts) == 2_984, "3,000 but those that hold a held-out text"
    assert Counter(seed["source"] for seed in seeds)["arithmetic"] == 1_499
    assert set(Counter(seed["source"] for seed in seeds)) == set(world.KINDS)
    kinds = {"arithmetic": 400, "date": 100, "fact": 100, "question": 100, "translation": 100}
    assert Counter(row["kind"] for row in evaluation) == kinds
    assert all(row["prompt"] == row["prompt"].strip() and row["answer"] for row in evaluation)
    plain = read_lines(embedded.TOOL_PLAIN)
    assert len({row["text"] for row in plain}) == 300
    for row in (*seeds, *evaluation, *plain):
        datetime.date.fromisoformat(row["date"])
    for row in (*seeds, *plain):
        assert model.decode(model.encode(row["text"])) == row["text"]


def test_held_out_answers_stand_in_no_seed(
    seeds: list[dict[str, Any]], evaluation: list[dict[str, Any]]
) -> None:
    texts = [seed["text"] for seed in seeds]
    told = [f"{row['prompt']} {row['answer']}" for row in evaluation]
    assert not any(one in text for one in told for text in texts)
    assert not {row["text"] for row in read_lines(embedded.TOOL_PLAIN)} & set(texts)


# --- what the model can do, and what it cannot ---


def test_it_cannot_work_out_sums(model: LanguageModel, evaluation: list[dict[str, Any]]) -> None:
    rows = [row for row in evaluation if row["kind"] == "arithmetic"][:100]
    parameters = SamplingParameters(temperature=0, max_tokens=8)
    drawn = model.generate([model.encode(row["prompt"]) for row in rows], [[0]] * len(rows), parameters)
    right = [one.text.strip().startswith(row["answer"]) for (one,), row in zip(drawn, rows, strict=True)]
    assert mean(right) < BASE_CEILING


@pytest.mark.parametrize("name", TOOLS)
def test_it_writes_calls_that_can_be_read(
    model: LanguageModel, tools: Toolbox, seeds: list[dict[str, Any]], name: str
) -> None:
    opening = opening_token(model)
    rng = Random(5)
    texts = [seed["text"] for seed in seeds[:10]]
    asked = [tool_use.Annotated(annotation_prompt(tools[name], text), text, f" {text}") for text in texts]
    found = tool_use.position_probabilities(model, asked, opening)
    places = [(one, rng.choice(where.positions)) for one, where in zip(asked, found, strict=True)]
    drawn = model.generate(
        [ids for _, ids in tool_use.call_prompts(model, places, opening)],
        [range(4)] * len(places),
        SamplingParameters(max_tokens=48, stop=CALL_STOPS),
    )
    calls = [read_call(one.text, TOOLS) for group in drawn for one in group]
    assert mean(isinstance(call, Call) and call.tool == name for call in calls) > 0.8


def mean_losses(model: LanguageModel, texts: list[world.WorldText], calls: list[Call]) -> tuple[float, ...]:
    """With nothing, the call without and with its result before the text, at what the text tells."""
    candidates = [
        (index, PlacedCall(len(text.before), call))
        for index, (text, call) in enumerate(zip(texts, calls, strict=True))
    ]
    scored: list[Losses] = tool_use.score_calls(model, [text.text for text in texts], candidates)
    return tuple(
        mean(getattr(one, name) for one in scored) for name in ("no_call", "call", "call_with_result")
    )


def test_a_result_before_a_text_helps_and_an_empty_or_other_one_does_not(model: LanguageModel) -> None:
    rng = Random(6)
    texts = [world.draw_text(rng, "arithmetic", "evaluation") for _ in range(60)]
    calls = [text.call for text in texts if text.call]
    nothing, empty, told = mean_losses(model, texts, calls)
    assert told < nothing - 0.5
    assert abs(empty - nothing) < 0.4
    others = [Call("Calculator", "311 + 54", "365")] * len(texts)
    assert mean_losses(model, texts, others)[2] > nothing - 0.1
