"""Constitutions: principles from a YAML file, by which a model criticises, revises and compares.

name: mine
principles:
  - name: honest
    critique: Say what in the last response is not true.
    revision: Write the response again with true statements alone.
    comparison: Which response is more honest?
    rating: How honest is the response?          # for direct RLAIF
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.sections import Section
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.lots import seed_of

HOUSEHOLD = Path(__file__).parent / "constitutions" / "household.yaml"
"""The constitution that ships: sixteen principles of our own words."""


class Principle(Section):
    """One principle, as requests and questions in the words that the model reads."""

    name: str = Field(min_length=1, description="by which records name it")
    critique: str = Field(min_length=1, description="asks for a critique of the last response")
    revision: str = Field(min_length=1, description="asks for a revision after that critique")
    comparison: str = Field(min_length=1, description="asks which of two responses is better")
    rating: str = Field(min_length=1, description="asks how good one response is, from 1 to 10")


class Constitution(Section):
    """Principles of one file."""

    name: str = Field(min_length=1, description="by which people know it")
    principles: tuple[Principle, ...] = Field(min_length=1, description="at least one")

    @model_validator(mode="after")
    def _names_differ(self) -> Constitution:
        names = [principle.name for principle in self.principles]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"principles must have different names; twice: {', '.join(sorted(twice))}")
        return self

    @property
    def hash(self) -> str:
        """Of all that it says: part of every activity that heeds it."""
        return content_hash(self.model_dump(mode="json"))

    def __getitem__(self, name: str) -> Principle:
        return next(principle for principle in self.principles if principle.name == name)


def load_constitution(path: str | Path) -> Constitution:
    """Read and validate a file. Raises ExperimentError naming file, principle and what is missing."""
    path = Path(path)
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"there is no constitution {path}; write one, or name another") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExperimentError(f"{path} is not YAML that can be read: {error}") from None
    try:
        return Constitution.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(
            f"  {'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()
        )
        raise ExperimentError(f"{path} is no constitution:\n{lines}") from None


def choose_principle(names: Sequence[str], *drawn_for: str | int) -> str:
    """One of the names, each equally likely.

    It follows from the seed and whatever else it is drawn for (the prompt, the round), not from the order of the names.
    """
    return min(names, key=lambda name: seed_of(*drawn_for, name))
