"""Training of LoRA adapters instead of all weights, through PEFT.

Hu et al., "LoRA" (arXiv 2106.09685, section 4): W + (α/r)·BA, of which only B, which starts at 0, and A are trained.
Dettmers et al., "QLoRA" (arXiv 2305.14314, section 3): W is held in 4-bit NormalFloat, and computed with in the number
format of training.

An adapter that was trained lies in a folder that names its base (`language_model.adapters`). The next training goes on
with it, or starts a new one over a base into which it was merged. An adapter is never trained over another one.

Changed against trl 1.16: the reference of a policy is the base with the adapter switched off. TRL keeps a copy of the
adapter as it was at first; it also rounds the weights of an adapter over a quantised base to bfloat16, and takes its
dropout away in all but supervised training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from selfimprove_dagster.errors import ModelError, TrainingError, first_line
from selfimprove_dagster.language_model.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MERGED,
    OVER,
    Adapter,
    adapter_in,
    quantisation_of,
)
from selfimprove_dagster.language_model.folder import base_folder, lasting_name
from selfimprove_dagster.language_model.merging import opened
from selfimprove_dagster.language_model.weights import matrices, model_id
from selfimprove_dagster.training import folders
from selfimprove_dagster.training.adapter_settings import AdapterSettings
from selfimprove_dagster.training.settings import TrainingSettings

_HEAD = "score"
"""The new layer of a reward model, which is trained whole."""


class Training(Protocol):
    """What of a `run.Run` shapes an adapter."""

    @property
    def base(self) -> Path: ...
    @property
    def partial(self) -> Path: ...
    @property
    def settings(self) -> TrainingSettings: ...
    @property
    def seed(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def on_cpu(self) -> bool: ...


def quantised_base_problem(base: Path) -> str:
    """Return why no adapter is trained over a base; empty if one can be."""
    stored = quantisation_of(base)
    return (
        f"the weights of {base} are stored quantised ({stored}), so an adapter over it could not be merged into them; "
        "start from the same model in its own number format, and set adapter.quantise: 4bit to hold it in 4 bits"
        if stored
        else ""
    )


def layers_problem(base: Path, settings: AdapterSettings) -> str:
    """Return why layers of a base of whole weights cannot have an adapter; empty if they can.

    A target is the name of a layer or the end of one, from a dot on. The layers of the vocabulary have none: an adapter
    on an embedding that is also the output layer changes only one of the two, until it is merged. A rank above the
    width of a layer adds parameters that its weights could not express either.
    """
    layers = matrices(base)
    config = folders.read_json(base / "config.json") or {}
    vocabulary = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    inner = {name: min(shape) for name, shape in layers.items() if shape[0] != vocabulary}
    usable = ", ".join(sorted({name.rpartition(".")[2] for name in inner}))
    adapted = set(inner)
    if not isinstance(settings.targets, str):
        adapted = set()
        for target in settings.targets:
            found = {name for name in layers if name == target or name.endswith(f".{target}")}
            if not found:
                return f"adapter.targets names {target}, and {base} has no such layer: choose among {usable}"
            if found - inner.keys():
                return (
                    f"adapter.targets names {target}, a layer of the vocabulary, which cannot have an adapter here: "
                    f"choose among {usable}"
                )
            adapted |= found
    narrowest = min(adapted, key=lambda name: (inner[name], name), default="")
    if adapted and settings.rank > inner[narrowest]:
        return (
            f"adapter.rank is {settings.rank}, more than the {inner[narrowest]} rows or columns of {narrowest}: choose "
            f"at most {inner[narrowest]}"
        )
    return ""


# ---- models ------------------------------------------------------------------------------------------


def load_adapted(run: Training, load: Callable[..., Any], *, head: bool = False) -> Any:
    """Return the model that `load` opens from a folder of whole weights, with the adapter to train.

    `load` takes the folder and further arguments of `from_pretrained`. `head`: the model is a reward model, whose new
    layer is trained too. Raises TrainingError where the adapter does not fit the model, and ModelError.
    """
    from peft import PeftConfig, PeftModel, get_peft_model
    from transformers import set_seed

    settings = run.settings.adapter
    assert settings is not None
    base, before = starting_base(run)
    if before is not None:
        _check_same(before, settings)
    if problem := quantised_base_problem(base):
        raise TrainingError(problem)
    if problem := layers_problem(base, settings):
        raise TrainingError(f"{problem}.")
    model = load(base, **_quantised(run))
    for layer in model.modules():
        # On some CPUs bitsandbytes repacks weights that are read without gradients, into bfloat16 and for good.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    set_seed(run.seed)
    try:
        if before is not None and not head:
            config = PeftConfig.from_pretrained(str(before.folder))
            config.lora_dropout = settings.dropout
            return PeftModel.from_pretrained(model, str(before.folder), config=config, is_trainable=True)
        adapted = get_peft_model(model, _configuration(settings, head))
        if before is not None:
            _take_over(adapted, before)
        return adapted
    except (ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(f"No adapter can be trained over {base}: {first_line(error)}.") from error


def starting_base(run: Training) -> tuple[Path, Adapter | None]:
    """Return the base of the adapter that a run trains, and the adapter that it goes on with, if any.

    What is merged is written beside the adapter that it comes from, once.
    """
    assert run.settings.adapter is not None
    before = adapter_in(run.base)
    if before is None:
        return run.base, None
    if run.settings.adapter.start == "merge":
        return merged_base(run.base, run.dtype, run.trust_remote_code), None
    return base_folder(before), before


def merged_base(folder: Path, dtype: str, trust_remote_code: bool) -> Path:
    """Return the folder of the model into which the adapter in `folder` was merged, after writing it if it is missing.

    It appears whole or not at all.
    """
    from filelock import FileLock

    target = folder.with_name(f"{folder.name}{MERGED}{dtype}")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            write_merged(folder, partial, dtype=dtype, trust_remote_code=trust_remote_code)
            folders.sync(partial)
            partial.rename(target)
    return target


def write_merged(folder: Path, output: Path, *, dtype: str, trust_remote_code: bool) -> None:
    """Write the model of an adapter, merged into its base, to the new folder `output`, in the number format `dtype`.

    It is merged in float32. Raises ModelError where it cannot be.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    adapter = adapter_in(folder)
    rewards = adapter is not None and adapter.config.get("task_type") == "SEQ_CLS"
    kind = AutoModelForSequenceClassification if rewards else AutoModelForCausalLM
    where = {"trust_remote_code": trust_remote_code, "local_files_only": True}

    def load(base: Path) -> Any:
        config = AutoConfig.from_pretrained(folder, **where)
        try:
            return kind.from_pretrained(
                base, config=config, dtype=torch.float32, use_safetensors=True, **where
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"transformers cannot open {base}: {first_line(error)}") from error

    opened(load, folder).to(getattr(torch, dtype)).save_pretrained(output)
    folders.copy_companions(
        folder, output, dtype=dtype, trust_remote_code=trust_remote_code, own_config=rewards
    )


def write_adapter(
    run: Training, model: Any, folder: Path, *, own_config: bool, weights: dict[str, Any] | None = None
) -> None:
    """Write the adapter to a folder, with the name of its base; the determinants there get the id of the base.

    `own_config`: the configuration of the model is written, too, as it is not that of the base. `weights` are those of
    the model by name, where it has only a share of them.
    """
    base, _ = starting_base(run)
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    if own_config:
        config = inner(model).config
        config.dtype = run.dtype
        vars(config).pop("quantization_config", None)
        config.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    named, revision = lasting_name(base)
    config = {
        **folders.read_json(folder / ADAPTER_CONFIG),
        "base_model_name_or_path": named,
        "revision": revision,
        "inference_mode": True,
    }
    # PEFT writes sets in the order of the moment.
    ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    folders.write_json(folder / ADAPTER_CONFIG, ordered)
    determinants = folders.read_json(run.partial / folders.DETERMINANTS)
    folders.write_json(folder / folders.DETERMINANTS, {**determinants, OVER: model_id(base)})


def _quantised(run: Training) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that hold the weights as the run's settings say."""
    import torch

    assert run.settings.adapter is not None
    if run.settings.adapter.quantise is None:
        return {}
    from transformers import BitsAndBytesConfig

    kept = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, run.dtype),
        llm_int8_skip_modules=["lm_head", _HEAD],
    )
    return {"quantization_config": kept, "device_map": {"": "cpu" if run.on_cpu else 0}}


def _configuration(settings: AdapterSettings, head: bool) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if isinstance(settings.targets, str) else [*settings.targets],
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
        modules_to_save=[_HEAD] if head else None,
    )


def _check_same(before: Adapter, settings: AdapterSettings) -> None:
    """Raise TrainingError if training cannot go on with an adapter, since it has other settings."""
    recorded = folders.read_json(before.folder / folders.DETERMINANTS) or {}
    targets = recorded.get("settings", {}).get("adapter", {}).get("targets", before.config["target_modules"])
    wanted = {
        "rank": (settings.rank, before.config["r"]),
        "alpha": (settings.alpha, before.config["lora_alpha"]),
        "targets": (_names(settings.targets), _names(targets)),
    }
    for name, (asked, found) in wanted.items():
        if asked != found:
            raise TrainingError(
                f"adapter.{name} is {asked}, and training starts from the adapter {before.folder}, which has {found}. "
                f"Set adapter.{name} to {found}, or adapter.start to merge, which merges that adapter into its base "
                "and trains a new one over the result."
            )


def _names(targets: str | Sequence[str]) -> str:
    return targets if isinstance(targets, str) else ", ".join(sorted(targets))


def _take_over(model: Any, before: Adapter) -> None:
    """Give a new adapter the weights of an earlier one, as where a reward model starts from a policy."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    own, weights = get_peft_model_state_dict(model), load_file(before.folder / ADAPTER_WEIGHTS)
    if unknown := weights.keys() - own.keys():
        raise ValueError(f"the adapter {before.folder} has other layers, such as {min(unknown)}")
    set_peft_model_state_dict(model, own | weights)


# ---- trainers ----------------------------------------------------------------------------------------


def inner(model: Any) -> Any:
    """Return the model of transformers in which the adapter's layers are; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_switched_off(model: Any) -> bool:
    """Whether the model has an adapter that is switched off, so that it computes what its base does."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (one for one in model.modules() if isinstance(one, BaseTunerLayer))
    first = next(layers, None)
    return first is not None and bool(first.disable_adapters)


def switched_off(model: Any) -> AbstractContextManager[Any]:
    """Switch the adapter of a model off, if it has one."""
    switch: AbstractContextManager[Any] = (
        model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    )
    return switch


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Undo what TRL changes in an adapter while it makes a trainer; see the top of this module."""
    if not hasattr(model, "peft_config"):
        yield
        return
    weights = {
        name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad
    }
    dropouts = {
        name: one.p for name, one in model.named_modules() if ".lora_dropout." in name and hasattr(one, "p")
    }
    yield
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    for name, weight in model.named_parameters():
        if name in weights:
            weight.data = weights[name]
    for name, probability in dropouts.items():
        model.get_submodule(name).p = probability
