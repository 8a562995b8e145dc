"""`selfimprove generate`: a model writes, with tools, or refining what it wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from selfimprove_dagster.cli.console import console
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Refining, Task, Trajectory
from selfimprove_dagster.families.refining.ways import STOPS, WAYS
from selfimprove_dagster.text import plain


def generate(
    prompts: Annotated[list[str], typer.Argument(help="What the model goes on with, greedily.")],
    model: Annotated[str, typer.Option(help="Model folder or hub name, or `embedded`.")] = "embedded",
    tools: Annotated[
        str,
        typer.Option(
            help="Tools that it may call, by commas: Calculator, Calendar, WikiSearch, QA, MT, or a class of "
            "your own as `my_tools.py:Weather`."
        ),
    ] = "",
    most_calls: Annotated[int, typer.Option(min=1, help="Calls a prompt, at most.")] = 1,
    likeliest: Annotated[
        int, typer.Option(min=1, help="A call opens when its token is among so many of the likeliest.")
    ] = 10,
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day that Calendar tells.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="JSON Lines or Parquet of title and text for WikiSearch.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest text in tokens, calls not counted.")] = 128,
    improve: Annotated[
        str,
        typer.Option(
            help="Let it refine its answers: self-refine, reflexion or pit; `embedded` is the dialogue model."
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Most new answers of a prompt, with --improve.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="JSON Lines of all that is said on the way, with --improve.")
    ] = None,
) -> None:
    """Let a model write, and call tools while it writes (Toolformer, section 4.2) or refine what it wrote."""
    if improve and tools:
        raise ExperimentError("--improve refines answers without tools: leave --tools away, or --improve")
    if out and not improve:
        raise ExperimentError("--out keeps the rounds of --improve: name a way to improve, or leave it away")
    if improve:
        refine_prompts(prompts, model, improve, rounds, max_tokens, out)
        return
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import open_language_model
    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.tools.base import Context
    from selfimprove_dagster.tools.registry import open_tools
    from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA
    from selfimprove_dagster.tools.writing import generate_with_tools, opening_token

    opened = open_language_model(str(embedded.BASE_MODEL) if model == "embedded" else model)
    names = [name.strip() for name in tools.split(",") if name.strip()]
    parameters = SamplingParameters(temperature=0.0, max_tokens=max_tokens, stop=("\n\n",))
    toolbox = open_tools(names, model=opened, corpus=corpus or ENCYCLOPAEDIA)
    with closing(opened), closing(toolbox):
        transcripts = generate_with_tools(
            opened,
            prompts,
            toolbox,
            opening=opening_token(opened),
            contexts=[Context(date.date() if date else None)] * len(prompts),
            parameters=parameters,
            likeliest=likeliest,
            most_calls=most_calls if names else 0,
        )
    for prompt, transcript in zip(prompts, transcripts, strict=True):
        console.print(plain(prompt + transcript.text, len(prompt) + len(transcript.text) + 1), markup=False)
        for call in transcript.calls:
            told = call.problem or "called"
            console.print(
                f"  call at {call.position}: {plain(call.written, 200)}: {plain(told, 200)}", markup=False
            )


def refine_prompts(
    prompts: Sequence[str], model: str, way: str, rounds: int, max_tokens: int, out: Path | None
) -> None:
    """Answer the prompts greedily and refine the answers; print all that is said, and write it to `out`.

    Raises ExperimentError for an unknown way, and where `out` cannot be written, and ModelError.
    """
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import open_language_model

    known = way.replace("-", "_")
    if known not in WAYS:
        named = ", ".join(one.replace("_", "-") for one in WAYS)
        raise ExperimentError(f"there is no way {way!r} to improve an answer: use one of {named}")
    opened = open_language_model(str(embedded.DIALOGUE_MODEL) if model == "embedded" else model)
    try:
        # Before the model works: what it says shall not be lost for want of a folder.
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


def _print(one: Trajectory) -> None:
    console.print(plain(one.task.prompt, len(one.task.prompt)), markup=False, style="bold")
    for step in one.steps:
        said = step.text.strip() or step.error or ""
        if step.score is not None:
            said = f"{step.score:.0%} sure that it is fine"
        cost = f"({step.tokens_in:,} tokens read, {step.tokens_out:,} drawn)"
        console.print(f"  {step.round} {step.kind}: {plain(said, len(said) + 1)}  {cost}", markup=False)
    read, drawn = one.tokens_after(one.last_round)
    console.print(
        f"  stopped after {read + drawn:,} tokens: {plain(one.error or STOPS[one.stopped], 400)}",
        markup=False,
    )
