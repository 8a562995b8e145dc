"""What a judge is asked, in text byte for byte, and in messages."""

from __future__ import annotations

import pytest

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.judging.prompts import PROMPTS, options, ratings
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.prompts import Prompts, load_prompts

JUDGING = load_prompts([PROMPTS], TEXT)
CHAT = load_prompts([PROMPTS], Prompting(chat=True))
SAID = spoken("Human: Hello.\n\nAssistant: Good day.\n\nHuman: Who sets the table? ")
COMPARED = {
    **SAID,
    "question": " Which response is kinder?\n",
    "responses": (" Greta does.", "The oaf {{ 1 }}.\n"),
}
SHOWN = (
    "Human: Hello.\n\nAssistant: Good day.\n\nHuman: Who sets the table?\n\n"
    "Which response is kinder?\n(A) Greta does.\n(B) The oaf {{ 1 }}.\n"
)


def test_a_comparison_in_text() -> None:
    assert JUDGING.ask("comparison", **COMPARED) == f"{SHOWN}The answer is:"
    three = {**COMPARED, "responses": ("a", "b", "c")}
    assert JUDGING.ask("comparison", **three).endswith("kinder?\n(A) a\n(B) b\n(C) c\nThe answer is:")
    assert options(JUDGING, "comparison", 3) == (" (A)", " (B)", " (C)")
    assert JUDGING.stops("comparison") == ("\n",)


def test_a_comparison_in_text_after_a_chain_of_thought() -> None:
    assert JUDGING.ask("reasoning", **COMPARED) == f"{SHOWN}Let's think step by step:"
    thought = JUDGING.ask("comparison_after_reasoning", **COMPARED, reasoning=" (A) is kind. ")
    assert thought == f"{SHOWN}Let's think step by step: (A) is kind.\nThe answer is:"
    assert options(JUDGING, "comparison_after_reasoning", 2) == (" (A)", " (B)")
    assert JUDGING.stops("reasoning") == ("\n",)


def test_a_rating_in_text() -> None:
    asked = {**spoken("Who? "), "question": "How kind is it? ", "response": " Greta. "}
    assert (
        JUDGING.ask("rating", **asked) == "Human: Who?\n\nAssistant: Greta.\n\nHow kind is it?\nFrom 1 to 10:"
    )
    assert ratings(JUDGING) == (" 1", " 2", " 3", " 4", " 5", " 6", " 7", " 8", " 9", " 10")


def test_a_choice_among_answers_in_text() -> None:
    asked = JUDGING.ask("answer_choice", question="What is 2 + 2? ", answers=["It is 4.", " It is 5."])
    assert asked == (
        "Q: What is 2 + 2?\n\nWhich of these answers is right?\n(A) It is 4.\n(B) It is 5.\nThe answer is:"
    )


@pytest.mark.parametrize("name", ["comparison", "comparison_after_reasoning"])
def test_a_chat_model_is_asked_for_a_letter(name: str) -> None:
    asked = messages_of(CHAT.ask(name, **COMPARED, reasoning="A is kinder."))
    assert [one.role for one in asked] == ["user"] if name == "comparison" else ["user", "assistant", "user"]
    assert "Which response is kinder?\nA. Greta does.\nB. The oaf {{ 1 }}.\n" in asked[0].content
    assert asked[-1].content.endswith("Answer with a single letter: A or B.")
    assert options(CHAT, name, 2) == ("A", "B")


@pytest.mark.parametrize("prompts", [JUDGING, CHAT])
def test_what_others_wrote_is_never_a_template(prompts: Prompts) -> None:
    assert "The oaf {{ 1 }}." in prompts.ask("reasoning", **COMPARED)


def test_a_chat_model_is_asked_for_a_number() -> None:
    (asked,) = messages_of(
        CHAT.ask("rating", **spoken("Who?"), question="How kind is it?", response="Greta.")
    )
    assert asked.content.startswith("Consider this conversation:\n\nHuman: Who?\n\nAssistant: Greta.\n\n")
    assert "How kind is it?\n1. not at all\n2. hardly\n" in asked.content
    assert asked.content.endswith("\n10. perfectly\n\nAnswer with a single number from 1 to 10.")
    assert ratings(CHAT)[-1] == "10"


def test_a_chat_model_chooses_among_as_many_answers_as_there_are() -> None:
    (asked,) = messages_of(CHAT.ask("answer_choice", question="2 + 2?", answers=["4", "5", "6"]))
    assert asked.content.endswith("A. 4\nB. 5\nC. 6\n\nAnswer with a single letter: A or B or C.")
    assert CHAT.stops("answer_choice") == ()
