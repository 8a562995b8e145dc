"""Open language models: one interface (`base.LanguageModel`) with several engines.

Importing this package loads no engine; `open_language_model` imports the requested one.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from selfimprove_dagster.language_model.prompting import prompting_of

ENGINES: dict[str, str] = {
    "transformers": "selfimprove_dagster.language_model.transformers_engine:TransformersLanguageModel",
    "vllm": "selfimprove_dagster.language_model.vllm_server:open_vllm",
    "openai": "selfimprove_dagster.language_model.openai_engine:OpenAILanguageModel",
    "chat": "selfimprove_dagster.language_model.chat_engine:ChatLanguageModel",
}
"""Maps an engine name to a `module:class` or `module:function`, which is called with the path and the options."""


def open_language_model(
    path: str | Path,
    engine: str = "transformers",
    *,
    prompting: Mapping[str, Any] | None = None,
    **options: Any,
) -> LanguageModel:
    """Open the model at `path` (a directory, or a Hub name) in an engine.

    `prompting` has the arguments of `prompting_of`; without it prompts are plain text. The other `options` depend on
    the engine. Raises ModelError for an engine that is not in `ENGINES`, and for a model that is missing or unusable.
    """
    opened: LanguageModel = _engine(engine)(path, **options)
    if prompting is not None:
        opened.prompting = prompting_of(**prompting)
    return opened


def promise_of(engine: str = "transformers", **options: Any) -> str:
    """Return in one line which texts, and so which ids, an engine with these options gives in a repeated run.

    Nothing is opened: an open model's `promise` also knows what its server can do. Raises ModelError for an engine
    that is not in `ENGINES`.
    """
    promised = getattr(_engine(engine), "promised", None)
    return promised(options) if promised else f"the engine {engine} makes no promise about repeated runs"


def _engine(name: str) -> Any:
    """Return the class or function of an engine. Raises ModelError for an unknown one."""
    if name not in ENGINES:
        raise ModelError(f"unknown engine {name!r}: use one of {', '.join(sorted(ENGINES))}")
    module, _, attribute = ENGINES[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = [
    "ENGINES",
    "FinishReason",
    "Generation",
    "LanguageModel",
    "Progress",
    "SamplingParameters",
    "open_language_model",
    "promise_of",
]
