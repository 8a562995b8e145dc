"""Adapters over small models, as a training writes them, with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from selfimprove_dagster.language_model.adapters import OVER
from selfimprove_dagster.language_model.weights import model_id


def make_adapter(
    base: Path, folder: Path, seed: int = 0, base_id: str | None = None, **settings: Any
) -> Path:
    """A model folder with an adapter over `base` that changes what it says; `settings` are PEFT's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **settings}
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**chosen, task_type="CAUSAL_LM")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    for file in base.glob("*.json"):
        shutil.copyfile(file, folder / file.name)
    (folder / "determinants.json").write_text(
        json.dumps({"dtype": "float32", "id_covers": [], OVER: base_id or model_id(base)})
    )
    return folder


def logits(model: Any, token_ids: list[int]) -> Any:
    """[tokens, vocabulary] of a model of transformers or PEFT."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([token_ids], device=model.device)).logits[0].float()
