"""Tokens a second of `raw_generations` with the engine vllm, against plain `LLM.generate`.

    python benchmarks/vllm_pipeline.py --model FOLDER --questions FILE.jsonl [--paths 16] [--max-tokens 256]

Both draw the same number of paths of the same prompts from one engine. The plain side is what a script would
write: one call with `n` paths a prompt, nothing kept. The pipeline's side is its own generation: shards,
seeds and log-probabilities of every path, ids, and Parquet committed to a lake. The two take turns, each with
an empty prefix cache, and the medians of the rounds are compared; the pipeline may cost 3% at most.

For a machine with a GPU. On vLLM's CPU build it runs as a smoke test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from selfimprove_dagster.embedded import BASE_MODEL, EVALUATION
from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.language_model.vllm_engine import VllmLanguageModel
from selfimprove_dagster.methods.lmsi.sampling import generate_paths
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment, SamplingSection
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS
from selfimprove_dagster.prompts import load_prompts

RESULTS = Path(__file__).parent / "results" / "vllm_pipeline.md"
MOST_COST = 0.03


def plain(model: VllmLanguageModel, questions: pl.DataFrame, section: SamplingSection) -> tuple[int, float]:
    """Tokens and seconds of one call of vLLM."""
    from vllm import SamplingParams

    settings = SamplingParams(
        n=section.paths,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
        stop=list(section.stop),
    )
    began = time.perf_counter()
    forms = load_prompts([PROMPTS], TEXT)
    prompts = [
        model.encode(forms.ask(section.prompt_format, question=text)) for text in questions["question"]
    ]
    outputs = model._llm.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
    seconds = time.perf_counter() - began
    return sum(len(path.token_ids) for output in outputs for path in output.outputs), seconds


def pipeline(
    model: VllmLanguageModel, questions: pl.DataFrame, experiment: LmsiExperiment, seed: int
) -> tuple[int, float]:
    """Tokens and seconds of the pipeline's generation, its table committed."""
    activity = Activity(
        "lmsi/raw_generations", partition_of("vllm", 0), "1", {}, seed, model_id=model.model_id
    )
    seeded = experiment.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Lake(folder).writer(RAW_GENERATIONS, activity) as writer:
            spent = generate_paths(writer, model, questions, seeded)
            writer.commit()
        return spent.tokens, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="The pipeline's cost over plain LLM.generate.")
    parser.add_argument("--model", type=Path, default=BASE_MODEL)
    parser.add_argument("--questions", type=Path, default=EVALUATION, help="JSON Lines with a `question`")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--shard-questions", type=int, default=1000, help="each shard is one call of vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    asked = {
        "questions": options.prompts,
        "paths": options.paths,
        "max_tokens": options.max_tokens,
        "shard_questions": options.shard_questions,
    }
    experiment = parse_experiment(
        {
            "name": "vllm",
            "preset": "practical",
            "model": {"path": str(options.model)},
            "seeds": {"file": "embedded"},
            "evaluation": {"file": "embedded"},
            "sampling": asked,
        },
        folder=Path(),
    )
    assert isinstance(experiment, LmsiExperiment)
    section = experiment.sampling
    lines = options.questions.read_text().splitlines()[: options.prompts]
    questions = pl.DataFrame(
        {
            "id": [f"q:{at}" for at in range(len(lines))],
            "question": [json.loads(it)["question"] for it in lines],
        }
    )
    model = VllmLanguageModel(options.model)
    speeds: dict[str, list[float]] = {"plain": [], "pipeline": []}
    try:
        plain(model, questions.head(8), section)
        pipeline(model, questions.head(8), experiment, 0)
        for seed in range(options.rounds):
            for name in speeds:
                model._llm.reset_prefix_cache()
                tokens, seconds = (
                    plain(model, questions, section)
                    if name == "plain"
                    else pipeline(model, questions, experiment, seed)
                )
                speeds[name].append(tokens / seconds)
    finally:
        model.close()
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    cost = 1 - medians["pipeline"] / medians["plain"]
    report = [
        "# The pipeline over plain vLLM",
        "",
        f"`python {' '.join(sys.argv)}`",
        "",
        "| | tokens/s | rounds |",
        "|---|---:|---|",
        *(
            f"| {title} | {medians[name]:,.0f} | {', '.join(f'{value:,.0f}' for value in speeds[name])} |"
            for name, title in (("plain", "`LLM.generate`"), ("pipeline", "`raw_generations`"))
        ),
        "",
        f"The pipeline costs {cost:.1%}; {MOST_COST:.0%} at most is asked for. {model.engine}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores.",
    ]
    if model.engine.endswith("(cpu)"):
        report += [
            "",
            "A smoke test on vLLM's CPU build: it shows that the benchmark runs, and is no result.",
        ]
    text = "\n".join(report) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
