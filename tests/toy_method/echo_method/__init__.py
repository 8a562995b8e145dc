"""Echo: the words of an experiment in capitals, the long ones grouped by first letter. It calls no model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from echo_method.stages import STAGES
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.method import Method, Yield


class EchoExperiment(Experiment):
    """The settings of an experiment with echo."""

    ends_with = "kept"
    method: Literal["echo"] = Field("echo", description="the self-improvement method")
    words: tuple[str, ...] = Field(min_length=1, description="what is said")
    least_length: int = Field(ge=1, description="shorter words are dropped")


_MODEL = {"model": {"path": "embedded"}}

METHOD = Method(
    name="echo",
    title="Words that are loud enough are kept",
    experiment=EchoExperiment,
    presets={
        "paper": Preset({**_MODEL, "least_length": 3}, ()),
        "practical": Preset({**_MODEL, "least_length": 4}, ("words of three letters are dropped",)),
    },
    stages=STAGES,
    counts={"words": "said", "kept": "kept"},
    yields=Yield("shouted", "kept", ("shouts", "groups")),
)
