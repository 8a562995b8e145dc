"""Turn prompts into token ids, the same for generation and for training."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from selfimprove_dagster.conversation import (
    Message,
    ToolCall,
    ToolCalls,
    ToolResult,
    Turn,
    merged,
    messages_of,
    row_of,
    tools_of,
)
from selfimprove_dagster.errors import ModelError, TrainingError, first_line
from selfimprove_dagster.language_model.base import RefusedPrompt
from selfimprove_dagster.language_model.prompting import TRAINING, Prompting
from selfimprove_dagster.language_model.replies import Reply, read_reply, response_template

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Characters of private use: while a template renders, the number of a token between them replaces its text."""

_QUESTION, _ANSWER = "zyxquestion", "zyxanswer"
_ASKED = Message("user", _QUESTION)
_ANSWERED = (_ASKED, Message("assistant", _ANSWER))
"""Messages that show what a template puts around them."""

_TOOL, _CALLED = "zyxtool", (ToolCall("zyxname", {"zyxargument": "zyxvalue"}),)
_WITH_TOOLS = (_ASKED, ToolCalls("", _CALLED), ToolResult("zyxname", "zyxresult"))
_TOOL_WORDS = (_TOOL, "zyxname", "zyxargument", "zyxvalue", "zyxresult")
"""A conversation with a tool, and what a template must show of it."""


class _TemplateRefuses(ModelError):
    """A chat template refuses a conversation."""


class Renderer:
    """The token ids of prompts, with one tokenizer and one way of asking.

    A prompt never has two beginning-of-sequence tokens, nor an end-of-sequence token at its end. The text of a special
    token in a message or a text prompt stays text. Templates without a system role get the system text in the first
    message of the user. A prompt with tools is refused for a template that does not show tools, calls and results.
    """

    def __init__(self, tokenizer: Any, prompting: Prompting, name: str = "the model") -> None:
        """`tokenizer` is one of transformers; `name` is how errors call the model."""
        self.tokenizer, self.prompting, self._name = tokenizer, prompting, name

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt; those of a conversation that the template refuses are a `RefusedPrompt`.

        Raises ModelError if the template refuses every conversation, a single question included.
        """
        if not self.prompting.chat:
            return self.encode_texts(prompts)
        return [*map(self._encode_conversation, prompts)]

    def _encode_conversation(self, prompt: str) -> list[int]:
        try:
            return self._encode_pieces(self.render(prompt))
        except _TemplateRefuses as error:
            if not self._asked:
                raise
            return RefusedPrompt(first_line(error))

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of plain texts, with the tokenizer's leading special tokens if it has any."""
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
        end = int(self.tokenizer.eos_token_id)
        for index, (text, ids) in enumerate(zip(texts, rows, strict=True)):
            if self._special.search(text):
                rows[index] = self._leading + self._as_texts([text])[0]
            elif ids[-1:] == [end]:
                # Some tokenizers append an end token; the text could then not be continued.
                ids.pop()
        return rows

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of what the model is to say after a prompt, without the token that ends it.

        They begin with what the template puts between prompt and answer (a space, or an empty thought).
        """
        lead = self._lead
        if not lead.strip():
            return self._as_texts([lead + one for one in completions])
        begin = self.tokenizer(lead, add_special_tokens=False)["input_ids"]
        return [[*begin, *ids] for ids in self._as_texts(completions)]

    def _as_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts in which nothing is a special token."""
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        return rows

    def render(self, prompt: str) -> str:
        """Return what the template makes of a stored conversation, up to where the model goes on.

        The special tokens that a message writes are still numbers between marks.
        """
        try:
            messages = messages_of(prompt)
        except ValueError as error:
            raise ModelError(f"a prompt for the chat model {self._name}: {error}") from None
        tools = self._hidden_in(tools_of(prompt))
        if (tools or any(not isinstance(one, Message) for one in messages)) and not self._has_tools:
            raise ModelError(
                f"the chat template of {self._name} does not show tools: name a template that does (in "
                "model.template, or with --template of `generate`), or ask without tools"
            )
        options = {"tools": tools} if tools else {}
        return self._rendered(messages, add_generation_prompt=True, **options)

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        """Return the text and the calls of tools that a model wrote after a prompt, without its thoughts."""
        ids = list(token_ids)
        while ids and ids[-1] in (self.end_token_id, self.tokenizer.eos_token_id):
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return read_reply(self.prompting.thinking.said(text), self._response_template)

    @cached_property
    def _response_template(self) -> dict[str, Any]:
        own = self.prompting.template
        source = own if own not in ("", TRAINING) else str(self.tokenizer.chat_template)
        return response_template(self.tokenizer, source)

    @cached_property
    def end_token_id(self) -> int:
        """Return the token that ends what the model says: of a turn in a conversation, or else of the sequence."""
        eos = int(self.tokenizer.eos_token_id)
        if not self.prompting.chat:
            return eos
        after = self.tokenizer(self._answered.rpartition(_ANSWER)[2], add_special_tokens=False)["input_ids"]
        return next((int(one) for one in after if one in self._special_ids), eos)

    def check_trainable(self) -> None:
        """Raise TrainingError unless the template renders a prompt alike whatever follows it.

        Otherwise a model would be trained on other tokens than it reads when it is asked.
        """
        if not self.prompting.chat:
            return
        goes_on = self._rendered([*_ANSWERED, _ASKED], add_generation_prompt=True)
        before, answer, _ = self._answered.rpartition(_ANSWER)
        if not (before.startswith(self._asked) and goes_on.startswith(before + answer)):
            raise TrainingError(
                f"the chat template of {self._name} renders a prompt differently when an answer or another turn "
                "follows it, so that training would not see what generation reads: set model.template to "
                f"`{TRAINING}`, which knows a variant for common models, to a file of your own, or set "
                "model.template_arguments (for example enable_thinking: false)"
            )

    @cached_property
    def _asked(self) -> str:
        """Return what the template makes of a question to which the model is to say something."""
        return self._rendered([_ASKED], add_generation_prompt=True)

    @cached_property
    def begins_in_thought(self) -> bool:
        """Return whether the template puts the mark that opens thoughts at the end of a prompt."""
        return self.prompting.chat and self._asked.rstrip().endswith(self.prompting.thinking.open)

    @cached_property
    def _answered(self) -> str:
        """Return what the template makes of a question with its answer."""
        return self._rendered(_ANSWERED)

    @cached_property
    def _lead(self) -> str:
        """Return what the template puts between a prompt and the answer to it."""
        if not self.prompting.chat:
            return ""
        before = self._answered.rpartition(_ANSWER)[0]
        return before[len(self._asked) :] if before.startswith(self._asked) else ""

    # ---- templates ------------------------------------------------------------------------------------

    def _rendered(self, messages: Sequence[Turn], **options: Any) -> str:
        system = [one.content for one in messages if one.role == "system"]
        if self.prompting.system:
            system.insert(0, self.prompting.system)
        rest: list[Turn] = [one for one in messages if one.role != "system"]
        if system and not self._has_system:
            rest = [Message("user", "\n\n".join(system)), *rest]
        elif system:
            rest = [Message("system", "\n\n".join(system)), *rest]
        rows = [self._hidden_in(row_of(one)) for one in merged(rest)]
        calls = [call for row in rows for call in row.get("tool_calls", ())]
        for number, call in enumerate(calls):
            call["id"] = _id(number)
        for number, row in enumerate(row for row in rows if row["role"] == "tool"):
            row["tool_call_id"] = _id(number)
        return self._apply(rows, **options)

    def _apply(self, rows: Sequence[Mapping[str, Any]], **options: Any) -> str:
        from jinja2.exceptions import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(rows),
                chat_template=self._template,
                tokenize=False,
                **{**json.loads(self.prompting.arguments), **options},
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise _TemplateRefuses(
                f"the chat template of {self._name} refuses the roles {', '.join(row['role'] for row in rows)}: "
                f"{first_line(error)}; use another template in model.template, or set model.prompting to text"
            ) from None
        return text

    @cached_property
    def _template(self) -> str | None:
        """Return the source of the template to use instead of the tokenizer's own."""
        if self.prompting.template != TRAINING:
            return self.prompting.template or None
        from trl.chat_template_utils import get_training_chat_template

        try:
            found: str | None = get_training_chat_template(self.tokenizer)
        except ValueError as error:
            raise ModelError(
                f"TRL knows no training variant of the chat template of {self._name}: name a file in "
                f"model.template ({first_line(error)})"
            ) from None
        return found

    @cached_property
    def _has_system(self) -> bool:
        """Return whether the template shows a system message."""
        rows = [{"role": "system", "content": _ANSWER}, {"role": "user", "content": _QUESTION}]
        try:
            return _ANSWER in self._apply(rows, add_generation_prompt=True)
        except ModelError:
            return False

    @cached_property
    def _has_tools(self) -> bool:
        """Return whether the template shows tools, calls and their results."""
        function = {"name": _TOOL, "description": "", "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "function": function}]
        try:
            text = self._rendered(_WITH_TOOLS, add_generation_prompt=True, tools=tools)
        except ModelError:
            return False
        return all(word in text for word in _TOOL_WORDS)

    # ---- special tokens that are text -----------------------------------------------------------------

    @cached_property
    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        return {*self.tokenizer.all_special_ids, *(number for number, one in added.items() if one.special)}

    @cached_property
    def _specials(self) -> list[str]:
        """Return the texts of special tokens, and the opening mark, longest first."""
        texts = {self.tokenizer.convert_ids_to_tokens(number) for number in self._special_ids} - {"", None}
        return [_OPEN, *sorted(texts, key=lambda text: (-len(text), text))]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._specials)))

    def _hidden(self, text: str) -> str:
        return self._special.sub(lambda hit: f"{_OPEN}{self._specials.index(hit[0])}{_CLOSE}", text)

    def _hidden_in(self, value: Any) -> Any:
        """Apply `_hidden` to every text of a JSON value."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, dict):
            return {self._hidden_in(name): self._hidden_in(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._hidden_in(one) for one in value]
        return value

    def _encode_pieces(self, rendered: str) -> list[int]:
        found: list[int] = []
        for number, piece in enumerate(re.split(f"{_OPEN}(\\d+){_CLOSE}", rendered)):
            if number % 2:
                found += self._as_texts([self._specials[int(piece)]])[0]
            elif piece:
                found += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return found

    @cached_property
    def _leading(self) -> list[int]:
        """Return the special tokens that the tokenizer puts before a text."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        ids: list[int] = self.tokenizer("a")["input_ids"]
        return ids[: next((at for at in range(len(ids)) if ids[at : at + len(plain)] == plain), 0)]


def _id(number: int) -> str:
    """Return the id of a call, of nine letters and digits, as the templates of Mistral require."""
    return f"call{number:05}"
