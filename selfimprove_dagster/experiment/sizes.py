"""Presets for models of three sizes, made from the preset `practical` of a method: `small_llm`, `7b`, `70b`.

They replace how is trained, for each kind of training, and how long texts may be. The preset `practical` is for the
embedded models of a million parameters: 5e-4 for all weights, and answers of 48 tokens.

Sources of the values:
- Alpaca: Taori et al., "Stanford Alpaca" (2023), README of tatsu-lab/stanford_alpaca, section "Fine-tuning".
- LMSI: Huang et al., arXiv 2210.11610, section 4: batches of 32.
- QLoRA: Dettmers et al., arXiv 2305.14314, appendix B.2, and scripts/finetune_guanaco_{7b,65b}.sh of artidoro/qlora.
- InstructGPT: Ouyang et al., arXiv 2203.02155, appendix C.2: the reward model.
- DeepSeekMath: Shao et al., arXiv 2402.03300, section 4.2: GRPO.
- LoRA Without Regret: Schulman and Thinking Machines Lab (2025), and TRL's guide of this name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import Section, TrainerSection, section_in

TOKENS = 512
"""The minimum length of an answer, in tokens."""

FULL_WEIGHTS_RATE = 1e-4
"""The learning rate above which all weights of a large model are damaged."""

LARGE = 100_000_000
"""Parameters from which a model is large."""


@dataclass(frozen=True)
class Size:
    """How models of a size are trained, by what a training learns from, and where the values are from.

    `examples`, `pairs` and `policy` are values of the sections whose `learns` has that name.
    """

    models: str
    examples: Mapping[str, Any]
    pairs: Mapping[str, Any]
    policy: Mapping[str, Any]
    recipes: tuple[str, ...]


def _adapter(rank: int, alpha: int, dropout: float, quantise: str | None = "4bit") -> dict[str, Any]:
    found: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": "all-linear"}
    return {**found, "quantise": quantise} if quantise else found


_LENGTH = {"max_length": 2048, "weight_decay": 0.0}

_CHECKPOINTING = {"memory": {"checkpointing": True}}

_POLICY = {**_LENGTH, "epochs": 1.0, "schedule": "constant", "kl_coefficient": 0.04, "group_size": 16}

SIZES: Mapping[str, Size] = {
    "small_llm": Size(
        "0.1 to 3 billion parameters, all of which are trained",
        examples={
            **_LENGTH,
            "epochs": 3.0,
            "learning_rate": 2e-5,
            "batch_size": 4,
            "gradient_accumulation": 8,
            "warmup_fraction": 0.03,
            "schedule": "cosine",
        },
        pairs={
            **_LENGTH,
            "epochs": 1.0,
            "learning_rate": 9e-6,
            "batch_size": 8,
            "gradient_accumulation": 8,
            "warmup_fraction": 0.03,
            "schedule": "cosine",
        },
        policy={
            **_POLICY,
            "learning_rate": 1e-6,
            "batch_size": 16,
            "gradient_accumulation": 8,
            "warmup_fraction": 0.0,
        },
        recipes=(
            "examples: three epochs at 2e-5 with a cosine schedule and 3% of warm-up, as Alpaca (2023); batches of 32, "
            "as LMSI (2210.11610, section 4), not of 128: an iteration has fewer examples than Alpaca's 52,000",
            "reward model: one epoch at 9e-6 in batches of 64, as InstructGPT (2203.02155, appendix C.2)",
            "policy: GRPO at 1e-6 with β = 0.04, as DeepSeekMath (2402.03300, section 4.2); 16 responses a prompt, not "
            "64, and 128 a step, not 1,024",
        ),
    ),
    "7b": Size(
        "about 7 billion parameters, with an adapter over a base of 4 bits",
        examples={
            **_LENGTH,
            "epochs": 3.0,
            "learning_rate": 2e-4,
            "batch_size": 4,
            "gradient_accumulation": 4,
            "warmup_fraction": 0.03,
            "schedule": "constant",
            "adapter": _adapter(64, 16, 0.1),
            **_CHECKPOINTING,
        },
        pairs={
            **_LENGTH,
            "epochs": 1.0,
            "learning_rate": 1e-4,
            "batch_size": 4,
            "gradient_accumulation": 8,
            "warmup_fraction": 0.03,
            "schedule": "cosine",
            "adapter": _adapter(32, 16, 0.0),
            **_CHECKPOINTING,
        },
        policy={
            **_POLICY,
            "learning_rate": 1e-5,
            "batch_size": 8,
            "gradient_accumulation": 16,
            "warmup_fraction": 0.0,
            "adapter": _adapter(16, 32, 0.0, quantise=None),
            **_CHECKPOINTING,
        },
        recipes=(
            "examples: QLoRA of rank 64 at 2e-4 in batches of 16, constant after 3% of warm-up, dropout 0.1, as "
            "Guanaco 7B (2305.14314, appendix B.2)",
            "reward model: one epoch with an adapter of rank 32 at 1e-4, ten times the rate of all weights, as TRL's "
            "guide of reward models",
            "policy: GRPO with an adapter at 1e-5, ten times the rate of all weights (LoRA Without Regret, 2025), "
            "β = 0.04 as DeepSeekMath (2402.03300, section 4.2)",
        ),
    ),
    "70b": Size(
        "about 70 billion parameters, with an adapter over a base of 4 bits",
        examples={
            **_LENGTH,
            "epochs": 3.0,
            "learning_rate": 1e-4,
            "batch_size": 1,
            "gradient_accumulation": 16,
            "warmup_fraction": 0.03,
            "schedule": "constant",
            "adapter": _adapter(64, 16, 0.05),
            **_CHECKPOINTING,
        },
        pairs={
            **_LENGTH,
            "epochs": 1.0,
            "learning_rate": 5e-5,
            "batch_size": 1,
            "gradient_accumulation": 32,
            "warmup_fraction": 0.03,
            "schedule": "cosine",
            "adapter": _adapter(32, 16, 0.0),
            **_CHECKPOINTING,
        },
        policy={
            **_POLICY,
            "learning_rate": 5e-6,
            "batch_size": 2,
            "gradient_accumulation": 64,
            "warmup_fraction": 0.0,
            "adapter": _adapter(16, 32, 0.0),
            **_CHECKPOINTING,
        },
        recipes=(
            "examples: QLoRA of rank 64 at 1e-4 in batches of 16, constant after 3% of warm-up, dropout 0.05, as "
            "Guanaco 65B (2305.14314, appendix B.2)",
            "reward model and policy: half the rates of the preset 7b, as QLoRA halves its own from 13B to 33B",
        ),
    ),
}


def with_sizes(kind: type[BaseModel], presets: Mapping[str, Preset]) -> dict[str, Preset]:
    """Return the presets of a method, and where it trains those for sizes; `kind` has its experiments' settings."""
    found = dict(presets)
    if "practical" in presets and any(_trainings(kind)):
        for name, size in SIZES.items():
            found.setdefault(name, _sized(kind, presets["practical"], size))
    return found


def _trainings(kind: type[BaseModel]) -> Iterator[tuple[str, type[TrainerSection]]]:
    """Yield the sections of an experiment that say how to train."""
    for name, field in kind.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None and issubclass(inner, TrainerSection):
            yield name, inner


def _sized(kind: type[BaseModel], practical: Preset, size: Size) -> Preset:
    values = _longer(kind, practical.values)
    for name, section in _trainings(kind):
        given = dict(values.get(name, {}))
        chosen = {
            key: value for key, value in getattr(size, section.learns).items() if key in section.model_fields
        }
        if "gradient_accumulation" not in section.model_fields:
            chosen["batch_size"] *= getattr(size, section.learns)["gradient_accumulation"]
        if given.get("steps") == 0:  # the step is left out
            chosen.pop("epochs", None)
        else:
            given.pop("steps", None)
        values[name] = {**given, **chosen}
    values["decontamination"] = {}
    said = [
        f"for models of {size.models}; answers may have {TOKENS} tokens and more",
        "seeds and examples that quote a held-out text are rejected",
    ]
    adapted = [values[name] for name, _ in _trainings(kind) if "adapter" in values[name]]
    if len({(one["adapter"]["rank"], one["adapter"]["alpha"]) for one in adapted}) > 1:
        for one in adapted:
            one["adapter"] = {**one["adapter"], "start": "merge"}
        said.append(
            "its trainings have adapters of different ranks, so each merges the one before into its base, which takes "
            "the disk space of a copy"
        )
    return Preset(_over(values, practical.sized), (*said, *size.recipes, *practical.deviations))


def _longer(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in which answers of models may have `TOKENS` tokens."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        field = kind.model_fields.get(name)
        inner: type[Section] | None = section_in(field.annotation) if field else None
        if name == "max_tokens":
            found[name] = max(value, TOKENS)
        elif inner is not None and isinstance(value, Mapping):
            found[name] = _longer(inner, value)
        else:
            found[name] = value
    return found


def _over(values: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those that are changed, section by section."""
    return {
        **values,
        **{
            name: _over(values[name], value)
            if isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
            else value
            for name, value in changed.items()
        },
    }
