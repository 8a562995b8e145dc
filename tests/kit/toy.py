"""A method of two stages that no room of the package knows, to test what is generic."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment, SeededExperiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import FilePath, ModelPath, Section
from selfimprove_dagster.method import Method, Stage
from selfimprove_dagster.seeds.kind import QUESTIONS, Seeds
from selfimprove_dagster.seeds.settings import QuestionFile
from selfimprove_dagster.table import TEXT, Table


class VerseSection(Section):
    """What verses are made of."""

    file: FilePath | None = None
    files: tuple[FilePath, ...] = ()
    critics: dict[str, Critic] = Field(default_factory=dict)


class Critic(Section):
    """A model that reads verses."""

    path: ModelPath


class ToyExperiment(Experiment):
    """Verses, then the best of them."""

    ends_with = "best"
    method: Literal["toy"] = Field(description="the method")
    verses: VerseSection = VerseSection()


VERSES = Table("toy/verses", "tverse", content={"text": TEXT}, noun="verse")
BEST = Table("toy/best", "tbest", content={"text": TEXT}, noun="best verse")


def _unused(context: Any) -> Any:
    raise AssertionError("nothing runs it")


TOY = Method(
    name="toy",
    experiment=ToyExperiment,
    presets={name: Preset({}, (f"{name} departs from nothing",)) for name in ("paper", "practical")},
    stages=[Stage([VERSES], _unused), Stage([BEST], _unused, after=["verses"])],
)


class SeededToyExperiment(ToyExperiment, SeededExperiment):
    """Verses about questions."""

    seeds: QuestionFile


POOL = Table("toy/seed_pool", "tpool", content={"question": TEXT})

SEEDED_TOY = Method(
    name="toy",
    experiment=SeededToyExperiment,
    presets=TOY.presets,
    stages=[Stage([POOL], _unused), *TOY.stages],
    seeds=Seeds(QUESTIONS, POOL, count=lambda experiment: 1),
)


def _installed(method: Method[Any], monkeypatch: pytest.MonkeyPatch) -> Method[Any]:
    """The method, found by the registry beside the shipped ones."""
    method.check()
    known = {**registry.methods(), method.name: method}
    tables = {**registry.tables(), **method.tables}
    monkeypatch.setattr(registry, "methods", lambda: known)
    monkeypatch.setattr(registry, "tables", lambda: tables)
    monkeypatch.setattr(registry, "pipeline_order", lambda: {name: at for at, name in enumerate(tables)})
    return method


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Method[Any]:
    """A method of two stages, without seeds."""
    return _installed(TOY, monkeypatch)


@pytest.fixture
def seeded_toy(monkeypatch: pytest.MonkeyPatch) -> Method[Any]:
    """That method, with questions as its seeds."""
    return _installed(SEEDED_TOY, monkeypatch)
