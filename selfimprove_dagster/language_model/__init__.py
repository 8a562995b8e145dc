"""Language models: one interface (`base.LanguageModel`), several engines behind it.

Importing this package loads no engine; `open_language_model` imports the one that is asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import (
    FinishReason,
    Generation,
    LanguageModel,
    Progress,
    SamplingParameters,
)

ENGINES: dict[str, str] = {
    "transformers": "selfimprove_dagster.language_model.transformers_engine:TransformersLanguageModel",
    "vllm": "selfimprove_dagster.language_model.vllm_engine:VllmLanguageModel",
    "openai": "selfimprove_dagster.language_model.openai_engine:OpenAILanguageModel",
}
"""Engine name → `module:class`, or `module:function`, called with the path and the options."""


def open_language_model(path: str | Path, engine: str = "transformers", **options: Any) -> LanguageModel:
    """The model at `path` (a directory, or a hub name) in the engine of that name.

    `options` are the engine's own. Raises ModelError for an engine that is not in `ENGINES`, and for a
    model that is missing or unusable.
    """
    if engine not in ENGINES:
        raise ModelError(f"unknown engine {engine!r}: use one of {', '.join(sorted(ENGINES))}")
    module, _, name = ENGINES[engine].partition(":")
    opened: LanguageModel = getattr(import_module(module), name)(path, **options)
    return opened


__all__ = [
    "ENGINES",
    "FinishReason",
    "Generation",
    "LanguageModel",
    "Progress",
    "SamplingParameters",
    "open_language_model",
]
