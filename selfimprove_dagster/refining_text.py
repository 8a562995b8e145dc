"""`selfimprove generate --improve`: answers that a model refines before one's eyes, every round kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from selfimprove_dagster.console import console
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.methods.refinement import STOPS, WAYS
from selfimprove_dagster.refining import improve
from selfimprove_dagster.text import plain
from selfimprove_dagster.trajectories import Refining, Task, Trajectory


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
