"""What an iteration will take, forecast from a small pilot: tokens, time and disk.

The pilot draws real paths for real questions from the champion, first a few, then more, and trains some steps
on them. Paths cost less each while batches fill up: the time of a whole iteration lies between what one more
path costs and what a path of the pilot cost. Nothing is written into the lake.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.experiment.opening import opening_options
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, Spent, partition_of
from selfimprove_dagster.lake.records import Activity, build_records
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.estimate import affordable
from selfimprove_dagster.methods.lmsi.exam import QuestionExam
from selfimprove_dagster.methods.lmsi.sampling import (
    DemonstrationRecord,
    generate_paths,
    read_demonstrations,
    sampling_parameters,
)
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS
from selfimprove_dagster.seeds.files import read_questions
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.work.forecast import Forecast, Range, StageForecast

if TYPE_CHECKING:
    from selfimprove_dagster.training.settings import TrainingOutcome

_FEW, _MORE = 4, 16
"""Questions of the pilot's two parts; the few are among the more."""


_PATHS = 32


_STEPS = 5


_BYTES_BESIDE_A_PATH = 270
"""Score, decisions, share of a vote and of an example: ids and hashes, whatever the length of the path
(measured on the demo)."""


_BYTES_OF_AN_ANSWER = 80


_OTHER_TABLES = 7


_ADAM = 3
"""A save holds the weights and two moments of each, in float32."""


@dataclass(frozen=True)
class _Pilot:
    """`tokens` a path (95% interval of the mean), `seconds` a token, `bytes` a path and of a file without
    any, seconds of `opening` the model, and the paths.
    """

    tokens: Range
    seconds: Range
    bytes: float
    empty_file: int
    opening: float
    paths: pl.DataFrame


def estimate(
    lake: Lake, experiment: LmsiExperiment, iteration: int, fine_tune: Callable[..., TrainingOutcome]
) -> Forecast:
    """Run the pilot for `iteration` and forecast it. `fine_tune` trains as the trainer resource does."""
    section = experiment.sampling
    champion = champion_before(lake, experiment, iteration)
    shown = [
        DemonstrationRecord(f"demo:{number}", one.question, one.reasoning, one.answer)
        for number, one in enumerate(
            read_demonstrations(experiment.demonstrations.file, experiment.demonstrations.count)
        )
    ]
    exam = QuestionExam(
        experiment, read_questions(experiment.evaluation)[0], shown, registry.prompts(experiment)
    )
    questions = _questions(lake, experiment, iteration)
    with tempfile.TemporaryDirectory(prefix="selfimprove-pilot-") as folder:
        pilot = _draw(
            Lake(folder), experiment, champion.path, questions, shown, champion.iteration is not None
        )
        training = _train(Path(folder), experiment, champion.path, pilot, shown, fine_tune)
    paths = min(section.questions, len(questions)) * section.paths
    files = -(-section.questions // section.shard_questions) + _OTHER_TABLES
    examinees = 2 if champion.iteration is None else 3  # the base model too, where it is not the champion
    answers = exam.paths * (examinees if iteration == 0 else 1)
    disk = sum(file.stat().st_size for file in model_folder(champion.path).rglob("*") if file.is_file())
    opened = Range(pilot.opening, pilot.opening)
    generation = StageForecast(
        "generation",
        pilot.tokens * paths,
        _product(pilot.tokens, pilot.seconds) * paths + opened,
        paths * (pilot.bytes + _BYTES_BESIDE_A_PATH) + files * pilot.empty_file,
    )
    evaluation = StageForecast(
        "evaluation",
        pilot.tokens * answers,
        _product(pilot.tokens, pilot.seconds) * answers + opened * (examinees if iteration == 0 else 1),
        examinees * exam.paths * _BYTES_OF_AN_ANSWER,
    )
    stages = [generation, StageForecast("training", *training, disk, generates=False), evaluation]
    assumed = [
        f"{min(_MORE, len(questions))} questions with {min(section.paths, _PATHS)} paths each were drawn as "
        f"a pilot, and {_STEPS} steps trained on them; held-out answers are as long as these",
        "the lower time is that of full batches, the higher that of the pilot's small ones",
        "scores are read off what generation records and cost no model time; checks and Dagster come on top",
    ]
    if section.adaptive:
        assumed.append("sampling.adaptive stops early where a vote is decided: this is at most what is drawn")
    scratch = 2 * _ADAM * disk
    at_most = section.adaptive is not None
    whole = Forecast(iteration, stages, 0, "", scratch, assumed, at_most)
    iterations, limited_by = affordable(lake, experiment, whole.total)
    return replace(whole, iterations=iterations, limited_by=limited_by)


def _questions(lake: Lake, experiment: LmsiExperiment, iteration: int) -> pl.DataFrame:
    """Return all questions that the iteration may ask, in random order, with columns `id, question`."""
    if lake.manifests(SEEDS.name, experiment.name):
        return seeds.pool(lake, experiment, iteration).chosen.select("id", "question")
    texts = [one.question for one in read_questions(experiment.seeds)[0]]
    if not texts:
        raise SeedFileError(f"{experiment.seeds.file} holds no question that can be read; name another file")
    random.Random(experiment.seed).shuffle(texts)
    return pl.DataFrame({"id": [f"q:{number}" for number in range(len(texts))], "question": texts})


def _draw(
    lake: Lake,
    experiment: LmsiExperiment,
    path: str,
    questions: pl.DataFrame,
    shown: Sequence[DemonstrationRecord],
    improved: bool,
) -> _Pilot:
    """The pilot's paths, drawn as an iteration draws them, into a lake of their own."""
    started = time.monotonic()
    model = open_language_model(path, **opening_options(experiment.model, path))
    try:
        parameters = sampling_parameters(experiment.sampling, registry.prompts(experiment), improved=improved)
        model.generate([model.encode("Q:")], [[0]], parameters)  # what only the first call costs
        opening = time.monotonic() - started

        def part(number: int, asked: pl.DataFrame) -> tuple[Manifest, Spent]:
            return _part(lake, experiment, model, asked, shown, number, improved)

        _, spent_on_few = part(0, questions.head(_FEW))
        more, spent = part(1, questions.head(_MORE))
    finally:
        model.close()
    paths = lake.read_whole(more)
    lengths = paths.group_by("question_id").agg(pl.col("token_ids").list.len().mean())["token_ids"].to_list()
    mean = statistics.fmean(lengths)
    error = 2 * statistics.stdev(lengths) / len(lengths) ** 0.5 if len(lengths) > 1 else mean / 2
    average = spent.model_seconds / max(spent.tokens, 1)
    further = (spent.model_seconds - spent_on_few.model_seconds) / max(spent.tokens - spent_on_few.tokens, 1)
    empty_file = _bytes_of_nothing(lake)
    return _Pilot(
        Range(max(mean - error, 1.0), mean + error),
        Range(min(max(further, average / 10), average), average),
        (more.bytes - empty_file) / len(paths),
        empty_file,
        opening,
        paths.join(questions.rename({"id": "question_id"}), on="question_id"),
    )


def _part(
    lake: Lake,
    experiment: LmsiExperiment,
    model: LanguageModel,
    asked: pl.DataFrame,
    shown: Sequence[DemonstrationRecord],
    number: int,
    improved: bool,
) -> tuple[Manifest, Spent]:
    section = experiment.sampling
    few = {"paths": min(section.paths, _PATHS), "adaptive": None, "shard_questions": _MORE}
    pilot = experiment.model_copy(update={"sampling": section.model_copy(update=few)})
    activity = Activity(RAW_GENERATIONS.name, partition_of(experiment.name, number), "pilot", {}, 0)
    with lake.writer(RAW_GENERATIONS, activity) as writer:
        spent = generate_paths(writer, model, asked, pilot, improved=improved, demonstrations=shown)
        return writer.commit(), spent


def _bytes_of_nothing(lake: Lake) -> int:
    """Size of a file of paths without any."""
    activity = Activity(RAW_GENERATIONS.name, partition_of("empty", 0), "pilot", {}, 0)
    return lake.write(RAW_GENERATIONS, activity, build_records(RAW_GENERATIONS, [], activity)).bytes


def _train(
    folder: Path,
    experiment: LmsiExperiment,
    base: str,
    pilot: _Pilot,
    shown: Sequence[DemonstrationRecord],
    fine_tune: Callable[..., TrainingOutcome],
) -> tuple[Range, Range]:
    """Tokens and seconds of training, from a few steps on the pilot's paths."""
    from selfimprove_dagster.training.rows import write_rows
    from selfimprove_dagster.training.supervised import TokenisedExample
    from selfimprove_dagster.training.tokenising import tokenise_examples

    section, shares = experiment.training, experiment.training.format_shares
    draw = random.Random(experiment.seed)
    pairs, prompts = [], registry.prompts(experiment)
    for question, text in pilot.paths.select("question", "text").iter_rows():
        (name,) = draw.choices(list(shares), list(shares.values()))
        prompt = prompts.ask(name, question=question, demonstrations=shown)
        pairs.append((prompt, prompts.completion(name, text.strip(), answer="0")))
    few: dict[str, Any] = {"steps": _STEPS, "save_every": _STEPS}
    started = time.monotonic()
    rows = folder / "rows"
    write_rows(rows, TokenisedExample, tokenise_examples(base, pairs, prompts.prompting))
    outcome = fine_tune(
        experiment,
        section.model_copy(update=few),
        base,
        rows,
        folder / "trained",
        seed=experiment.seed,
    )
    fixed = max(time.monotonic() - started - outcome.seconds, 0.0)
    at = [entry["seconds"] for entry in outcome.log]
    steps = sorted(later - earlier for earlier, later in pairwise(at))
    return (
        Range(*[outcome.tokens / _STEPS * section.steps] * 2),
        Range(steps[0], steps[-1]) * section.steps + Range(fixed, fixed),
    )


def _product(one: Range, other: Range) -> Range:
    return Range(one.low * other.low, one.high * other.high)
