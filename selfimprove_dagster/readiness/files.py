"""Check the files, models and prompts that an experiment names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfimprove_dagster import registry
from selfimprove_dagster.errors import SeedFileError, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.opening import models_of
from selfimprove_dagster.experiment.paths import paths_of
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.home.contamination import benchmark_problems
from selfimprove_dagster.home.exams import held_out
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model.adapters import ADAPTER_CONFIG
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.prompting import TRAINING
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.rules import Continue, next_turn
from selfimprove_dagster.readiness.finding import Finding
from selfimprove_dagster.rows import check_source, is_on_hub, read_plain_text
from selfimprove_dagster.seeds.general import check_general, left_out


def local_models(experiment: Experiment) -> list[ModelSection]:
    """Return the models of an experiment that have a folder on this machine."""
    return [one for one in models_of(experiment) if not one.is_provided]


def check_files(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each field that names a file that is missing."""
    for field, text, mark in paths_of(experiment):
        unused = experiment.taught_by is not None and field.startswith("seeds.")
        if mark.is_data and not unused:
            try:
                check_source(Path(text))
            except SelfImproveError as error:
                yield Finding(f"{field}: {error}")
        elif (
            not (mark.is_model or mark.is_code)
            and text != TRAINING
            and not unused
            and not Path(text).is_file()
        ):
            yield Finding(f"{field}: there is no file {text}; correct the path, or add the file")


def check_models(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each model and LoRA adapter that is missing, and for a champion without weights."""
    of_section = {one.path: one for one in models_of(experiment)}
    remote = {one.path for one in models_of(experiment)} - {one.path for one in local_models(experiment)}
    for field, text, mark in paths_of(experiment):
        if not mark.is_model or text in remote:
            continue
        if field.endswith("vllm.lora"):
            if not (Path(text) / ADAPTER_CONFIG).is_file():
                yield Finding(f"{field}: no {ADAPTER_CONFIG} in {text}; give the folder of a LoRA adapter")
            continue
        section = of_section.get(text, experiment.model)
        try:
            model_folder(text, trust_remote_code=section.trust_remote_code)
        except SelfImproveError as error:
            yield Finding(f"{field}: {error}")
    step = next_turn(home.lake, experiment)
    if isinstance(step, Continue) and step.method == experiment.method:
        champion = champion_before(home.lake, experiment, step.iteration)
        if champion.iteration is not None:
            try:
                model_folder(champion.path, trust_remote_code=experiment.model.trust_remote_code)
            except SelfImproveError as error:
                yield Finding(f"iteration {step.iteration} needs {champion.name}: {error}")


def check_prompts(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each model for which the prompts or its chat template are wrong."""
    for section in models_of(experiment):
        if section.template not in (None, TRAINING) and not Path(section.template).is_file():
            continue  # `check_files` reports it
        try:
            registry.prompts(experiment, section)
        except SelfImproveError as error:
            yield Finding(str(error))


def check_forgetting(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for a file against forgetting without a usable row or text, and a warning of unusable lines.

    A data set of the Hub is not read.
    """
    for field, text, _ in paths_of(experiment):
        path = Path(text)
        try:
            if field.endswith(".mix.file") and not is_on_hub(path):
                check_source(path)
                _, rejected = check_general(path)
                if rejected:
                    yield Finding(f"{field}: {left_out(path, rejected)}", is_warning=True)
            elif field.endswith(".perplexity.file") and path.is_file():
                read_plain_text(path)
        except SelfImproveError as error:
            yield Finding(f"{field}: {error}")


def check_benchmarks(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each benchmark of `decontamination` with a wrong field or an unreadable first row."""
    section = getattr(experiment, "decontamination", None)
    for benchmark in section.benchmarks if section else ():
        yield from map(Finding, benchmark_problems(benchmark))


def check_evaluation(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem if no line of the evaluation file can be asked, and a warning if some cannot."""
    file = getattr(getattr(experiment, "evaluation", None), "file", "")
    if registry.method(experiment.method).exam is None:
        return
    try:
        if file:
            check_source(Path(file))
    except SeedFileError:
        return  # `check_files` reports it
    questions, rejected = held_out(experiment)
    where = f"evaluation.file {file}" if file else "the evaluation"
    if not questions:
        reason = (
            f"; the first problem: line {rejected[0].source_line}: {rejected[0].reason}" if rejected else ""
        )
        yield Finding(
            f"{where}: no line is a held-out question of {experiment.method}{reason}; correct the file, since "
            "nothing could be compared after training"
        )
    elif rejected:
        first = rejected[0]
        yield Finding(
            f"{where}: {len(rejected):,} of {len(rejected) + len(questions):,} lines are rejected; the first: line "
            f"{first.source_line}: {first.reason}",
            is_warning=True,
        )
