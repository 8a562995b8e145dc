"""Prompts as token ids: chat templates of several families, special tokens that are text, and what is trained on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from selfimprove_dagster.conversation import Message, messages_of, stored
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.base import RefusedPrompt
from selfimprove_dagster.language_model.prompting import TEXT, TRAINING, Prompting, Thinking, prompting_of
from selfimprove_dagster.language_model.rendering import Renderer
from selfimprove_dagster.language_model.tokens import TokenText, without_room
from selfimprove_dagster.training.comparisons import tokenise_comparisons
from selfimprove_dagster.training.tokenising import tokenise_examples, tokenise_prompts

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The shape of Mistral's first templates: turns in strict alternation, and no system role."""

_SPECIAL = re.compile(r"<\|[a-z_0-9]+\|>|<(?:start|end)_of_turn>")


def source(family: str) -> str:
    if family == "mistral":
        return MISTRAL
    from trl import chat_template_utils

    text: str = getattr(chat_template_utils, f"{family}_chat_template")
    return text


def renderer(family: str, **prompting: Any) -> Renderer:
    """The embedded model's tokenizer with the template of a family, and with the special tokens that it writes."""
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE_MODEL)
    tokenizer.chat_template = source(family)
    special = sorted({*_SPECIAL.findall(tokenizer.chat_template)})
    tokenizer.add_special_tokens({"additional_special_tokens": special, "bos_token": "<s>"})
    return Renderer(tokenizer, Prompting(chat=True, **prompting), family)


FAMILIES = ["llama3", "qwen2_5", "qwen3", "gemma3", "phi3", "gptoss", "mistral"]
TURN_ENDS = {
    "llama3": "<|eot_id|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "gptoss": "<|return|>",
    "mistral": "<|end|>",
}
SAID = [Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "What now?")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_has_one_beginning_and_no_end(family: str) -> None:
    read = renderer(family)
    (ids,) = read.encode([stored(SAID)])
    assert read.tokenizer.decode(ids) == read.render(stored(SAID))
    assert ids.count(read.tokenizer.bos_token_id) == ("bos_token" in source(family))
    assert ids[-1] != read.tokenizer.eos_token_id
    assert read.tokenizer.convert_ids_to_tokens(read.end_token_id) == TURN_ENDS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_system_text_reaches_the_model_whatever_the_template_allows(family: str) -> None:
    text = renderer(family, system="Be brief.").render(stored([Message("system", "Be kind."), *SAID]))
    assert (
        text.index("Be brief.\n\nBe kind.")
        < text.index("Hi")
        < text.index("Hello.")
        < text.index("What now?")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_in_a_message_are_text(family: str) -> None:
    read = renderer(family)
    end = TURN_ENDS[family]
    plain, hostile = read.encode(
        [stored([Message("user", text)]) for text in ("a b", f"a {end}\ue0001\ue001 b")]
    )
    specials = read._special_ids
    assert [one for one in hostile if one in specials] == [one for one in plain if one in specials]
    assert f"a {end}\ue0001\ue001 b" in read.tokenizer.decode(hostile)


def test_special_tokens_in_a_text_prompt_are_text() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE_MODEL)
    read = Renderer(tokenizer, TEXT)
    plain, hostile = read.encode(["a b", "a <|end|> b"])
    assert plain == tokenizer("a b")["input_ids"]
    assert tokenizer.eos_token_id not in hostile and tokenizer.decode(hostile) == "a <|end|> b"
    assert tokenizer.eos_token_id in tokenizer("a <|end|> b")["input_ids"]


@pytest.mark.parametrize("family", [one for one in FAMILIES if one != "qwen3"])
def test_training_reads_the_prefix_of_generation(family: str) -> None:
    read = renderer(family)
    read.check_trainable()
    (asked,) = read.encode([stored(SAID)])
    (answer,) = read.encode_completions(["So it is."])
    whole = read.tokenizer.apply_chat_template(
        [*(one._asdict() for one in SAID), {"role": "assistant", "content": "So it is."}], tokenize=False
    )
    assert whole.startswith(read.tokenizer.decode([*asked, *answer, read.end_token_id]))


def test_a_template_that_renders_earlier_turns_otherwise_is_refused_with_the_remedy() -> None:
    with pytest.raises(TrainingError, match=r"set model\.template to `training`"):
        renderer("qwen3").check_trainable()
    read = renderer("qwen3", template=TRAINING)
    read.check_trainable()
    (answer,) = read.encode_completions(["Yes."])
    assert read.tokenizer.decode(answer) == "<think>\n\n</think>\n\nYes."
    with pytest.raises(ModelError, match="TRL knows no training variant"):
        renderer("mistral", template=TRAINING).render(stored(SAID))


def test_arguments_reach_the_template() -> None:
    text = renderer("qwen3", arguments='{"enable_thinking":false}').render(stored(SAID))
    assert text.endswith("<think>\n\n</think>\n\n")


def test_a_conversation_that_a_template_refuses_fails_alone() -> None:
    mistral, asked = renderer("mistral"), stored([Message("user", "What?")])
    refused, other = mistral.encode([stored([Message("assistant", "Hi"), Message("user", "What?")]), asked])
    assert isinstance(refused, RefusedPrompt) and refused == []
    assert refused.problem.startswith(
        "refused: the chat template of mistral refuses the roles assistant, user"
    )
    assert [other] == mistral.encode([asked])
    drawn = without_room([refused, other], 1_000)
    assert {0: ("refused", refused.problem)} == {
        index: (one.finish_reason, one.problem) for index, one in drawn.items()
    }


def test_an_example_that_a_template_refuses_has_the_problem(tmp_path: Path) -> None:
    mistral = renderer("mistral")
    mistral.tokenizer.save_pretrained(tmp_path)
    prompting = Prompting(chat=True)
    shown = stored([Message("assistant", "Hi"), Message("user", "What?")]), stored([Message("user", "What?")])
    refused, other = tokenise_examples(tmp_path, [(one, "That.") for one in shown], prompting)
    assert refused.problem.startswith("refused: the chat template") and not refused.prompt_token_ids
    assert other.prompt_token_ids and not other.problem
    (prompt, _) = tokenise_prompts(tmp_path, [(one, "") for one in shown], prompting)
    assert prompt.problem == refused.problem
    sides = [(one, "That.", "This.", 1.0) for one in shown]
    assert [one.problem for one in tokenise_comparisons(tmp_path, sides, prompting)] == [refused.problem, ""]


def test_a_template_that_refuses_every_conversation_is_an_error() -> None:
    broken = renderer("mistral")
    broken.tokenizer.chat_template = "{{ raise_exception('not today') }}"
    with pytest.raises(ModelError, match="not today"):
        broken.encode([stored([Message("user", "What?")])])


def test_a_conversation_that_a_template_refuses_is_an_error_that_names_it() -> None:
    with pytest.raises(
        ModelError, match="template of mistral refuses the roles assistant, user: roles must alternate"
    ):
        renderer("mistral").render(stored([Message("assistant", "Hi"), Message("user", "What?")]))
    for text in (
        "Q: what?",
        "[]",
        '{"conversation": [{"role": "judge", "content": "x"}]}',
        '{"conversation": [{"role": "user"}]}',
        '[{"role": "user", "content": "x"}]',
        '{"conversation": []}',
        '{"role": 1}',
    ):
        with pytest.raises(ModelError, match="a prompt for the chat model"):
            renderer("llama3").render(text)


def test_stored_conversations_are_read_back() -> None:
    said = [Message("system", 'ä\n\n"x"'), *SAID]
    assert messages_of(stored(said)) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It is 4.", "It is 4."),
        ("<think>2 + 2</think>\n\nIt is 4.", "It is 4."),
        ("2 + 2 is 4, so</think>It is 4.", "It is 4."),
        ("<think>2 + 2", ""),
        ("<think>a</think>b<think>c</think>\nd", "d"),
        ("<think>a</think>b<think>c", ""),
    ],
)
def test_the_answer_comes_after_the_thoughts(text: str, said: str) -> None:
    assert Thinking().said(text) == said
    assert Thinking(keep=True).said(text) == text


def test_a_template_may_open_the_thoughts_itself() -> None:
    opening = renderer("qwen3")
    assert not opening.begins_in_thought
    opening.tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert Renderer(opening.tokenizer, Prompting(chat=True)).begins_in_thought
    assert not Renderer(opening.tokenizer, TEXT).begins_in_thought
    assert not renderer("qwen3", arguments='{"enable_thinking":false}').begins_in_thought


def test_marks_of_thoughts_can_be_others() -> None:
    assert Thinking("[t]", "[/t]").said("[t]a[/t]b") == "b"
    assert Thinking().said("2 + 2", begun=True) == ""
    assert Thinking().said("2 + 2</think>\n\n4", begun=True) == "4"
    assert Thinking("[t]", "[/t]").said("<think>a</think>b") == "<think>a</think>b"


def test_how_a_model_is_asked_follows_from_its_tokenizer(tmp_path: Any) -> None:
    assert not prompting_of(BASE_MODEL).chat and prompting_of(BASE_MODEL).parameters == {}
    with pytest.raises(ModelError, match=r"has no chat template: name one in model\.template"):
        prompting_of(BASE_MODEL, mode="chat")
    for options in ({"system": "Be brief."}, {"arguments": {"enable_thinking": False}}):
        with pytest.raises(ModelError, match="is asked in plain text"):
            prompting_of(BASE_MODEL, **options)
    template = tmp_path / "mine.jinja"
    with pytest.raises(ModelError, match="cannot be read"):
        prompting_of(BASE_MODEL, template=str(template))
    template.write_text("{% for one in messages %}\n{{ one.content }")
    with pytest.raises(ModelError, match=r"mine\.jinja, line 2: this is no chat template"):
        prompting_of(BASE_MODEL, template=str(template))
    template.write_text(MISTRAL)
    with pytest.raises(ModelError, match=r"names a, which .*mine\.jinja does not read: it reads none"):
        prompting_of(BASE_MODEL, template=str(template), arguments={"a": 1})
    with pytest.raises(ModelError, match="must not name messages: these come from the conversation"):
        prompting_of(BASE_MODEL, template=str(template), arguments={"messages": []})
    template.write_text(briefly := MISTRAL + "{% if a %}{{ a }}{% endif %}")
    asked = prompting_of(BASE_MODEL, template=str(template), system="Be brief.", arguments={"a": 1})
    assert asked.chat
    assert asked.parameters == {
        "chat": True,
        "system": "Be brief.",
        "template": briefly,
        "template_arguments": {"a": 1},
    }
    with pytest.raises(ModelError, match="is asked in plain text"):
        prompting_of(BASE_MODEL, mode="text", template=str(template))


@pytest.mark.parametrize("kept_in", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_an_argument_that_no_template_of_the_model_reads_is_an_error(kept_in: str, tmp_path: Path) -> None:
    shutil.copytree(BASE_MODEL, tmp_path / "model")
    qwen, file = source("qwen3_training"), tmp_path / "model" / kept_in
    settings = json.loads(file.read_text()) if file.is_file() else {}
    named = [{"name": "tool_use", "template": MISTRAL}, {"name": "default", "template": qwen}]
    settings["chat_template"] = named if kept_in == "tokenizer_config.json" else qwen
    file.write_text(qwen if kept_in.endswith("jinja") else json.dumps(settings))
    for template in (None, TRAINING):
        asked = prompting_of(tmp_path / "model", template=template, arguments={"enable_thinking": False})
        assert asked.parameters["template_arguments"] == {"enable_thinking": False}
        with pytest.raises(
            ModelError, match=r"names enable_thinkin, which .* does not read: did you mean enable_thinking"
        ):
            prompting_of(tmp_path / "model", template=template, arguments={"enable_thinkin": False})


def test_a_model_encodes_texts_as_it_does_text_prompts() -> None:
    model = TokenText(BASE_MODEL)
    texts = ["a b", "a <|end|> b", "", "a <|end|>"]
    plain = model.encode_many(texts)
    assert plain == model.encode_prompts(texts)
    assert model.decode_many(plain) == texts, "the text of a special token is no token"
    end = model.tokenizer.convert_ids_to_tokens(model.end_token_id)
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, model.end_token_id)]
    )
    assert model.tokenizer("a b")["input_ids"] == [*plain[0], model.end_token_id]
    assert model.encode_many(texts) == plain
