"""Let a chat model call tools in the format of its own chat template.

The template shows the tools to the model (`schemas.tool_schema`) and renders calls and results;
`LanguageModel.read_reply` reads the calls that the model writes. Calls inside a text are in `writing`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from selfimprove_dagster.conversation import ToolCall, ToolCalls, ToolResult, Turn, messages_of, stored
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import (
    FinishReason,
    LanguageModel,
    RefusedPrompt,
    SamplingParameters,
    positions,
)
from selfimprove_dagster.language_model.replies import WrittenCall
from selfimprove_dagster.tools.base import Context, ToolError
from selfimprove_dagster.tools.schemas import call_input, tool_schema
from selfimprove_dagster.tools.toolbox import Toolbox

MOST_CALLS = 8
"""Maximum number of calls per prompt."""


@dataclass(frozen=True)
class ChatCall:
    """A call that a chat model made, with the result of the tool, or the problem that the model was shown instead."""

    call: ToolCall
    result: str | None = None
    problem: str | None = None

    @property
    def arguments(self) -> str:
        """Return the arguments as JSON."""
        return json.dumps(self.call.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class ChatTranscript:
    """What a chat model answered: its last text, its calls, and all messages after the prompt but the last.

    `tokens` counts what the model wrote in all its turns, and `finish_reason` is that of the last turn. `problem` says
    why the model could not go on after the results of its calls, if it could not.
    """

    text: str
    calls: tuple[ChatCall, ...]
    messages: tuple[Turn, ...]
    tokens: int
    finish_reason: FinishReason
    problem: str | None = None


@dataclass
class _Chat:
    """A conversation that is going on; `before` is the number of messages of its prompt."""

    turns: list[Turn]
    before: int
    context: Context
    text: str = ""
    calls: list[ChatCall] = field(default_factory=list)
    tokens: int = 0
    finish_reason: FinishReason = "stop"
    problem: str | None = None


def chat_with_tools(
    model: LanguageModel,
    prompts: Sequence[str],
    toolbox: Toolbox,
    *,
    contexts: Sequence[Context] | None = None,
    parameters: SamplingParameters | None = None,
    most_calls: int = MOST_CALLS,
    report: Callable[[int, ChatCall], None] | None = None,
) -> list[ChatTranscript]:
    """Return the answer to each prompt, a stored conversation, after the calls of tools that the model makes.

    The model writes a turn; the calls in it are run; it writes the next turn after their results, until a turn has no
    calls or `most_calls` were made. The calls of a turn beyond that number, calls that cannot be read, and calls of
    unknown tools get an error as their result. `contexts[i]` belongs to `prompts[i]`. `parameters` apply to each turn
    (greedy by default), except for stop strings, which could end a call. `report(i, call)` is called after each call.

    Raises ModelError for a model that is asked in plain text, and a template that shows no tools. A conversation that
    fills the model's context, or that the template refuses, ends with a problem.
    """
    if not model.prompting.chat:
        raise ModelError(
            "this model is asked in plain text, where it has no chat format for tools: use a model with a chat "
            "template, or name a template (in model.template, or with --template of `generate`)"
        )
    limited = replace(parameters or SamplingParameters(temperature=0.0), stop=())
    schemas = [tool_schema(tool) for tool in toolbox.values()]
    chats = []
    for prompt, context in zip(prompts, contexts or [Context()] * len(prompts), strict=True):
        turns = messages_of(prompt)
        chats.append(_Chat(turns, len(turns), context))
    active = list(enumerate(chats))
    asked = model.encode_prompts([stored(one.turns, schemas) for one in chats])
    while active:
        drawn = model.generate(asked, [[0]] * len(asked), limited)
        pending: list[tuple[int, _Chat, tuple[WrittenCall, ...]]] = []
        for (number, chat), (turn,) in zip(active, drawn, strict=True):
            reply = turn.reply or model.read_reply(turn.token_ids)
            chat.tokens += turn.tokens
            chat.finish_reason, chat.problem = turn.finish_reason, turn.problem
            chat.text = reply.text if reply.calls else turn.text
            if not reply.calls or len(chat.calls) >= most_calls:
                continue
            chat.turns.append(ToolCalls(reply.text, tuple(one.call for one in reply.calls)))
            pending.append((number, chat, reply.calls))
        _run(pending, toolbox, most_calls, report)
        active, asked = [], []
        for number, chat, _ in pending:
            ids = _next_prompt(model, chat, schemas)
            if ids is not None:
                active.append((number, chat))
                asked.append(ids)
    return [
        ChatTranscript(
            one.text,
            tuple(one.calls),
            tuple(one.turns[one.before :]),
            one.tokens,
            one.finish_reason,
            one.problem,
        )
        for one in chats
    ]


def _run(
    pending: Sequence[tuple[int, _Chat, tuple[WrittenCall, ...]]],
    toolbox: Toolbox,
    most_calls: int,
    report: Callable[[int, ChatCall], None] | None,
) -> None:
    """Run the calls of all conversations in one batch, and append their results."""
    inputs: list[tuple[int, _Chat, ToolCall, str | ToolError]] = []
    for number, chat, written in pending:
        for place, one in enumerate(written, start=len(chat.calls) + 1):
            too_many = ToolError(f"at most {most_calls} calls are made") if place > most_calls else None
            inputs.append((number, chat, one.call, too_many or _input(one, toolbox)))
    found = iter(
        toolbox.call_all(
            [
                (call.name, given, chat.context)
                for _, chat, call, given in inputs
                if not isinstance(given, ToolError)
            ]
        )
    )
    for number, chat, call, given in inputs:
        result = given if isinstance(given, ToolError) else next(found)
        made = (
            ChatCall(call, problem=result.reason) if isinstance(result, ToolError) else ChatCall(call, result)
        )
        chat.calls.append(made)
        chat.turns.append(ToolResult(call.name, made.result or f"Error: {made.problem}"))
        if report:
            report(number, made)


def _input(written: WrittenCall, toolbox: Toolbox) -> str | ToolError:
    if written.problem:
        return ToolError(written.problem)
    tool = toolbox.get(written.call.name)
    # The toolbox knows what to answer about a tool that it does not have.
    return call_input(tool, written.call.arguments) if tool else ""


def _next_prompt(model: LanguageModel, chat: _Chat, schemas: Sequence[dict[str, object]]) -> list[int] | None:
    """Return the token ids of the conversation with its results; None, with the reason in `chat`, if it ends here."""
    (ids,) = model.encode_prompts([stored(chat.turns, schemas)])
    if isinstance(ids, RefusedPrompt):
        chat.problem = ids.problem
        return None
    if len(ids) >= positions(model):
        chat.problem, chat.finish_reason = "the results of the calls leave no room in the model", "length"
        return None
    return ids
