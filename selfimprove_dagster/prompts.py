"""The prompts of a method: YAML files with a text form for base models and a chat form for chat models.

    critique:
      text:
        prompt: "{{ dialogue }} {{ response }}\\n\\nCritique:"     # Jinja; ends where the model goes on
        stop: ["\\n\\n"]                                          # strings that end what the model writes
        completion: " {{ said }}"                               # how a given completion follows the prompt
      chat:
        messages:                                               # each with one role and a Jinja text
          - dialogue: turns                                     # the messages of a list, as they are
          - assistant: "{{ response }}"
          - user: "{{ critique_request }}"
          - each: demonstrations                                # the messages below for each item, as `it`
            messages:
              - user: "{{ it.question }}"
        stop: []
        completion: "{{ said }}"

`completion` may be left out; those above are the defaults. A user's file names only the prompts that it changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, ValidationError, model_validator

from selfimprove_dagster.conversation import Message, Turn, stored
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.sections import Section, StructureSection
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.structure import Structure

_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)

_ROLES = ("system", "user", "assistant")


class TextForm(Section):
    """A prompt as text that the model goes on with."""

    prompt: str = Field(description="Jinja template of the text")
    stop: tuple[str, ...] = Field((), description="strings that end the completion")
    completion: str = Field(
        " {{ said }}", description="Jinja template of a completion that is trained on or scored"
    )

    @property
    def templates(self) -> Iterator[str]:
        """Yield the sources of its templates."""
        yield from (self.prompt, self.completion)


class ChatForm(Section):
    """A prompt as messages, after which the assistant speaks."""

    messages: list[dict[str, Any]] = Field(min_length=1, description="messages, `dialogue` and `each`")
    stop: tuple[str, ...] = Field((), description="strings that end the completion")
    completion: str = Field(
        "{{ said }}", description="Jinja template of a completion that is trained on or scored"
    )

    @model_validator(mode="after")
    def _known_messages(self) -> ChatForm:
        for one in _flat(self.messages):
            keys = {*one}
            known = keys == {"each", "messages"} or (len(keys) == 1 and keys <= {*_ROLES, "dialogue"})
            if not known or not all(
                isinstance(value, str) for key, value in one.items() if key != "messages"
            ):
                raise ValueError(
                    f"a message has the keys {', '.join(sorted(map(str, keys)))}: use one of "
                    f"{', '.join(_ROLES)} or dialogue, with a text, or each with messages"
                )
        return self

    @property
    def templates(self) -> Iterator[str]:
        """Yield the sources of its templates."""
        for one in _flat(self.messages):
            yield from (text for role, text in one.items() if role in _ROLES)
            yield from (f"{{{{ {one[key]} }}}}" for key in ("dialogue", "each") if key in one)
        yield self.completion


class Form(Section):
    """A prompt in both forms."""

    text: TextForm
    chat: ChatForm

    @property
    def variables(self) -> set[str]:
        """Return the names that its templates ask for."""
        asked: set[str] = set()
        for source in (*self.text.templates, *self.chat.templates):
            asked |= meta.find_undeclared_variables(_JINJA.parse(source))
        return asked - {"it", "said"}


@dataclass(frozen=True)
class Prompts:
    """The prompts of a method, in the form that a model reads.

    `own` says whether they are those of the package, unchanged. `structures` maps the names of prompts to what the
    model's texts after them have to match.
    """

    forms: Mapping[str, Form] = field(default_factory=dict)
    prompting: Prompting = TEXT
    own: bool = True
    structures: Mapping[str, Structure] = field(default_factory=dict)

    def ask(self, name: str, /, **fields: Any) -> str:
        """Return a prompt: text, or a stored conversation. Raises KeyError for an unknown prompt or field."""
        form = self._form(name)
        if not self.prompting.chat:
            return _filled(form.text.prompt, fields)
        return stored(_messages(form.chat.messages, fields))

    def completion(self, name: str, said: str, /, **fields: Any) -> str:
        """Return a completion as it follows the prompt, from what the model is to say."""
        form = self._form(name)
        return _filled((form.chat if self.prompting.chat else form.text).completion, {**fields, "said": said})

    def stops(self, name: str) -> tuple[str, ...]:
        """Return the strings that end what a model writes after the prompt."""
        form = self._form(name)
        return form.chat.stop if self.prompting.chat else form.text.stop

    def structure(self, name: str) -> Structure | None:
        """Return what a text that a model writes after the prompt has to match; None if it is free."""
        return self.structures.get(name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what belongs in an activity: nothing for text prompts of the package, which code versions cover."""
        found: dict[str, Any] = dict(self.prompting.parameters)
        if self.prompting.chat or not self.own:
            kind = "chat" if self.prompting.chat else "text"
            forms = {name: getattr(form, kind).model_dump() for name, form in self.forms.items()}
            found |= {"prompts": content_hash(forms), "stop": {name: self.stops(name) for name in forms}}
        if self.structures:
            found["structure"] = {name: one.parameters for name, one in self.structures.items()}
        return {"prompting": found} if found else {}

    def _form(self, name: str) -> Form:
        try:
            return self.forms[name]
        except KeyError:
            raise KeyError(
                f"there is no prompt {name!r}: {', '.join(self.forms) or 'the method has none'}"
            ) from None


def load_prompts(
    shipped: Sequence[Path],
    prompting: Prompting,
    file: str | None = None,
    stop: Mapping[str, Any] | None = None,
    structure: Mapping[str, StructureSection] | None = None,
) -> Prompts:
    """Return the prompts of the files in turn, changed by a user's file, stop strings and structures.

    Raises ExperimentError that names the file, the prompt and what is wrong with it.
    """
    forms: dict[str, Form] = {}
    for path in shipped:
        forms |= _read(path, path.stat().st_mtime_ns)
    structures = {name: _structure(name, one, forms) for name, one in (structure or {}).items()}
    if file is None and not stop:
        return Prompts(forms, prompting, structures=structures)
    changed = dict(forms)
    if file is not None:
        changed |= _changes(Path(file), forms)
    for name, strings in (stop or {}).items():
        if name not in forms:
            raise ExperimentError(f"prompts.stop names {name!r}, which is no prompt: {', '.join(forms)}")
        kind = "chat" if prompting.chat else "text"
        form = changed[name]
        ended = getattr(form, kind).model_copy(update={"stop": tuple(strings)})
        changed[name] = form.model_copy(update={kind: ended})
    return Prompts(changed, prompting, own=changed == forms, structures=structures)


def _structure(name: str, section: StructureSection, forms: Mapping[str, Form]) -> Structure:
    """Return the structure that a user sets for a prompt. Raises ExperimentError naming what is wrong with it."""
    if name not in forms:
        raise ExperimentError(f"prompts.structure names {name!r}, which is no prompt: {', '.join(forms)}")
    try:
        if section.regex is not None:
            structure = Structure(regex=section.regex)
        elif isinstance(section.json_schema, str):
            structure = Structure.read(section.json_schema)
        else:
            structure = Structure.of_schema(section.json_schema or {})
        structure.check()
    except ValueError as error:
        raise ExperimentError(f"prompts.structure.{name}: {error}; correct it, or leave it out") from None
    return structure


def _changes(path: Path, forms: Mapping[str, Form]) -> dict[str, Form]:
    """Return the prompts of a user's file; a form that is left out stays as it is."""
    data = _yaml(path)
    found = {}
    for name, value in data.items():
        if name not in forms:
            raise ExperimentError(
                f"{path}: {name} is no prompt of this method: use one of {', '.join(forms)}"
            )
        if not isinstance(value, dict):
            raise ExperimentError(f"{path}: {name} must have the forms text or chat")
        found[name] = _form_of(path, name, {**forms[name].model_dump(), **value})
        if unknown := found[name].variables - forms[name].variables:
            raise ExperimentError(
                f"{path}: {name} asks for {', '.join(sorted(unknown))}, which it is not given; it has "
                f"{', '.join(sorted(forms[name].variables))}"
            )
    return found


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> dict[str, Form]:
    return {name: _form_of(path, name, value) for name, value in _yaml(path).items()}


def _form_of(path: Path, name: str, value: Any) -> Form:
    try:
        form = Form.model_validate(value)
        form.variables  # noqa: B018 (parses every template)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ExperimentError(f"{path}: the prompt {name}: {lines}") from None
    except TemplateError as error:
        raise ExperimentError(f"{path}: the prompt {name} is no Jinja template: {error}") from None
    return form


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"there is no file of prompts {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExperimentError(f"{path} is not YAML that can be read: {error}") from None
    if not isinstance(data, dict):
        raise ExperimentError(f"{path} must map the names of prompts to their forms")
    return data


def _flat(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for one in messages:
        yield one
        if isinstance(inner := one.get("messages"), list):
            yield from _flat(inner)


@lru_cache(maxsize=1024)
def _template(source: str) -> Any:
    return _JINJA.from_string(source)


def _filled(source: str, fields: Mapping[str, Any]) -> str:
    text: str = _template(source).render(fields)
    return text


def _messages(shapes: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> Iterator[Turn]:
    for shape in shapes:
        if "each" in shape:
            for item in fields[shape["each"]]:
                yield from _messages(shape["messages"], {**fields, "it": item})
        elif "dialogue" in shape:
            yield from fields[shape["dialogue"]]
        else:
            ((role, source),) = shape.items()
            if text := _filled(source, fields).strip():
                yield Message(role, text)
