"""Adaptive-Consistency against the full vote: paths saved, and what that costs in accuracy.

    SELFIMPROVE_DATA=… python benchmarks/adaptive_sampling.py [--seeds 0 1 2] [--draws FOLDER]

An adaptive vote draws the first paths of the full vote and stops, so each full vote is drawn once and the
stopping rules are tried on its prefixes, for every step. Two sources:

- **demo**: held-out questions of the embedded model, paths drawn from the base model as the demo draws them;
- **recorded**: the four recorded solutions of each question of `gsm8k/model_solutions.jsonl` (two fine-tuned
  models, each with and without a verifier). A path is one of the four, drawn with replacement. Of two in
  five questions several answers lead equally: their vote is a matter of chance, whatever is drawn.

Where answers are as likely, a vote that stops early may turn out otherwise and be as good: accuracy goes up
and down by a point or two from one sample to the next, as it does between two full votes. So what a rule
costs is a mean over many samples, with its standard error: of the demo, the paths of each seed in many orders
(any is as likely; the error is that of the orders alone); of the recorded solutions, a new draw each.
`--draws` keeps the demo's paths for the next run.

Then, with `--rounds`, the pipeline draws the demo's questions with `sampling.adaptive` switched
on, for every step at the default confidence: the paths must be exactly those foretold, and the time is
compared with that of the full draw. The runs take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl

from selfimprove_dagster.answers.answers import extract_answer, extract_answers
from selfimprove_dagster.answers.canonical import answers_agree
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.families.voting.voting import vote
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.methods.lmsi.adaptive import is_settled
from selfimprove_dagster.methods.lmsi.sampling import generate_paths
from selfimprove_dagster.methods.lmsi.settings import AdaptiveSection
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS
from selfimprove_dagster.seeds.files import read_questions

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "adaptive_sampling.md"
RULES = ((0.9, None), (0.95, None), (0.99, None), (0.95, 0.02), (0.95, 0.025), (0.95, 0.03), (0.95, 0.05))
"""Confidence and least gain; the paper's are 0.95 and none."""
STEPS, MOST = (1, 2, 4, 8), (40, 32, 16)
"""The paper's are 1 and 40."""
SHOWN = ((0.95, None), (0.95, 0.025))
Rule = tuple[float, float | None]
agree = cache(answers_agree)
POINTS, SHARE = 0.005, 0.5
"""What is asked for: accuracy within half a point of the full vote's with at most half of its paths."""


Ballots = Sequence[Sequence[str | None]]
"""The answers of each question's full vote, in order of drawing."""


@dataclass(frozen=True)
class Replayed:
    """One sample's adaptive vote against its full vote; all are shares of 1."""

    full: float
    adaptive: float
    paths: float
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
    settled = experiment.model_copy(update={"seed": seed, "sampling": section})
    activity = Activity("lmsi/raw_generations", partition_of(experiment.name, 0), "1", {}, seed)
    with tempfile.TemporaryDirectory() as folder:
        lake, began, worked = Lake(folder), time.perf_counter(), time.process_time()
        with lake.writer(RAW_GENERATIONS, activity) as writer:
            generate_paths(writer, model, questions, settled)
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


def ballots_of(paths: pl.DataFrame) -> list[list[str | None]]:
    """Each question's answers. Asserts that their first-come majority is what the pipeline votes."""
    ballots = paths.group_by("question_id", maintain_order=True).agg("answer")["answer"].to_list()
    assert vote(paths)["voted_answer"].to_list() == [majority(tuple(answers)) for answers in ballots]
    return ballots


@cache
def majority(answers: tuple[str | None, ...]) -> str | None:
    """The answer with the most votes, of equal ones the first to appear."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def stop_after(answers: Sequence[str | None], rule: Rule, step: int) -> int:
    """How many paths the pipeline draws of a question whose full vote is `answers`."""
    leads, most = leads_of(tuple(answers)), len(answers)
    return next((n for n in range(step, most, step) if is_settled(*leads[n], most - n, *rule)), most)


@cache
def leads_of(answers: tuple[str | None, ...]) -> list[tuple[int, int]]:
    """The votes of the two leading answers among the first 0, 1, 2, … of them."""
    votes: Counter[str] = Counter()
    leads = [(0, 0)]
    for answer in answers:
        if answer is not None:
            votes[answer] += 1
        first, second, *_ = [*(count for _, count in votes.most_common(2)), 0, 0]
        leads.append((first, second))
    return leads


def replay(ballots: Ballots, expected: Sequence[str], rule: Rule, step: int) -> Replayed:
    """The adaptive vote over prefixes of the ballots, against the vote over all."""
    stops = [stop_after(answers, rule, step) for answers in ballots]
    full = [majority(tuple(answers)) for answers in ballots]
    adaptive = [majority(tuple(answers[:stop])) for answers, stop in zip(ballots, stops, strict=True)]
    return Replayed(
        *(statistics.mean(map(agree, voted, expected)) for voted in (full, adaptive)),
        paths=sum(stops) / sum(map(len, ballots)),
        changed=statistics.mean(map(operator.ne, full, adaptive)),
    )


def table(samples: Sequence[Ballots], expected: Sequence[str]) -> list[str]:
    """Which settings hold, and a row a setting: means over the samples, the difference with its error."""
    holding: list[str] = []
    lines = [
        "| m | confidence | least gain | step | paths drawn | full vote | adaptive | difference (points) "
        "| of one sample | votes changed | holds |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---|",
    ]
    for most in MOST:
        prefixes = [[answers[:most] for answers in ballots] for ballots in samples]
        for rule in RULES:
            for step in STEPS:
                found = [replay(ballots, expected, rule, step) for ballots in prefixes]
                mean = {name: statistics.mean(getattr(one, name) for one in found) for name in vars(found[0])}
                changes = [100 * one.difference for one in found]
                change, error = statistics.mean(changes), statistics.stdev(changes) / len(changes) ** 0.5
                holds = change >= -100 * POINTS and mean["paths"] <= SHARE
                confidence, least_gain = rule
                if holds:
                    gain = "" if least_gain is None else f", least gain {least_gain}"
                    holding.append(f"m {most}, confidence {confidence}{gain}, step {step}")
                lines.append(
                    f"| {most} | {confidence} | {least_gain or '–'} | {step} | {mean['paths']:.1%} "
                    f"| {mean['full']:.2%} | {mean['adaptive']:.2%} | {change:+.2f} ± {error:.2f} "
                    f"| {min(changes):+.2f} to {max(changes):+.2f} | {mean['changed']:.1%} "
                    f"| {'yes' if holds else 'no'} |"
                )
    return [f"Settings that hold: {' | '.join(holding) or 'none'}.", "", *lines]


def spending(samples: Sequence[Ballots], expected: Sequence[str], answers: Ballots) -> list[str]:
    """A row a rule and kind of question, by how its recorded answers lie: where paths and accuracy go."""
    most, step = max(MOST), 1
    kinds = [agreement(known) for known in answers]
    lines = [
        "| confidence | least gain | recorded answers | questions | paths drawn | full vote | adaptive |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for rule in SHOWN:
        for kind in ("all equal", "one leads", "several lead"):
            here = [at for at, found in enumerate(kinds) if found == kind]
            found = [
                replay([ballots[at] for at in here], [expected[at] for at in here], rule, step)
                for ballots in samples
            ]
            drawn, full, adaptive = (
                statistics.mean(getattr(one, name) for one in found) for name in ("paths", "full", "adaptive")
            )
            lines.append(
                f"| {rule[0]} | {rule[1] or '–'} | {kind} | {len(here)} | {drawn:.1%} | {full:.2%} "
                f"| {adaptive:.2%} |"
            )
    return [f"Where the paths go (m {most}, step {step}):", "", *lines]


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
        row["question_id"]: stop_after(row["answer"], (section.confidence, section.least_gain), section.step)
        for row in ballots.iter_rows(named=True)
    }
    keys = ["question_id", "sample_index", "text_key"]
    foretold = full.filter(pl.col("sample_index") < pl.col("question_id").replace_strict(stops))
    assert paths.select(keys).sort(keys).equals(foretold.select(keys).sort(keys)), "other paths than foretold"


def main() -> None:
    parser = argparse.ArgumentParser(description="Adaptive-Consistency against the full vote.")
    parser.add_argument("--questions", type=int, default=600, help="held-out questions of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the demo's paths")
    parser.add_argument("--samples", type=int, default=30, help="votes of each question, of either source")
    parser.add_argument("--rounds", type=int, default=2, help="of the pipeline's own draws")
    parser.add_argument("--draws", type=Path, help="folder that keeps the demo's paths")
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
    most, drawn = max(MOST), []
    for seed in options.seeds:
        kept = options.draws / f"demo_{seed}.parquet" if options.draws else None
        if kept is not None and kept.is_file():
            drawn.append(pl.read_parquet(kept))
            continue
        drawn.append(draw(model, demo, questions, seed, most)[0])
        if kept is not None:
            drawn[-1].write_parquet(kept)
    lot = random.Random(0)
    ballots = [ballots_of(paths) for paths in drawn]
    orders = [
        [lot.sample(answers, most) for answers in ballots[at % len(ballots)]] for at in range(options.samples)
    ]
    pipeline = through_the_pipeline(model, demo, questions, options.rounds) if options.rounds else []
    real, answers = recorded(data / "gsm8k" / "model_solutions.jsonl")
    resampled = [[lot.choices(known, k=most) for known in answers] for _ in range(options.samples)]
    lines = [
        "# Adaptive-Consistency against the full vote",
        "",
        f"`python benchmarks/adaptive_sampling.py --questions {len(questions)} --seeds "
        f"{' '.join(map(str, options.seeds))} --samples {options.samples} --rounds {options.rounds}`",
        "",
        f"Means over {options.samples} samples of all questions, the difference with its standard error and "
        "with the least and most of one sample. A setting holds where the vote is within half a point of the "
        "full vote's accuracy with at most half of its paths. m: paths of the full vote. Without a least "
        "gain the rule is the paper's.",
        "",
        f"## The demo's questions: {len(questions):,} held out, the embedded model at temperature "
        f"{demo.sampling.temperature}",
        "",
        f"The paths of {len(options.seeds)} seeds, each in {options.samples // len(options.seeds)} orders or "
        "so.",
        "",
        *table(orders, questions["expected"].to_list()),
        "",
    ]
    if pipeline:
        lines += [
            f"Through the pipeline, at most {demo.sampling.paths} paths, confidence "
            f"{AdaptiveSection().confidence} (every path is one that the replay foretells; median of "
            f"{options.rounds} rounds):",
            "",
            *pipeline,
            "",
        ]
    lines += [
        f"## Recorded solutions: {len(real):,} questions of GSM8K, each path one of four recorded solutions",
        "",
        *table(resampled, real["expected"].to_list()),
        "",
        *spending(resampled, real["expected"].to_list(), answers),
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
