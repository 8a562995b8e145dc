"""How a model is asked: as text, or in messages that its chat template renders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, TemplateSyntaxError, meta

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.folder import model_folder

Mode = Literal["auto", "chat", "text"]

TRAINING = "training"
"""The word that selects TRL's variant of a known template, which renders earlier turns alike whatever follows."""


_RESERVED = {
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "tools",
}
"""Names of template arguments that rendering itself gives."""

_GIVEN = _RESERVED | {"bos_token", "eos_token", "raise_exception", "strftime_now"}
"""Names that templates read and that nobody has to give."""

_JINJA = Environment(extensions=["jinja2.ext.loopcontrols"])

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of transformers' own around what an assistant says."""


@dataclass(frozen=True)
class Thinking:
    """The marks around a model's thoughts, which come before what it says.

    `keep`: the thoughts stay in the text, so that examples are trained on with them.
    """

    open: str = "<think>"
    close: str = "</think>"
    keep: bool = False

    def start(self, text: str, begun: bool = False) -> int | None:
        """Return where a completion begins to say something, after its thoughts; None if they do not end.

        A closing mark alone counts, since some templates put the opening mark into the prompt: `begun` says that the
        prompt did.
        """
        close = text.rfind(self.close)
        start = close + len(self.close) if close >= 0 else 0
        return None if self.open in text[start:] or (begun and close < 0) else start

    def said(self, text: str, begun: bool = False) -> str:
        """Return what follows the thoughts, or all where they are kept; nothing if they do not end."""
        if self.keep:
            return text
        start = self.start(text, begun)
        if start is None:
            return ""
        return text[start:].lstrip("\n") if start else text


THINKING = Thinking()
"""The usual marks, of thoughts that are left out."""


@dataclass(frozen=True)
class Prompting:
    """How a model is asked.

    `chat`: prompts are conversations (`conversation.stored`), which the chat template renders; otherwise they are
    text. `system` is a text that comes first in every conversation. `template` is the Jinja source that replaces the
    tokenizer's own, or `TRAINING`. `arguments` are passed to the template, as JSON.
    """

    chat: bool = False
    system: str = ""
    template: str = ""
    arguments: str = "{}"
    thinking: Thinking = THINKING

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what belongs in an activity; empty for plain text and the usual marks of thoughts."""
        found: dict[str, Any] = {"chat": True} if self.chat else {}
        if self.chat:
            found |= {"system": self.system} if self.system else {}
            found |= {"template": self.template} if self.template else {}
            found |= {"template_arguments": json.loads(self.arguments)} if self.arguments != "{}" else {}
        if self.thinking != THINKING:
            found["thinking"] = vars(self.thinking)
        return found


TEXT = Prompting()
"""Plain text, as a base model reads it."""


def prompting_of(
    path: str | Path,
    *,
    mode: Mode = "auto",
    system: str = "",
    template: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    thinking: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    is_provided: bool = False,
) -> Prompting:
    """Return how the model at `path` is asked; `auto` is chat if its tokenizer has a chat template.

    `template` is a file, or the word `training`. A model that a provider has (`is_provided`) is asked in messages, or
    with one message for a text. Raises ModelError for a missing model or file, a file that is no
    template, `chat` without a template, settings of conversations where the model reads text, and arguments that the
    template does not read.
    """
    marks = Thinking(**thinking) if thinking else THINKING
    if is_provided:
        return Prompting(mode != "text", system if mode != "text" else "", thinking=marks)
    own = template or (
        mode != "text" and has_chat_template(model_folder(path, trust_remote_code=trust_remote_code))
    )
    if mode == "chat" and not own:
        raise ModelError(
            f"the tokenizer of {path} has no chat template: name one in model.template, or set "
            "model.prompting to text"
        )
    if taken := _RESERVED & {*(arguments or {})}:
        raise ModelError(
            f"model.template_arguments must not name {', '.join(sorted(taken))}: these come from the conversation"
        )
    chat = bool(own) and mode != "text"
    if not chat and (system or template or arguments):
        raise ModelError(
            f"{path} is asked in plain text, where model.system, model.template and "
            "model.template_arguments mean nothing: set model.prompting to chat, or leave them out"
        )
    source = _source(template) if template else ""
    if arguments:
        written = source not in ("", TRAINING)
        folder = model_folder(path, trust_remote_code=trust_remote_code)
        _check_arguments(
            arguments, [source] if written else chat_templates(folder), str(template if written else path)
        )
    return Prompting(
        chat,
        system,
        source,
        json.dumps(dict(arguments or {}), sort_keys=True),
        marks,
    )


def _source(template: str) -> str:
    if template == TRAINING:
        return TRAINING
    from transformers.utils.chat_template_utils import _compile_jinja_template as compiled

    try:
        source = Path(template).read_text(encoding="utf-8")
        compiled(source)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the chat template {template} cannot be read: {error}") from None
    except TemplateSyntaxError as error:
        raise ModelError(
            f"{template}, line {error.lineno}: this is no chat template: {error.message}"
        ) from None
    return source


def _check_arguments(names: Iterable[str], sources: Iterable[str], of: str) -> None:
    """Raise ModelError for an argument that no template reads; one that cannot be parsed is refused when it renders."""
    try:
        read = {name for source in sources for name in _variables(source)} - _GIVEN
    except TemplateSyntaxError:
        return
    for name in names:
        if name not in read:
            near = get_close_matches(name, read, 1)
            hint = f"did you mean {near[0]}?" if near else f"it reads {', '.join(sorted(read)) or 'none'}"
            raise ModelError(
                f"model.template_arguments names {name}, which the chat template of {of} does not read: {hint}"
            )


@lru_cache(maxsize=64)
def _variables(source: str) -> set[str]:
    """Return the variables that a chat template reads and does not set in every case."""
    return meta.find_undeclared_variables(_JINJA.parse(_GENERATION.sub("", source)))


def has_chat_template(folder: Path) -> bool:
    """Return whether the tokenizer in a model folder has a chat template. Loads no library."""
    return bool(chat_templates(folder))


@lru_cache(maxsize=64)
def chat_templates(folder: Path) -> tuple[str, ...]:
    """Return the sources of a tokenizer's chat templates, of which few have several. Loads no library."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return (file.read_text(encoding="utf-8"),)
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError):
            continue
        if found:
            return (found,) if isinstance(found, str) else tuple(one["template"] for one in found)
    return ()
