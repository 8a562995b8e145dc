"""Generate text with tool calls at positions where a call is likely (Toolformer, 2302.04761, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import (
    FinishReason,
    Generation,
    LanguageModel,
    SamplingParameters,
    positions,
)
from selfimprove_dagster.tools.base import Context, ToolError
from selfimprove_dagster.tools.calls import ARROW, CALL_STOPS, CLOSING, OPENING, Call, read_call
from selfimprove_dagster.tools.toolbox import Toolbox

LIKELIEST = 10
"""A call starts if its opening token is among the k most likely ones (section 4.2)."""


def opening_token(model: LanguageModel) -> int:
    """Return the token that opens a call: ` [` if the tokenizer has it, as in the paper, else `[`."""
    for opening in (f" {OPENING}", OPENING):
        ids = model.encode_continuation(opening)
        if len(ids) == 1:
            return ids[0]
    raise ModelError(
        f"the tokenizer has no single token for {OPENING!r}: another model is needed for Toolformer"
    )


@dataclass(frozen=True)
class MadeCall:
    """A call that the model opened, before the character `position` of the transcript's text.

    `call` is None if the written text is not a call, and has no result if the tool gave none; `problem` is
    the reason. The text contains only calls with a result.
    """

    position: int
    written: str
    call: Call | None
    problem: str | None = None


@dataclass(frozen=True)
class Transcript:
    """The continuation of a prompt, including calls and their results; `problem` is that of its last part."""

    text: str
    calls: tuple[MadeCall, ...]
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    problem: str | None = None


@dataclass
class _Writing:
    """An unfinished transcript: `ids` are the prompt and the final tokens, `draft` is a possible
    continuation, and `openings` are the indices in the draft at which calls may start.
    """

    ids: list[int]
    begin: int
    context: Context
    draft: Generation | None = None
    openings: list[int] = field(default_factory=list)
    calls: list[MadeCall] = field(default_factory=list)
    own_tokens: int = 0

    @property
    def drafted(self) -> Generation:
        assert self.draft
        return self.draft


def generate_with_tools(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    toolbox: Toolbox,
    *,
    opening: int,
    contexts: Sequence[Context] | None = None,
    parameters: SamplingParameters | None = None,
    likeliest: int = LIKELIEST,
    most_calls: int = 1,
    most_call_tokens: int = 96,
) -> list[Transcript]:
    """Return one greedy continuation with tool calls per prompt, given as token ids (section 4.2).

    A call starts at the first position at which `opening` is among the `likeliest` most likely tokens. The
    model writes it up to `→`, the tool runs, and generation continues after the result. A call that cannot be
    parsed or gives no result is left out, and the text continues as if it had not been opened. At most
    `most_calls` calls are opened per prompt, including these. `contexts[i]` belongs to the document of
    `prompts[i]`. Of `parameters`, max_tokens (not counting calls) and stop are used. A transcript ends when
    it fills the model's context, and a call is left out if there is no room after its result. Raises
    ModelError like the model's `among_likeliest`.
    """
    greedy = without_calls(parameters or SamplingParameters(), opening)
    asking = SamplingParameters(temperature=0.0, max_tokens=most_call_tokens, stop=CALL_STOPS)
    writings = [
        _Writing(list(ids), len(ids), context)
        for ids, context in zip(prompts, contexts or [Context()] * len(prompts), strict=True)
    ]
    active = writings
    while active:
        fresh = [writing for writing in active if writing.draft is None]
        _draft(model, fresh, greedy)
        _find_openings(model, [one for one in fresh if len(one.calls) < most_calls], opening, likeliest)
        active = [writing for writing in active if writing.openings and len(writing.calls) < most_calls]
        steps = [writing.openings.pop(0) for writing in active]
        calling = [
            [*writing.ids, *writing.drafted.token_ids[:step], opening]
            for writing, step in zip(active, steps, strict=True)
        ]
        drawn = model.generate(calling, [[0]] * len(calling), asking)
        for writing, step, ids, (written,) in zip(active, steps, calling, drawn, strict=True):
            _make_call(model, writing, step, ids, written.text, toolbox)
    return [_transcript(model, writing, greedy.stop) for writing in writings]


def without_calls(parameters: SamplingParameters, opening: int) -> SamplingParameters:
    """Return greedy parameters that ban the opening token, i.e. the paper's model with disabled calls."""
    return replace(parameters, temperature=0.0, top_p=1.0, top_k=0, banned=(opening,))


def _draft(model: LanguageModel, writings: Sequence[_Writing], greedy: SamplingParameters) -> None:
    """Let the model finish the texts without calls, each within its remaining tokens.

    A prompt that fills the model's context is not continued.
    """
    by_room: dict[int, list[_Writing]] = {}
    for writing in writings:
        if len(writing.ids) >= (most := positions(model)):
            problem = f"the prompt has {len(writing.ids):,} tokens, and the model has {most:,} positions"
            full = Generation.without_text("too_long", problem)
            writing.draft = Generation([], [], "", "length") if writing.calls else full
            continue
        by_room.setdefault(greedy.max_tokens - writing.own_tokens, []).append(writing)
    for room, group in by_room.items():
        limited = replace(greedy, max_tokens=room)
        drawn = model.generate([writing.ids for writing in group], [[0]] * len(group), limited)
        for writing, (draft,) in zip(group, drawn, strict=True):
            writing.draft = draft


def _find_openings(model: LanguageModel, writings: Sequence[_Writing], opening: int, likeliest: int) -> None:
    """Find the positions in the drafts at which calls may start, i.e. with room after the opening token."""
    written = [writing for writing in writings if writing.drafted.token_ids]
    drafts = [one.drafted.token_ids[: positions(model) - len(one.ids) - 1] for one in written]
    found = model.among_likeliest([writing.ids for writing in written], drafts, opening, likeliest)
    for writing, among in zip(written, found, strict=True):
        writing.openings = [step for step, one in enumerate(among) if one]


def _make_call(
    model: LanguageModel, writing: _Writing, step: int, ids: list[int], written: str, toolbox: Toolbox
) -> None:
    """Run the call that was written after the opening token at a step of the draft; `ids` end with that token."""
    position = len(model.decode(ids[writing.begin : -1]))
    call = read_call(written, toolbox)
    if isinstance(call, str):
        writing.calls.append(MadeCall(position, written, None, call))
        return
    result = toolbox.call(call.tool, call.arguments, writing.context)
    if isinstance(result, ToolError):
        writing.calls.append(MadeCall(position, written, call, result.reason))
        return
    inserted = model.encode_continuation(f"{call.tool}({call.arguments}) {ARROW} {result}{CLOSING}")
    if len(ids) + len(inserted) >= positions(model):
        writing.calls.append(MadeCall(position, written, call, "its result leaves no room in the model"))
        return
    writing.calls.append(MadeCall(position, written, replace(call, result=result)))
    writing.ids = [*ids, *inserted]
    writing.own_tokens += step
    writing.draft, writing.openings = None, []


def _transcript(model: LanguageModel, writing: _Writing, stop: Sequence[str]) -> Transcript:
    settled = writing.ids[writing.begin :]
    token_ids = (*settled, *writing.drafted.token_ids)
    text = model.decode(token_ids)
    after = len(model.decode(settled))
    ends = [found for string in stop if (found := text.find(string, after)) >= 0]
    last = writing.drafted
    return Transcript(
        text[: min(ends, default=None)], tuple(writing.calls), token_ids, last.finish_reason, last.problem
    )


def begun(model: LanguageModel, text: str) -> list[int]:
    """Return the token ids of a text at the start of a sequence; for an empty text, the end-of-sequence token."""
    return model.encode(text) or [model.end_token_id]
