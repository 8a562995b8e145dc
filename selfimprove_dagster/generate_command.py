"""`selfimprove generate`: a model writes, with tools, or refining what it wrote."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from selfimprove_dagster.console import console
from selfimprove_dagster.errors import ExperimentError
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
        from selfimprove_dagster.refining_text import refine_prompts

        refine_prompts(prompts, model, improve, rounds, max_tokens, out)
        return
    from selfimprove_dagster import embedded
    from selfimprove_dagster.language_model import SamplingParameters, open_language_model
    from selfimprove_dagster.tool_use import generate_with_tools, opening_token
    from selfimprove_dagster.tools import Context, open_tools
    from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA

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
