"""Open language models: one interface (`base.LanguageModel`) with several engines.

Importing this package loads no engine; `open_language_model` imports the requested one.
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
"""Maps an engine name to a `module:class` or `module:function`, which is called with the path and the options."""


def open_language_model(path: str | Path, engine: str = "transformers", **options: Any) -> LanguageModel:
    """Open the model at `path` (a directory, or a Hub name) in an engine.

    `options` depend on the engine. Raises ModelError for an engine that is not in `ENGINES`, and for a model
    that is missing or unusable.
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
