"""Check lengths against the context of the model, and the strings that end completions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.paths import fields_of
from selfimprove_dagster.experiment.sections import ModelSection, Section
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model.folder import model_folder, positions_of
from selfimprove_dagster.language_model.prompting import prompting_of
from selfimprove_dagster.readiness.finding import Finding


def check_stops(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each empty stop string."""
    stops = {f"prompts.stop.{name}": strings for name, strings in experiment.prompts.stop.items()}
    for where, owner, name in fields_of(experiment):
        if name == "stop" and owner is not experiment.prompts:
            stops[where] = getattr(owner, name) or []
    for where, strings in stops.items():
        if "" in strings:
            yield Finding(f"{where} has an empty string, which ends every completion at once; remove it")


def check_lengths(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each limit of new tokens that exceeds a model's context; a warning for `max_length`."""
    for where, owner, name in fields_of(experiment):
        value = getattr(owner, name)
        if not isinstance(value, int):
            continue
        if name.endswith(("max_tokens", "max_call_tokens", "reasoning_tokens")):
            room = min(context_of(section) for section in _writers(experiment, where, owner))
            if value >= room:
                yield Finding(
                    f"{where} is {value:,}, but prompt and completion together have {room:,} tokens in the model's "
                    f"context; set it below {room:,}, with room for the prompt"
                )
        elif name == "max_length" and name in owner.model_fields_set and owner is not experiment.model.vllm:
            positions = sys.maxsize if experiment.model.is_provided else _positions(experiment.model)
            if value > positions:
                yield Finding(
                    f"{where} is {value:,}, but the model has {positions:,} positions: longer examples are left out",
                    is_warning=True,
                )


def _writers(experiment: Experiment, where: str, owner: Section) -> Sequence[ModelSection]:
    """Return the models that write as many tokens as the field `where` of the section `owner` allows."""
    named = getattr(owner, "model", None)
    if isinstance(named, ModelSection):
        return [named]
    if experiment.teacher is None or where.startswith("evaluation."):
        return [experiment.model]
    return [experiment.teacher]


def check_asks(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each prompt that has no room for its item, or whose demonstrations a stop string ends."""
    generator = experiment.teacher or experiment.model
    asks = None if generator.is_provided else registry.method(experiment.method).asks
    for ask in asks(experiment, registry.prompts(experiment, generator)) if asks else ():
        (length,) = _lengths(generator, [ask.prompt])
        room = context_of(generator)
        if length >= room:
            yield Finding(
                f"the prompt for {ask.field} has {length:,} tokens before any question, but the model's context has "
                f"{room:,}; show fewer or shorter demonstrations"
            )
        elif length + ask.max_tokens > room:
            yield Finding(
                f"the prompt for {ask.field} has {length:,} tokens before any question, so that {ask.max_tokens:,} "
                f"more do not fit into the model's context of {room:,}: long completions are cut off",
                is_warning=True,
            )
        for stop in filter(None, ask.stop):
            if ended := [text for text in ask.shown if stop in text]:
                yield Finding(
                    f"the stop string {stop!r} of the prompt for {ask.field} is in {len(ended):,} of its "
                    f"{len(ask.shown):,} demonstrations: completions that follow them would end there; remove it, or "
                    "change the demonstrations"
                )


def context_of(section: ModelSection) -> int:
    """Return how many tokens prompt and completion may have together with the section's engine, as far as known."""
    if section.is_provided:
        return sys.maxsize
    positions = _positions(section)
    if section.engine == "vllm" and section.vllm.max_length is not None:
        return min(section.vllm.max_length, positions)
    return positions


def _positions(section: ModelSection) -> int:
    folder = model_folder(section.path, trust_remote_code=section.trust_remote_code)
    return _positions_of(folder, section.trust_remote_code)


@lru_cache(maxsize=16)
def _positions_of(folder: Path, trust_remote_code: bool) -> int:
    return positions_of(folder, trust_remote_code=trust_remote_code)


def _lengths(section: ModelSection, prompts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each prompt as the section's model reads it."""
    from selfimprove_dagster.language_model.tokens import TokenText

    folder = model_folder(section.path, trust_remote_code=section.trust_remote_code)
    text = TokenText(folder, trust_remote_code=section.trust_remote_code)
    text.prompting = prompting_of(**section.prompting_options())
    return [len(ids) for ids in text.encode_prompts(prompts)]
