"""`selfimprove generate`: a model writes text, calls tools, or refines its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfimprove_dagster.cli.console import console
from selfimprove_dagster.conversation import Message, stored, written
from selfimprove_dagster.errors import ExperimentError, ModelError
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Refining, Task, Trajectory
from selfimprove_dagster.families.refining.ways import STOPS, WAYS
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.text import plain, readable
from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.chat import MOST_CALLS, ChatCall, chat_with_tools

if TYPE_CHECKING:
    from selfimprove_dagster.tools.writing import Transcript


def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(
            help="Prompts that the model completes, or questions that a chat model answers, decoded greedily."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Model folder, Hugging Face Hub name, or `embedded`.")
    ] = "embedded",
    template: Annotated[
        Path | None, typer.Option(help="File with a chat template, instead of that of the model.")
    ] = None,
    tools: Annotated[
        str,
        typer.Option(
            help="Tools that it may call inside its text, as Toolformer does, separated by commas: Calculator, "
            "Calendar, WikiSearch, QA, MT, or a class of your own such as `my_tools.py:Weather`."
        ),
    ] = "",
    tool: Annotated[
        list[str] | None,
        typer.Option(
            help="A tool that a chat model may call in the format of its chat template; repeat it for more."
        ),
    ] = None,
    most_calls: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of calls per prompt (1 in a text, 8 in a chat).")
    ] = None,
    likeliest: Annotated[
        int,
        typer.Option(min=1, help="A call starts when its opening token is among the k most likely (top-k)."),
    ] = 10,
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The date that Calendar returns.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="JSON Lines or Parquet file with title and text for WikiSearch.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of new tokens, not counting calls.")
    ] = 128,
    improve: Annotated[
        str,
        typer.Option(
            help="Refine the answers by self-refine, reflexion or pit; `embedded` is then the dialogue model."
        ),
    ] = "",
    rounds: Annotated[
        int, typer.Option(min=1, help="Maximum number of refinements per prompt, with --improve.")
    ] = 4,
    regex: Annotated[
        str | None, typer.Option(help="Regular expression that each whole text must match.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="JSON file with a JSON schema that each text must match.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every step to this JSON Lines file, with --improve.")
    ] = None,
) -> None:
    """Generate text with a model, with tool calls (in the text as in Toolformer, section 4.2, or in chat) or refined
    answers.
    """
    if improve and (tools or tool):
        raise ExperimentError("--improve refines answers without tools: omit either the tools or --improve")
    if tools and tool:
        raise ExperimentError(
            "--tools are called in a text and --tool in the chat format of a model: omit one of them"
        )
    if out and not improve:
        raise ExperimentError("--out records the steps of --improve: add --improve, or omit --out")
    structure = _structure(regex, json_schema)
    if structure and (tools or tool or improve):
        raise ExperimentError(
            "--regex and --json-schema hold for texts that are generated at once: omit the tools and --improve"
        )
    if improve:
        refine_prompts(prompts, model, improve, rounds, max_tokens, out, template)
        return
    if tool:
        context = Context(date.date() if date else None)
        chat_about(prompts, model, tool, context, corpus, max_tokens, most_calls or MOST_CALLS, template)
        return
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import open_language_model
    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.tools.registry import open_tools
    from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA
    from selfimprove_dagster.tools.writing import Transcript, begun, generate_with_tools, opening_token

    path = str(embedded.BASE_MODEL) if model == "embedded" else model
    opened = open_language_model(path, prompting=_prompting(path, template))
    chat = opened.prompting.chat
    if chat:
        asked = opened.encode_prompts([stored([Message("user", prompt)]) for prompt in prompts])
    else:
        asked = [begun(opened, prompt) for prompt in prompts]
    names = [name.strip() for name in tools.split(",") if name.strip()]
    stop = () if chat or structure else ("\n\n",)
    parameters = SamplingParameters(temperature=0.0, max_tokens=max_tokens, stop=stop, structure=structure)
    toolbox = open_tools(names, model=opened, corpus=corpus or ENCYCLOPAEDIA)
    with closing(opened), closing(toolbox):
        if names:
            transcripts = generate_with_tools(
                opened,
                asked,
                toolbox,
                opening=opening_token(opened),
                contexts=[Context(date.date() if date else None)] * len(prompts),
                parameters=parameters,
                likeliest=likeliest,
                most_calls=most_calls or 1,
            )
        else:
            transcripts = [
                Transcript(drawn.text, (), tuple(drawn.token_ids), drawn.finish_reason, drawn.problem)
                for (drawn,) in opened.generate(asked, [[0]] * len(asked), parameters)
            ]
    for prompt, transcript in zip(prompts, transcripts, strict=True):
        text = f"{prompt}\n\n{transcript.text}" if chat else prompt + transcript.text
        console.print(readable(text), markup=False)
        if transcript.problem:
            console.print(f"  {plain(transcript.problem, 400)}", markup=False)
        elif not transcript.text.strip():
            console.print(f"  {_empty(len(transcript.token_ids), transcript.finish_reason)}", markup=False)
        for call in transcript.calls:
            outcome = call.problem or "called"
            console.print(
                f"  call at {call.position}: {plain(call.written, 200)}: {plain(outcome, 200)}", markup=False
            )
    if structure:
        _check_matches(structure, transcripts)


def _structure(regex: str | None, json_schema: Path | None) -> Structure | None:
    """Return the structure of the options. Raises ExperimentError if it is wrong, or both are given."""
    if regex is None and json_schema is None:
        return None
    if regex is not None and json_schema is not None:
        raise ExperimentError("give either --regex or --json-schema")
    try:
        structure = Structure.read(json_schema) if json_schema is not None else Structure(regex=regex)
        structure.check()
    except ValueError as error:
        raise ExperimentError(f"{'--regex' if json_schema is None else '--json-schema'}: {error}") from None
    return structure


def _check_matches(structure: Structure, transcripts: Sequence[Transcript]) -> None:
    """Raise ModelError that names the texts which do not match the structure."""
    problems = [
        f"text {number}, finish reason {one.finish_reason}: {problem}"
        for number, one in enumerate(transcripts, 1)
        if (problem := structure.mismatch(one.text))
    ]
    if problems:
        raise ModelError(
            f"{len(problems)} of {len(transcripts)} texts do not match {structure} ({'; '.join(problems)}): raise "
            "--max-tokens if they were truncated. A JSON schema ends sooner with bounds on texts and numbers, and with "
            "additionalProperties: false"
        )


def chat_about(
    prompts: Sequence[str],
    model: str,
    names: Sequence[str],
    context: Context,
    corpus: Path | None,
    max_tokens: int,
    most_calls: int,
    template: Path | None = None,
) -> None:
    """Let a chat model answer the prompts greedily with tools; print every call with its result, then the answers.

    Names of built-in tools may be in lower case. Raises ExperimentError for an unknown tool, and ModelError for a model
    without a chat format for tools.
    """
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import open_language_model
    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.tools.registry import BUILT_IN, open_tools
    from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA

    path = str(embedded.BASE_MODEL) if model == "embedded" else model
    known = {name.lower(): name for name in BUILT_IN}
    opened = open_language_model(path, prompting=_prompting(path, template))
    with (
        closing(opened),
        closing(
            open_tools(
                [known.get(name.lower(), name) for name in names],
                model=opened,
                corpus=corpus or ENCYCLOPAEDIA,
            )
        ) as toolbox,
    ):
        answers = chat_with_tools(
            opened,
            [stored([Message("user", prompt)]) for prompt in prompts],
            toolbox,
            contexts=[context] * len(prompts),
            parameters=SamplingParameters(temperature=0.0, max_tokens=max_tokens),
            most_calls=most_calls,
            report=lambda number, call: _print_call(prompts[number], call),
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        console.print(readable(f"{prompt}\n\n{answer.text}"), markup=False)
        if not answer.text.strip():
            console.print(f"  {_empty(answer.tokens, answer.finish_reason)}", markup=False)
        if answer.problem:
            console.print(f"  stopped: {plain(answer.problem, 400)}", markup=False)


def _print_call(prompt: str, made: ChatCall) -> None:
    outcome = made.result if made.problem is None else f"error: {made.problem}"
    said = f"{plain(written(made.call), 200)} → {plain(outcome or '', 200)}"
    console.print(f"  {plain(prompt, 40)}: {said}", markup=False)


def refine_prompts(
    prompts: Sequence[str],
    model: str,
    way: str,
    rounds: int,
    max_tokens: int,
    out: Path | None,
    template: Path | None = None,
) -> None:
    """Answer the prompts greedily and refine the answers; print every step and write it to `out`.

    Raises ExperimentError if the strategy `way` is unknown or `out` cannot be written, and ModelError.
    """
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import open_language_model

    known = way.replace("-", "_")
    if known not in WAYS:
        named = ", ".join(one.replace("_", "-") for one in WAYS)
        raise ExperimentError(f"--improve {way!r} is unknown: use one of {named}")
    path = str(embedded.DIALOGUE_MODEL) if model == "embedded" else model
    opened = open_language_model(path, prompting=_prompting(path, template))
    try:
        # Opened before the model runs: its output must not be lost because of a missing folder.
        kept = out.open("w", encoding="utf-8", errors="replace") if out else nullcontext()
    except OSError as error:
        raise ExperimentError(f"--out {out} cannot be written: {error.strerror}; name another file") from None
    with closing(opened), kept as file:
        tasks = [Task(str(number), prompt) for number, prompt in enumerate(prompts)]
        refined = improve(opened, tasks, known, Refining(rounds=rounds, max_tokens=max_tokens))
        for one in refined:
            _print(one)
        if file:
            lines = [{"task": one.task.prompt, **step} for one in refined for step in one.to_json()]
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            console.print(f"{len(lines):,} steps written to {plain(str(out), 200)}", markup=False)


def _prompting(path: str, template: Path | None) -> dict[str, str]:
    """Return the arguments of `prompting_of`."""
    return {"path": path, **({"template": str(template)} if template else {})}


def _empty(tokens: int, finish_reason: str | None) -> str:
    """Describe a completion without text."""
    return f"empty completion: no text in {tokens:,} tokens, finish reason {finish_reason or 'none'}"


def _print(one: Trajectory) -> None:
    console.print(plain(one.task.prompt, len(one.task.prompt)), markup=False, style="bold")
    for step in one.steps:
        said = step.text.strip() or step.error or _empty(step.tokens_out, step.finish_reason)
        if step.score is not None:
            said = f"{step.score:.0%} confident that the answer is good"
        cost = f"({step.tokens_in:,} tokens read, {step.tokens_out:,} generated)"
        console.print(f"  {step.round} {step.kind}: {plain(said, len(said) + 1)}  {cost}", markup=False)
    read, drawn = one.tokens_after(one.last_round)
    console.print(
        f"  stopped after {read + drawn:,} tokens: {plain(one.error or STOPS[one.stopped], 400)}",
        markup=False,
    )
