"""Open the held-out evaluation of an experiment, which its method declares."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation.exam import OpenedExam, OpenModel
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import Question
from selfimprove_dagster.text import normalise_question


def open_exam(
    home: Home, experiment: Experiment, open_model: OpenModel, iteration: int | None = None
) -> OpenedExam:
    """Return the held-out evaluation of an experiment; see `Exams`.

    Raises ExperimentError if there is none.
    """
    exams = registry.method(experiment.method).exam
    if exams is None:
        raise ExperimentError(
            f"experiment {experiment.name}: the method {experiment.method} has no held-out evaluation; "
            "its own stages are the measurement: run it"
        )
    return exams.open(home, experiment, open_model, iteration)


def held_out(experiment: Experiment) -> tuple[Sequence[Question], Sequence[Rejected]]:
    """Return what an experiment holds out, and the rejected lines of its evaluation file, without reading the lake.

    Both are empty if it has no evaluation. Raises SeedFileError if the whole file cannot be read.
    """
    exams = registry.method(experiment.method).exam
    return exams.held_out(experiment) if exams else ((), ())


def held_out_questions(experiment: Experiment) -> Sequence[Question]:
    """Return what an experiment holds out, without reading the lake; empty if it has no evaluation."""
    return held_out(experiment)[0]


def held_out_keys(experiment: Experiment) -> set[str]:
    """Return the held-out questions after `normalise_question`. Two questions are equal if these are."""
    return {normalise_question(question.question) for question in held_out_questions(experiment)}
