"""Adaptive-Consistency against the full vote: paths saved, and what that costs in accuracy.

    SELFIMPROVE_DATA=… python benchmarks/adaptive_sampling.py [--questions 600] [--seeds 0 1 2]

An adaptive vote draws the first paths of the full vote and stops, so each full vote is drawn once and the
stopping rule is tried on its prefixes, for every confidence and step. Two sources:

- **demo**: held-out questions of the embedded model, paths drawn from the base model as the demo draws them;
- **recorded**: the four recorded solutions of each question of `gsm8k/model_solutions.jsonl` (two fine-tuned
  models, each with and without a verifier). A path is one of the four, drawn with replacement. Of two in
  five questions several answers lead equally: their vote is a matter of chance, however many paths are drawn.

A seed draws all paths anew. Then the pipeline draws the demo's questions with `sampling.adaptive` switched
on, for every step at the default confidence: the paths must be exactly those foretold, and the time is
compared with that of the full draw. The runs take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.experiment import Experiment
from selfimprove_dagster.generation import generate_paths, sampling_parameters
from selfimprove_dagster.home import Home
from selfimprove_dagster.lake import Lake, partition_of
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.methods.adaptive import is_decided
from selfimprove_dagster.methods.answers import answers_agree, extract_answer, extract_answers
from selfimprove_dagster.methods.voting import vote
from selfimprove_dagster.question_files import read_questions
from selfimprove_dagster.records import Activity
from selfimprove_dagster.sections import AdaptiveSection

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "adaptive_sampling.md"
CONFIDENCES, STEPS, MOST = (0.8, 0.9, 0.95, 0.99), (1, 2, 4, 8), (40, 32, 16)
"""The paper's are 0.95, 1 and 40."""
POINTS, SHARE = 0.005, 0.5
"""What is asked for: accuracy within half a point of the full vote's with at most half of its paths."""


@dataclass(frozen=True)
class Replayed:
    """One seed's adaptive vote against its full vote; all are shares of 1."""

    full: float
    adaptive: float
    paths: float
    tokens: float
    changed: float

    @property
    def difference(self) -> float:
        return self.adaptive - self.full


def draw(
    model: LanguageModel, experiment: Experiment, questions: pl.DataFrame, seed: int, most: int
) -> tuple[pl.DataFrame, float, float]:
    """Paths from the pipeline's own generation, at most `most` a question; seconds of wall and of processor.

    Columns `question_id, path_id, sample_index, answer, text_key, tokens`.
    """
    section = experiment.sampling.model_copy(update={"paths": most})
    activity = Activity("lmsi/raw_generations", partition_of(experiment.name, 0), "1", {}, seed)
    with tempfile.TemporaryDirectory() as folder:
        lake, began, worked = Lake(folder), time.perf_counter(), time.process_time()
        with lake.writer(tables.RAW_GENERATIONS, activity) as writer:
            generate_paths(
                writer,
                model,
                questions.select("id", "question"),
                section,
                sampling_parameters(section, improved=False),
                (),
                seeds_from=(seed, 0),
                log=lambda line: None,
            )
            manifest = writer.commit()
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        paths = lake.read_ungated(manifest)
    columns = paths.select(
        "question_id",
        "sample_index",
        path_id="id",
        answer=extract_answers(paths["text"]),
        text_key="text",
        tokens=pl.col("token_ids").list.len(),
    )
    return columns, seconds, processor


def recorded(file: Path) -> tuple[pl.DataFrame, list[list[str | None]]]:
    """Questions (`id, question, expected`) and the answers of the solutions recorded of each."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    solutions = [[value["solution"] for value in row.values() if isinstance(value, dict)] for row in rows]
    questions = pl.DataFrame(
        {
            "id": [str(at) for at in range(len(rows))],
            "question": [row["question"] for row in rows],
            "expected": [extract_answer(row["ground_truth"]) for row in rows],
        }
    )
    return questions, [extract_answers(pl.Series(texts)).to_list() for texts in solutions]


def resample(answers: Sequence[Sequence[str | None]], seed: int, most: int) -> pl.DataFrame:
    """The columns of `draw`, each path one of the question's recorded answers; a path counts as a token."""
    lot = random.Random(seed)
    drawn = [
        (str(at), sample, f"{at}/{sample}", lot.choice(known), "", 1)
        for at, known in enumerate(answers)
        for sample in range(most)
    ]
    columns = ["question_id", "sample_index", "path_id", "answer", "text_key", "tokens"]
    return pl.DataFrame(drawn, schema=columns, orient="row", infer_schema_length=None)


def stop_after(answers: list[str | None], confidence: float, step: int) -> int:
    """How many paths the pipeline draws of a question whose full vote is `answers`."""
    stops = range(step, len(answers), step)
    return next((n for n in stops if is_decided(answers[:n], len(answers), confidence)), len(answers))


def replay(paths: pl.DataFrame, questions: pl.DataFrame, confidence: float, step: int) -> Replayed:
    """The adaptive vote over prefixes of the paths, against the vote over all."""
    ballots = paths.group_by("question_id", maintain_order=True).agg("answer")
    drawn = ballots.with_columns(
        drawn=pl.Series([stop_after(answers, confidence, step) for answers in ballots["answer"].to_list()])
    )
    kept = paths.join(drawn.select("question_id", "drawn"), on="question_id", maintain_order="left").filter(
        pl.col("sample_index") < pl.col("drawn")
    )
    expected = questions.select(question_id="id", expected="expected")
    full, adaptive = (
        vote(part)
        .select("question_id", "voted_answer")
        .join(expected, on="question_id", maintain_order="left")
        for part in (paths, kept)
    )
    return Replayed(
        *(
            statistics.mean(map(answers_agree, part["voted_answer"], part["expected"]))
            for part in (full, adaptive)
        ),
        paths=kept.height / paths.height,
        tokens=kept["tokens"].sum() / paths["tokens"].sum(),
        changed=float((full["voted_answer"].ne_missing(adaptive["voted_answer"])).mean() or 0.0),
    )


def table(draws: Sequence[pl.DataFrame], questions: pl.DataFrame, *, tokens: bool) -> list[str]:
    """Which settings hold, and a row a setting: means over the seeds, the difference with its range."""
    holding: dict[str, list[str]] = {"every seed": [], "the mean of the seeds alone": []}
    lines = [
        "| m | confidence | step | paths drawn | tokens | full vote | adaptive | difference (points) | votes "
        "changed | holds |",
        "|---:|---:|---:|---:|---:|---:|---:|---|---:|---|",
    ]
    for most in MOST:
        prefixes = [paths.filter(pl.col("sample_index") < most) for paths in draws]
        for confidence in CONFIDENCES:
            for step in STEPS:
                seeds = [replay(paths, questions, confidence, step) for paths in prefixes]
                mean = {
                    name: statistics.mean(getattr(seed, name) for seed in seeds) for name in vars(seeds[0])
                }
                changes = [100 * seed.difference for seed in seeds]
                within = [seed.difference >= -POINTS - 1e-9 and seed.paths <= SHARE for seed in seeds]
                setting = f"m {most}, confidence {confidence}, step {step}"
                if all(within):
                    holding["every seed"].append(setting)
                elif statistics.mean(changes) >= -100 * POINTS - 1e-9 and mean["paths"] <= SHARE:
                    holding["the mean of the seeds alone"].append(setting)
                spent = f"{mean['tokens']:.1%}" if tokens else "–"
                lines.append(
                    f"| {most} | {confidence} | {step} | {mean['paths']:.1%} | {spent} | {mean['full']:.2%} "
                    f"| {mean['adaptive']:.2%} | {statistics.mean(changes):+.2f} "
                    f"[{min(changes):+.2f}, {max(changes):+.2f}] | {mean['changed']:.1%} | "
                    f"{'yes' if all(within) else f'{sum(within)} of {len(within)} seeds'} |"
                )
    verdict = "; ".join(f"in {where}: {' | '.join(found) or 'none'}" for where, found in holding.items())
    return [f"Settings that hold, {verdict}.", "", *lines]


def spending(
    draws: Sequence[pl.DataFrame], questions: pl.DataFrame, answers: Sequence[Sequence[str | None]]
) -> list[str]:
    """A row a kind of question, by how its recorded answers lie: where the paths go and accuracy is lost."""
    most, confidence, step = max(MOST), 0.95, 1
    kinds = pl.Series([agreement(known) for known in answers])
    lines = [
        "| recorded answers | questions | paths drawn | share of all drawn | full vote | adaptive |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    whole = [replay(paths, questions, confidence, step) for paths in draws]
    for kind in ("all equal", "one leads", "several lead"):
        part = questions.filter(kinds == kind)
        seeds = [
            replay(paths.filter(pl.col("question_id").is_in(part["id"].to_list())), part, confidence, step)
            for paths in draws
        ]
        drawn, full, adaptive = (
            statistics.mean(getattr(seed, name) for seed in seeds) for name in ("paths", "full", "adaptive")
        )
        share = drawn * len(part) / len(questions) / statistics.mean(seed.paths for seed in whole)
        lines.append(f"| {kind} | {len(part)} | {drawn:.1%} | {share:.1%} | {full:.2%} | {adaptive:.2%} |")
    return [
        f"Where the paths go (m {most}, confidence {confidence}, step {step}). A vote between answers that "
        "are equally likely is not decided, and nothing is won by drawing on:",
        "",
        *lines,
    ]


def agreement(answers: Sequence[str | None]) -> str:
    """How the recorded answers of a question lie: all equal, one leads, several lead."""
    counts = sorted(Counter(answer for answer in answers if answer is not None).values(), reverse=True)
    if len(counts) < 2:
        return "all equal"
    return "one leads" if counts[0] > counts[1] else "several lead"


def through_the_pipeline(
    model: LanguageModel, demo: Experiment, questions: pl.DataFrame, rounds: int
) -> list[str]:
    """A row a step: paths, tokens and seconds of the pipeline's own adaptive draw, and of the full one."""
    sections = [None, *(AdaptiveSection(step=step) for step in STEPS)]
    seconds: dict[int, list[tuple[float, float]]] = {at: [] for at in range(len(sections))}
    drawn: list[pl.DataFrame] = [pl.DataFrame()] * len(sections)
    for _ in range(rounds):
        for at, section in enumerate(sections):
            sampling = demo.sampling.model_copy(update={"adaptive": section})
            experiment = demo.model_copy(update={"sampling": sampling})
            drawn[at], *took = draw(model, experiment, questions, demo.seed, demo.sampling.paths)
            seconds[at].append((took[0], took[1]))
    full = drawn[0]
    base = [statistics.median(column) for column in zip(*seconds[0], strict=True)]
    lines = [
        "| drawn | paths | tokens | seconds | saved | processor seconds | saved |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for at, (section, paths) in enumerate(zip(sections, drawn, strict=True)):
        if section is not None:
            _assert_foretold(paths, full, section)
        wall, processor = (statistics.median(column) for column in zip(*seconds[at], strict=True))
        lines.append(
            f"| {f'adaptive, step {section.step}' if section else 'all'} | {len(paths):,} "
            f"| {paths['tokens'].sum():,} | {wall:.1f} | {1 - wall / base[0]:.0%} | {processor:.1f} "
            f"| {1 - processor / base[1]:.0%} |"
        )
    return lines


def _assert_foretold(paths: pl.DataFrame, full: pl.DataFrame, section: AdaptiveSection) -> None:
    ballots = full.group_by("question_id", maintain_order=True).agg("answer")
    stops = {
        row["question_id"]: stop_after(row["answer"], section.confidence, section.step)
        for row in ballots.iter_rows(named=True)
    }
    keys = ["question_id", "sample_index", "text_key"]
    foretold = full.filter(pl.col("sample_index") < pl.col("question_id").replace_strict(stops))
    assert paths.select(keys).sort(keys).equals(foretold.select(keys).sort(keys)), "other paths than foretold"


def main() -> None:
    parser = argparse.ArgumentParser(description="Adaptive-Consistency against the full vote.")
    parser.add_argument("--questions", type=int, default=600, help="held-out questions of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="of the pipeline's own draws")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = Path(os.environ.get("SELFIMPROVE_DATA", ROOT.parent / "shared" / "data"))
    demo = Home(Path(), ROOT / "experiments").experiment("demo")
    held_out = read_questions(demo.evaluation)[0][: options.questions]
    questions = pl.DataFrame(
        {
            "id": [str(at) for at in range(len(held_out))],
            "question": [question.question for question in held_out],
            "expected": [question.answer for question in held_out],
        }
    )
    model = open_language_model(demo.model.path, **demo.model.engine_options())
    draws = [draw(model, demo, questions, seed, max(MOST))[0] for seed in options.seeds]
    pipeline = through_the_pipeline(model, demo, questions, options.rounds)
    real, answers = recorded(data / "gsm8k" / "model_solutions.jsonl")
    resampled = [resample(answers, seed, max(MOST)) for seed in options.seeds]
    lines = [
        "# Adaptive-Consistency against the full vote",
        "",
        f"`python benchmarks/adaptive_sampling.py --questions {len(questions)} --seeds "
        f"{' '.join(map(str, options.seeds))}`",
        "",
        f"Means over {len(options.seeds)} seeds, the difference with its least and most. A setting holds "
        "where in every seed the vote is within half a point of the full vote's accuracy with at most "
        "half of its paths. m: paths of the full vote.",
        "",
        f"## The demo's questions: {len(questions):,} held out, the embedded model at temperature "
        f"{demo.sampling.temperature}",
        "",
        *table(draws, questions, tokens=True),
        "",
        f"Through the pipeline, at most {demo.sampling.paths} paths, confidence "
        f"{AdaptiveSection().confidence} (every path is one that the replay foretells; median of "
        f"{options.rounds} rounds):",
        "",
        *pipeline,
        "",
        f"## Recorded solutions: {len(real):,} questions of GSM8K, each path one of four recorded solutions",
        "",
        *table(resampled, real, tokens=False),
        "",
        *spending(resampled, real, answers),
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
