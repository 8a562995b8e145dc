"""LoRA adapters as model folders (Hu et al., arXiv 2106.09685): the folder of an adapter names its base.

    adapter_config.json         as PEFT writes it; names the base: a folder, or a Hub name with its revision
    adapter_model.safetensors   the weights of the adapter, and of whole layers that were trained with it
    determinants.json           `adapter_over` is the `model_id` that the base had
    config.json, tokenizer …    as in any other model folder

`folder.base_folder` finds the base, `weights.model_id` checks that it is unchanged, and `merging` reads both.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"


ADAPTER_WEIGHTS = "adapter_model.safetensors"


ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin")
"""What a LoRA adapter is made of: its settings, and its weights in one of two formats."""


MERGED = ".merged-"
"""Part of the name of a folder, between that of the adapter that was merged into it and its number format."""


ADAPTER_NAME = "adapter"
"""The name under which a server of vLLM knows an adapter."""


OVER = "adapter_over"
"""Entry of determinants.json: the id of the model that an adapter was trained over."""


_NO_OUTPUT = {"base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout"}
"""Settings of an adapter that do not change what it computes."""


_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Maximum ranks that vLLM can be started with."""


# PEFT imports bitsandbytes wherever it is installed, which then names a package that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Adapter:
    """An adapter that is a model, with the base that it names; `base_id` is None where it was not recorded."""

    folder: Path
    config: Mapping[str, Any]
    base_id: str | None

    @property
    def base(self) -> str:
        """Return the folder of the base, or its Hub name with the revision."""
        named, revision = self.config["base_model_name_or_path"], self.config.get("revision")
        return f"{named}@{revision}" if revision else str(named)

    @property
    def is_over_merged(self) -> bool:
        """Return whether the base is a copy into which an earlier adapter was merged, written to be trained over."""
        return MERGED in Path(self.base).name

    @property
    def rank(self) -> int:
        """Return the highest rank of its matrices."""
        return max([int(self.config.get("r") or 8), *(self.config.get("rank_pattern") or {}).values()])

    @property
    def determining(self) -> str:
        """Return its settings that change what it computes, as JSON."""
        settings = {
            name: sorted(value, key=str) if isinstance(value, list) else value
            for name, value in self.config.items()
            if name not in _NO_OUTPUT
        }
        return json.dumps(settings, sort_keys=True)


def adapter_in(folder: str | Path) -> Adapter | None:
    """Return the adapter that a model folder holds instead of a whole model; None for any other folder.

    Raises ModelError where its settings cannot be read.
    """
    file = Path(folder) / ADAPTER_CONFIG
    if not (file.is_file() and (Path(folder) / ADAPTER_WEIGHTS).is_file()):
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not config.get("base_model_name_or_path"):
        raise ModelError(
            f"{file} does not name the base of the adapter: set base_model_name_or_path to the folder of the base"
        )
    determinants = Path(folder) / "determinants.json"
    recorded = json.loads(determinants.read_text(encoding="utf-8")) if determinants.is_file() else {}
    return Adapter(Path(folder), config, recorded.get(OVER))


def vllm_settings(folder: str | Path) -> dict[str, Any]:
    """Return vLLM's settings for the adapter in a folder. Raises ModelError like `vllm_rank`.

    They name its layers: otherwise vLLM computes the output layer, too, as one with an adapter, and its engine ends
    when it is asked for log-probabilities of prompts.
    """
    from safetensors import safe_open

    settings: dict[str, Any] = {"enable_lora": True, "max_lora_rank": vllm_rank(folder)}
    file = Path(folder) / ADAPTER_WEIGHTS
    if file.is_file():
        with safe_open(file, framework="numpy") as weights:
            layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in weights.keys()}  # noqa: SIM118
        settings["lora_target_modules"] = sorted(layers)
    return settings


def vllm_rank(folder: str | Path) -> int:
    """Return the maximum rank that vLLM needs for the adapter in a folder. Raises ModelError for a higher rank."""
    config = json.loads((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    rank = Adapter(Path(folder), config, None).rank
    for most in _VLLM_RANKS:
        if rank <= most:
            return most
    raise ModelError(
        f"the adapter {folder} has rank {rank}, and vLLM takes at most {_VLLM_RANKS[-1]}: export it with --merged"
    )


def quantisation_of(folder: Path) -> str | None:
    """Return how the weights in a model folder are quantised, such as `gptq`; None if they are plain numbers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    found = config.get("quantization_config")
    return str(found.get("quant_method", "unknown")) if found else None
