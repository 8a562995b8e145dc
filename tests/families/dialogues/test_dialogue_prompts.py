"""Prompts about a dialogue in both forms, and the text of a dialogue."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfimprove_dagster.conversation import Message, messages_of
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, dialogue_of, spoken, turns
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.prompts import load_prompts

TEXTS = load_prompts([PROMPTS], TEXT)
CHATS = load_prompts([PROMPTS], Prompting(chat=True))

SAID = "Human: Why?\n\nAssistant: Because."
CRITICISED = f"{SAID}\n\nCritique Request: Be kind?\n\nCritique:"
ONCE = f"{SAID}\n\nFeedback: Too short.\n\nBetter response:"

REFINED = [
    {"response": "Because.", "feedback": " Too short. "},
    {"response": "Because so.", "feedback": "Still."},
]


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("response", {}, "Human: Why?\n\nAssistant:"),
        ("critique", {"critique_request": " Be kind? "}, CRITICISED),
        (
            "revision",
            {"critique_request": "Be kind?", "critique": " Rude. ", "revision_request": "Mend it. "},
            f"{CRITICISED} Rude.\n\nRevision Request: Mend it.\n\nRevision:",
        ),
        ("improvement", {}, f"{SAID}\n\nBetter response:"),
        ("feedback", {"fine": "It is fine."}, f"{SAID}\n\nFeedback:"),
        ("reflection", {"evaluation": "", "memory": ["Say more."]}, f"{SAID}\n\nFeedback:"),
        (
            "reflection",
            {"evaluation": "1 of 2", "memory": []},
            f"{SAID}\n\nEvaluation: 1 of 2\n\nFeedback:",
        ),
        ("refinement", {"tried": REFINED[:1]}, ONCE),
        (
            "refinement",
            {"tried": REFINED},
            f"{ONCE} Because so.\n\nFeedback: Still.\n\nBetter response:",
        ),
        ("retry", {"memory": ["Too", "short."]}, ONCE),
    ],
)
def test_a_base_model_goes_on_with_a_text(name: str, fields: dict[str, Any], text: str) -> None:
    assert TEXTS.ask(name, **spoken(" Why? "), **{"response": " Because. ", **fields}) == text
    assert TEXTS.stops(name) == ("\n\n",)
    assert TEXTS.completion(name, "So.") == " So."


def asked(name: str, prompt: str = "Why?", **fields: Any) -> list[Message]:
    return messages_of(CHATS.ask(name, **spoken(prompt), **fields))


def test_a_chat_model_is_asked_in_turns_that_may_have_paragraphs() -> None:
    given = {
        "response": "First.\n\nSecond.",
        "critique_request": "Is it kind?",
        "critique": "- No.\n\n- Not at all.",
        "revision_request": "Make it kind.",
    }
    *said, request = asked("revision", **given)
    assert said == [("user", "Why?"), ("assistant", "First.\n\nSecond.")]
    assert request.role == "user"
    assert request.content.startswith("Is it kind?\n\n- No.\n\n- Not at all.\n\nMake it kind.")
    assert CHATS.stops("revision") == () and CHATS.completion("response", "So.\n\nSo.") == "So.\n\nSo."


def test_a_critique_is_of_a_dialogue_that_is_quoted() -> None:
    (request,) = asked("critique", response="First.\n\nSecond.", critique_request="Is it kind?")
    assert "Human: Why?\n\nAssistant: First.\n\nSecond.\n\nIs it kind?\n" in request.content


def test_a_reflection_sees_the_outcome_and_earlier_reflections_in_chat() -> None:
    (request,) = asked("reflection", response="4", evaluation="4 of 5", memory=["Count on.", "Be brave."])
    assert request.role == "user" and "Human: Why?\n\nAssistant: 4\n" in request.content
    assert "evaluated as follows: 4 of 5" in request.content
    assert "- Count on.\n- Be brave.\n" in request.content
    (first,) = asked("reflection", response="4", evaluation="", memory=[])
    assert "evaluated" not in first.content and "notes on earlier" not in first.content


def test_feedback_names_the_sentence_that_says_that_nothing_is_wrong() -> None:
    (*_, request) = asked("feedback", response="4", fine="No change.")
    assert "No change." in request.content


def test_every_attempt_and_its_feedback_are_turns() -> None:
    messages = asked("refinement", tried=REFINED)
    assert [one.role for one in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[1].content == "Because." and messages[2].content.startswith("Too short.")


# ---- the text of a dialogue -----------------------------------------------------------------------------


def test_a_dialogue_is_read_turn_by_turn() -> None:
    said = "Human: One.\n\nAssistant: Two.\n\nStill two.\n\nHuman: Three.\n\nAssistant:"
    assert turns(said) == [("user", "One."), ("assistant", "Two.\n\nStill two."), ("user", "Three.")]
    assert turns("Who said\n\nAssistant: Hello.") == [("user", "Who said\n\nAssistant: Hello.")]
    assert turns("System: Linux is my system.") == [("user", "System: Linux is my system.")]
    assert turns(" ") == []


def test_what_the_system_says_reaches_both_forms() -> None:
    said = dialogue_of([Message("system", "Be brief."), Message("user", "Why?")])
    assert TEXTS.ask("response", **spoken(said)) == "System: Be brief.\n\nHuman: Why?\n\nAssistant:"
    assert asked("response", said) == [("system", "Be brief."), ("user", "Why?")]


def test_a_paragraph_that_begins_like_a_turn_stays_in_its_message() -> None:
    quoted = Message("assistant", "He wrote:\n\nHuman: Hello.\n\n Assistant: Hi.")
    said = dialogue_of([Message("user", "Quote it."), quoted, Message("user", "Thanks.")])
    assert said.count("\n\nHuman:") == 1 and "\n\n Human: Hello.\n\n  Assistant: Hi." in said
    assert turns(said)[1] == quoted


PIECES = st.sampled_from(["Human:", "Assistant:", "System:", "\n\n", "\n", " ", "a", "b c"])
WORDS = st.lists(PIECES, min_size=1, max_size=9).map("".join).filter(str.strip)


@given(st.none() | WORDS, st.lists(WORDS, min_size=1, max_size=5))
@example(None, ["Assistant:\n\nHuman:"])
def test_messages_are_read_from_their_text_as_they_were(system: str | None, said: list[str]) -> None:
    messages = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(said)]
    if system is not None:
        messages.insert(0, Message("system", system))
    text = dialogue_of(messages)
    assert turns(text) == [Message(one.role, one.content.strip()) for one in messages]
    assert turns(spoken(text)["dialogue"]) == turns(text)
