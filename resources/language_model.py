"""The language model as a Dagster resource: opened for a step, its memory freed when the step ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import LanguageModel, check_scores


class LanguageModelResource(dg.ConfigurableResource):
    """Opens models with the engine and options of an experiment."""

    device: str = Field(default="", description="overrides the experiment's device when not empty")

    @contextmanager
    def open(
        self, section: ModelSection, path: str | Path | None = None, scores: bool = False
    ) -> Iterator[LanguageModel]:
        """The model at `path` (default: the experiment's base model), closed on leaving.

        `scores`: the method needs log-probabilities of given texts. Raises ModelError where the engine
        has none.
        """
        options = section.engine_options()
        if self.device and "device" in options:
            options["device"] = self.device
        model = open_language_model(path or section.path, **options)
        try:
            if scores:
                check_scores(model)
            yield model
        finally:
            model.close()
