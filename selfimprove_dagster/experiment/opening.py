"""Say how a model of an experiment is opened: the options of `open_language_model`, and the id that it then has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfimprove_dagster.experiment.sections import ModelSection, Section


def opening_options(
    section: ModelSection, path: str | Path | None = None, device: str = "", in_batches: bool = False
) -> dict[str, Any]:
    """Return the arguments of `open_language_model`, besides the path, for the model at `path`.

    By default this is the section's own model. A LoRA adapter belongs to that model, so a checkpoint is opened
    without it. `device` overrides the section's, where the engine has one. `in_batches`: send requests in
    batches where the section says so, i.e. where nothing waits for a single answer.
    """
    options = section.engine_options()
    if not in_batches:
        options.pop("batch", None)
    if "lora" in options:
        options["lora"] = adapter_of(section, path)
    if device and "device" in options:
        options["device"] = device
    return options


def adapter_of(section: ModelSection, path: str | Path | None = None) -> str | None:
    """Return the folder of the LoRA adapter with which the model at `path` is opened; None without one."""
    is_own = path is None or str(path) == section.path
    return section.vllm.lora if section.engine == "vllm" and is_own else None


def models_of(section: Section) -> Iterator[ModelSection]:
    """Yield every model that an experiment, or a section of one, names: its own, judges, and others."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, ModelSection):
                yield one
            elif isinstance(one, Section):
                yield from models_of(one)


def identity_of(section: ModelSection, path: str | Path | None = None) -> str:
    """Return the `model_id` of the model at `path` as the section's engine opens it, without opening it.

    Raises ModelError if the model or its adapter is missing.
    """
    if section.is_provided:
        from selfimprove_dagster.language_model.provider import provider_id

        return provider_id(str(path or section.path), **section.provider)
    from selfimprove_dagster.language_model.folder import model_folder
    from selfimprove_dagster.language_model.weights import model_id

    folder = model_folder(path or section.path, trust_remote_code=section.trust_remote_code)
    return model_id(folder, adapter_of(section, path))
