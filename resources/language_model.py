"""Provide the language model as a Dagster resource, opened for one step and then released."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.opening import opening_options
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel, Scores, check_can


class LanguageModelResource(dg.ConfigurableResource):
    """Opens models with the engine and options of an experiment."""

    device: str = Field(
        default="", description="device that overrides the experiment's; empty for no override"
    )

    def options(self, section: ModelSection, path: str | Path | None = None) -> dict[str, Any]:
        """Return the arguments of `open_language_model`, besides the path, with the device of this resource."""
        return opening_options(section, path, self.device)

    def placed(self, experiment: Experiment) -> Experiment:
        """Return the experiment with the device of this resource as that of its model."""
        if not self.device:
            return experiment
        model = experiment.model.model_copy(update={"device": self.device})
        return experiment.model_copy(update={"model": model})

    @contextmanager
    def open(
        self, section: ModelSection, path: str | Path | None = None, scores: Scores = False
    ) -> Iterator[LanguageModel]:
        """Open the model at `path` (default: the section's own model) and close it at the end.

        Raises ModelError if the engine cannot do what `scores` says.
        """
        options = opening_options(section, path, self.device, in_batches=True)
        model = open_language_model(path or section.path, **options)
        try:
            check_can(model, scores)
            yield model
        finally:
            model.close()
