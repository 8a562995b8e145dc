"""Echo: what the model says after some words, in capitals; the long shouts are grouped by their first letter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from echo_method.stages import STAGES
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import Section
from selfimprove_dagster.method import Method, Yield


class SayingSection(Section):
    """How the model goes on after a word."""

    temperature: float = Field(1.0, ge=0, description="temperature of sampling")
    max_tokens: int = Field(4, ge=1, description="tokens that the model adds")


class EchoExperiment(Experiment):
    """The settings of an experiment with echo."""

    ends_with = "kept"
    method: Literal["echo"] = Field("echo", description="the self-improvement method")
    words: tuple[str, ...] = Field(min_length=1, description="the prompts, each used once")
    saying: SayingSection = SayingSection()
    least_length: int = Field(ge=1, description="shorter shouts are dropped")


_MODEL = {"model": {"path": "embedded"}}

METHOD = Method(
    name="echo",
    title="Shouts that are long enough are kept",
    experiment=EchoExperiment,
    presets={
        "paper": Preset({**_MODEL, "least_length": 12}, ()),
        "practical": Preset({**_MODEL, "least_length": 14}, ("shouts of 12 and 13 characters are dropped",)),
    },
    stages=STAGES,
    embedded={("model", "path"): BASE_MODEL},
    counts={"sayings": "said", "kept": "kept"},
    yields=Yield("shouted", "kept", ("shouts", "groups")),
)
"""said → shouted → kept, which is many to one: the long shouts by their first letter."""
