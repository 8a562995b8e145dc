"""The prompts of a method as YAML, and a user's changes to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Message, messages_of
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.sections import StructureSection
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.prompts import Prompts, load_prompts

CHAT = Prompting(chat=True)
SHIPPED = """
greet:
  text:
    prompt: "Greet {{ name }}{% for it in others %} and {{ it.name }}{% endfor %}:"
    stop: ["\\n"]
  chat:
    messages:
      - system: "{{ manner }}"
      - each: others
        messages:
          - user: "Greet {{ it.name }}, like {{ name }}."
          - assistant: "Hello, {{ it.name }}."
      - dialogue: turns
      - user: "Greet {{ name }}."
    completion: "Hello, {{ said }}{{ mark }}"
part:
  text: {prompt: "{{ name }} leaves"}
  chat: {messages: [{user: "{{ name }} leaves"}]}
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.yaml"
    path.write_text(SHIPPED)
    return path


def changed(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


FIELDS = {
    "name": "Ann",
    "others": [{"name": "Bo"}],
    "manner": "",
    "turns": [Message("user", "x"), Message("assistant", "y")],
}


def test_one_prompt_has_a_text_and_a_chat_form(shipped: Path) -> None:
    texts, chats = load_prompts([shipped], TEXT), load_prompts([shipped], CHAT)
    assert texts.ask("greet", **FIELDS) == "Greet Ann and Bo:"
    assert (texts.completion("greet", "Ann", mark="!"), texts.stops("greet")) == (" Ann", ("\n",))
    assert messages_of(chats.ask("greet", **FIELDS)) == [
        Message("user", "Greet Bo, like Ann."),
        Message("assistant", "Hello, Bo."),
        Message("user", "x"),
        Message("assistant", "y"),
        Message("user", "Greet Ann."),
    ]
    assert (chats.completion("greet", "Ann", mark="!"), chats.stops("greet")) == ("Hello, Ann!", ())


def test_values_are_never_templates_and_missing_ones_are_errors(shipped: Path) -> None:
    texts = load_prompts([shipped], TEXT)
    assert texts.ask("part", name="{{ 7 * 7 }}{% raw %}") == "{{ 7 * 7 }}{% raw %} leaves"
    with pytest.raises(Exception, match="'name' is undefined"):
        texts.ask("part")
    with pytest.raises(KeyError, match="there is no prompt 'go': greet, part"):
        texts.ask("go")


def test_only_changed_or_rendered_prompts_are_part_of_an_activity(shipped: Path, tmp_path: Path) -> None:
    assert load_prompts([shipped], TEXT).parameters == {}
    same = load_prompts([shipped], TEXT, changed(tmp_path, 'part: {text: {prompt: "{{ name }} leaves"}}'))
    assert same.parameters == {}
    other = load_prompts([shipped], TEXT, changed(tmp_path, 'part: {text: {prompt: "{{ name }} goes"}}'))
    assert other.ask("part", name="Ann") == "Ann goes"
    chat = load_prompts([shipped], CHAT)
    hashes = [one.parameters["prompting"]["prompts"] for one in (other, chat)]
    assert len({*hashes}) == 2 and all(one.startswith("b2:") for one in hashes)
    assert other.parameters["prompting"]["stop"] == {"greet": ("\n",), "part": ()}
    assert chat.parameters["prompting"]["chat"] is True


def test_stop_strings_are_settings(shipped: Path) -> None:
    found = load_prompts([shipped], CHAT, stop={"part": ["END"]})
    assert (found.stops("part"), found.stops("greet")) == (("END",), ())
    assert load_prompts([shipped], TEXT, stop={"greet": []}).stops("greet") == ()
    with pytest.raises(ExperimentError, match=r"prompts\.stop names 'go', which is no prompt: greet, part"):
        load_prompts([shipped], TEXT, stop={"go": []})


def test_structures_are_settings_that_only_a_set_one_records(shipped: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    sections = {
        "part": StructureSection(regex="[A-D]"),
        "greet": StructureSection(json_schema=str(schema)),
    }
    found = load_prompts([shipped], TEXT, structure=sections)
    assert found.structure("part") == Structure(regex="[A-D]")
    assert found.structure("greet") == Structure(json_schema='{"type": "integer"}')
    assert found.structure("go") is None
    recorded = {"part": {"regex": "[A-D]"}, "greet": {"json_schema": '{"type": "integer"}'}}
    assert found.parameters == {"prompting": {"structure": recorded}}
    stopped = load_prompts([shipped], CHAT, stop={"part": ["END"]}, structure=sections)
    assert stopped.parameters["prompting"]["structure"] == recorded
    assert stopped.stops("part") == ("END",)
    assert load_prompts([shipped], TEXT, structure={}).parameters == {}
    inline = load_prompts(
        [shipped], TEXT, structure={"part": StructureSection(json_schema={"type": "integer"})}
    )
    assert inline.structure("part") == found.structure("greet")


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("go", {"regex": "a"}, r"prompts\.structure names 'go', which is no prompt: greet, part"),
        (
            "part",
            {"regex": "[A"},
            r"prompts\.structure\.part: '\[A' is no regular expression: .*; correct it, or",
        ),
        (
            "part",
            {"json_schema": {"type": "whole"}},
            r"prompts\.structure\.part: the JSON schema is wrong at \$\.type",
        ),
        (
            "part",
            {"json_schema": "/nowhere.json"},
            r"prompts\.structure\.part: /nowhere\.json cannot be read: No such",
        ),
    ],
)
def test_a_wrong_structure_is_an_error_that_names_its_field(
    shipped: Path, name: str, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(ExperimentError, match=why):
        load_prompts([shipped], TEXT, structure={name: StructureSection(**given)})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("go: {}", "go is no prompt of this method: use one of greet, part"),
        ("part: x", "part must have the forms text or chat"),
        ("part: {text: {prompt: 1}}", r"the prompt part: text\.prompt: Input should be a valid string"),
        ("part: {text: {prompt: '{{ nam }}'}}", "part asks for nam, which it is not given; it has name"),
        ("part: {text: {prompt: '{{ name'}}", "the prompt part is no Jinja template"),
        ("part: {chat: {messages: [{judge: x}]}}", "a message has the keys judge: use one of system, user"),
        ("part: {chat: {messages: [{user: x, assistant: y}]}}", "a message has the keys assistant, user"),
        ("part: {chat: {messages: []}}", "at least 1 item"),
        ("- a", "must map the names of prompts to their forms"),
        ("a: [", "is not YAML that can be read"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_prompt_and_remedy(
    shipped: Path, tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(ExperimentError, match=why) as raised:
        load_prompts([shipped], CHAT, changed(tmp_path, text))
    assert "mine.yaml" in str(raised.value)


def test_a_missing_file_is_named(shipped: Path) -> None:
    with pytest.raises(ExperimentError, match=r"there is no file of prompts /nowhere\.yaml"):
        load_prompts([shipped], CHAT, "/nowhere.yaml")


@pytest.mark.parametrize("name", [*registry.methods()])
def test_the_prompts_of_every_method_are_readable(name: str) -> None:
    """Every template parses, and both forms ask for nothing that the other does not know, but for turns."""
    method = registry.method(name)
    for chat in (False, True):
        found: Prompts = load_prompts(method.prompts, Prompting(chat=chat))
        assert all(form.variables for form in found.forms.values())
