"""Sampling and voting, end to end: this pipeline beside distilabel 1.5.

    python benchmarks/distilabel/compare.py --distilabel ENVIRONMENT/bin/python [--questions 100] [--rounds 2]

Both draw n paths of each question from the embedded model with the same prompt, temperature and limit, read
the answers out of them and leave the majority vote of each question on the disk. Measured from the start of
the process to its end. `results/distilabel.md` says how to make distilabel's environment.

distilabel runs three times: as it comes, with two sizes of its steps' batches (inside, transformers' pipeline
gets one prompt after the other, for distilabel has no setting for it), and with that pipeline's batch raised
by hand. The contenders take turns, and the median of the rounds counts. Ours also writes lineage and runs the
quality checks of its three stages, which the other has none of.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from selfimprove_dagster import registry
from selfimprove_dagster.answers.canonical import answers_agree
from selfimprove_dagster.embedded import BASE_MODEL, EVALUATION
from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.quality.suites import checks_of

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "distilabel.md"
CONTENDERS = {
    "this pipeline": None,
    "distilabel, steps of 25": (25, 1),
    "distilabel, steps of 50": (50, 1),
    "distilabel, steps of 50, its transformers pipeline in batches of 16 (patched)": (50, 16),
}
"""Rows of a step's batch, and prompts of a batch inside it."""
EXPERIMENT = """\
name: vote
preset: practical
model: {{path: embedded}}
seeds: {{file: {folder}/questions.jsonl, licence: Apache-2.0}}
evaluation: {{file: embedded, rows: "{questions}:"}}
sampling: {{questions: {questions}, paths: {samples}}}
"""
ENVIRONMENT = """\
distilabel's environment:

    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install torch==2.13.0
    ENVIRONMENT/bin/pip install distilabel==1.5.3 transformers==5.23.0 requests
"""


def run_once(
    python: str, sizes: tuple[int, int] | None, questions: list[dict[str, Any]], samples: int
) -> tuple[dict[str, float], float]:
    """Seconds of start, load, generation and the rest, and the accuracy of the vote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({"question": row["question"]}) for row in questions]
        (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "vote.yaml").write_text(
            EXPERIMENT.format(folder=folder, questions=len(questions), samples=samples)
        )
        sampling = Home(folder, folder).experiment("vote").sampling
        prompts = load_prompts([PROMPTS], TEXT)
        job = {
            "out": name,
            "model": str(BASE_MODEL),
            "prompts": [prompts.ask("zero_shot_cot", question=row["question"]) for row in questions],
            "samples": samples,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "input_batch": sizes[0] if sizes else None,
            "pipeline_batch": sizes[1] if sizes else None,
        }
        surroundings = {
            "SELFIMPROVE_HOME": f"{name}/home",
            "SELFIMPROVE_EXPERIMENTS": name,
            "DAGSTER_HOME": f"{name}/home/dagster",
            "HF_HUB_OFFLINE": "1",
        }
        began = time.time()
        (folder / "job.json").write_text(json.dumps({**job, "began": began}))
        script = HERE / ("distilabel_side.py" if sizes else "this_side.py")
        with (folder / "log.txt").open("w") as log:
            code = subprocess.run(
                [python if sizes else sys.executable, script, folder / "job.json"],
                env={**os.environ, **surroundings},
                stdout=log,
                stderr=log,
                check=False,
            ).returncode
        wall = time.time() - began
        if code:
            raise SystemExit((folder / "log.txt").read_text()[-5_000:])
        seconds: dict[str, float] = defaultdict(float)
        for line in (folder / "seconds.jsonl").read_text().splitlines():
            for what, took in json.loads(line).items():
                seconds[what] += took
        votes = json.loads((folder / "votes.json").read_text())
    correct = [answers_agree(vote, row["answer"]) for vote, row in zip(votes, questions, strict=True)]
    return {**seconds, "rest": wall - sum(seconds.values()), "wall": wall}, statistics.mean(correct)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling and voting beside distilabel.")
    parser.add_argument("--distilabel", required=True, help="Python of an environment that has distilabel")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    questions = [json.loads(line) for line in EVALUATION.read_text().splitlines()[: options.questions]]
    load = os.getloadavg()[0]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    accuracy: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, sizes in CONTENDERS.items():
            seconds, accuracy[name] = run_once(options.distilabel, sizes, questions, options.samples)
            taken[name].append(seconds)
            print(f"{name}: {seconds['wall']:.1f} s", flush=True)
    medians = {
        name: {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        for name, runs in taken.items()
    }
    own = medians["this pipeline"]
    checks = sum(
        len(checks_of(registry.table(f"lmsi/{stage}")))
        for stage in ("seed_pool", "raw_generations", "voted_answers")
    )
    lines = [
        "# Sampling and voting beside distilabel",
        "",
        f"`python benchmarks/distilabel/compare.py --distilabel … --questions {options.questions} "
        f"--samples {options.samples} --rounds {options.rounds}`",
        "",
        "| | start to end | against this pipeline | start, imports | load (with its imports) | generation "
        "| the rest | accuracy of the vote |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, median in medians.items():
        parts = [f"{median[part]:.1f}" for part in ("start", "load", "generate", "rest")]
        rounds = ", ".join(f"{run['wall']:.1f}" for run in taken[name])
        ratio = median["wall"] / own["wall"]
        lines.append(
            f"| {name} | {median['wall']:.1f} s ({rounds}) | {ratio:.2f}× | {' | '.join(parts)} "
            f"| {accuracy[name]:.0%} |"
        )
    lines += [
        "",
        f"{options.questions} questions × {options.samples} paths, embedded model, float32; median of "
        f"{options.rounds} rounds in turn. Python {platform.python_version()}, {os.cpu_count()} cores, load "
        f"average {load:.1f} before it. The rest of this pipeline: Dagster, {len(questions):,} votes, the "
        f"lake, its lineage and {checks} quality checks; of distilabel: its processes, queues and distiset.",
        "",
        ENVIRONMENT,
    ]
    text = "\n".join(lines)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
