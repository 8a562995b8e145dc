"""Read a model folder as one model: an adapter is merged into the weights of its base in memory.

Merged, W + (α/r)·BA, it computes what base and adapter compute together, up to the rounding of the sum in the number
format of the weights. Importing this loads neither torch nor PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.adapters import Adapter, adapter_in, quantisation_of
from selfimprove_dagster.language_model.folder import base_folder

Model = TypeVar("Model")


def opened(load: Callable[[Path], Model], folder: Path) -> Model:
    """Return what `load` opens from a folder of whole weights; of an adapter, its base with the adapter merged in.

    Raises ModelError for an adapter whose base is missing, or that cannot be merged.
    """
    adapter = adapter_in(folder)
    if adapter is None:
        return load(folder)
    base = base_folder(adapter)
    if (stored := quantisation_of(base)) is not None:
        raise ModelError(
            f"the adapter {folder} cannot be merged into its base {base}, whose weights are stored quantised "
            f"({stored}): train adapters over a base with plain weights; adapter.quantise: 4bit quantises it in memory"
        )
    merged: Model = _merged(load(base), adapter)
    return merged


def _merged(model: Any, adapter: Adapter) -> Any:
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"the adapter {adapter.folder} cannot be laid over {adapter.base}: {first_line(error)}"
        ) from error
    for weight in merged.parameters():
        weight.requires_grad_(True)  # PEFT froze those of the base
    return merged
