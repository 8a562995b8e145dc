"""Check devices, number formats, disk and memory of this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment, TrainingExperiment
from selfimprove_dagster.experiment.opening import models_of
from selfimprove_dagster.experiment.sections import ModelSection, TrainerSection
from selfimprove_dagster.experiment.sizes import FULL_WEIGHTS_RATE, LARGE
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.adapters import adapter_in
from selfimprove_dagster.language_model.folder import base_folder, model_folder
from selfimprove_dagster.language_model.weights import parameters, weight_bytes
from selfimprove_dagster.loop.rules import Continue, next_turn
from selfimprove_dagster.readiness.files import local_models
from selfimprove_dagster.readiness.finding import Finding
from selfimprove_dagster.training.adapter_settings import AdapterSettings, quantising_problem
from selfimprove_dagster.training.adapters import layers_problem, quantised_base_problem
from selfimprove_dagster.training.launching import nodes_problem
from selfimprove_dagster.training.memory import AS_IT_COMES, MemorySettings, cpu_problems
from selfimprove_dagster.training.vllm_rollouts import ON_CPU as ROLLOUTS_ON_CPU

_NO_RAY = "and Ray is not installed: pip install 'selfimprove_dagster[ray]'"

HELD_IN_4_BITS = 0.55
"""Bytes per parameter of a base in 4 bits, with the scale of each block of 64."""

SAVED = 12
"""Bytes per parameter of a state of the trainer on the disk: weights and two moments in float32."""

STATES = 3
"""States of the trainer on the disk at the same time, at most."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """The memory of a device in bytes, and what people call it."""

    total: int
    free: int
    name: str


def check_devices(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each device that this machine lacks or that training cannot use."""
    trains = isinstance(experiment, TrainingExperiment)
    for section in local_models(experiment):
        is_trained = trains and section is experiment.model
        if section.engine != "transformers" and not is_trained:
            continue
        if problem := _device_problem(section.device):
            yield Finding(problem)
        elif is_trained and section.device.startswith("cuda:"):
            number = section.device.removeprefix("cuda:")
            yield Finding(
                f"model.device is {section.device}, on which the trainer cannot train: set the environment variable "
                f"CUDA_VISIBLE_DEVICES={number} and model.device to cuda"
            )
        elif is_trained and section.device == "mps":
            yield Finding("model.device is mps, on which the trainer cannot train: set it to auto or cpu")
        elif section.dtype == "bfloat16" and _on_gpu(section) and not _has_bfloat16():
            yield Finding(
                "model.dtype is bfloat16, which this GPU does not support: set it to float16 or float32"
            )


def check_adapters(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each adapter that cannot be trained with what is installed, or over the base model."""
    if not isinstance(experiment, TrainingExperiment):
        return
    adapters = {name: one.adapter for name, one in experiment.trainings.items() if one.adapter is not None}
    for name, adapter in adapters.items():
        if problem := quantising_problem(adapter.quantise):
            yield Finding(f"{name}.{problem}")
    if not adapters:
        return
    folder = _folder(experiment.model)
    over = adapter_in(folder)
    base = folder if over is None else base_folder(over)
    if problem := quantised_base_problem(base):
        yield Finding(f"{min(adapters)}.adapter: {problem}")
    for name, adapter in adapters.items():
        if problem := layers_problem(base, AdapterSettings(**adapter.model_dump())):
            yield Finding(f"{name}.{problem}")


def check_launch(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each training that several machines are to do, and that cannot be started on them."""
    if isinstance(experiment, TrainingExperiment):
        for name, one in experiment.trainings.items():
            if one.launch and one.launch.by == "torchrun" and (problem := nodes_problem(one.launch.nodes)):
                yield Finding(f"{name}.{problem}")
            if one.launch and one.launch.by == "ray" and find_spec("ray") is None:
                yield Finding(f"{name}.launch.by is ray, {_NO_RAY}")


def check_workers(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem if workers cannot be started, and a warning if no model of the experiment would use them."""
    workers = experiment.run.workers
    if workers is None:
        return
    if workers.kind == "ray" and find_spec("ray") is None:
        yield Finding(f"run.workers.kind is ray, {_NO_RAY}")
    if not any(model.runs_in_process for model in models_of(experiment)):
        yield Finding(
            "run.workers changes nothing: all models are served, and their servers are asked by the stage itself. Give "
            "several addresses in server.url, or vllm.serve.data_parallel, instead",
            is_warning=True,
        )


def check_disk(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem if the weights of the next iteration cannot fit on the disk, a warning if that is likely."""
    if not isinstance(experiment, TrainingExperiment):
        return
    step = next_turn(home.lake, experiment)
    if not isinstance(step, Continue) or experiment.model not in local_models(experiment):
        return
    if all(one.adapter is not None for one in experiment.trainings.values()):
        return  # adapters are small
    partition = partition_of(experiment.name, step.iteration)
    left = [
        table
        for table in registry.method(experiment.method).tables.values()
        if table.holds_model and not home.lake.exists(table.name, partition)
    ]
    if not left:
        return
    size = parameters(_folder(experiment.model))
    models = len(left) * size * _BYTES[_trained_dtype(experiment.model)]
    scratch = STATES * size * SAVED
    folder = next(one for one in (home.root, *home.root.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    said = (
        f"the disk of {home.root} has {_shown(free)} free, and the next iteration trains {len(left)} "
        f"model{'' if len(left) == 1 else 's'} with {_shown(models)} of weights"
    )
    remedy = "free some space, or set SELFIMPROVE_HOME to another disk"
    if free < models:
        yield Finding(f"{said}: {remedy}")
    elif free < models + scratch:
        yield Finding(
            f"{said}; while one is trained, saved states take up to {_shown(scratch)} more: {remedy}",
            is_warning=True,
        )


def check_rates(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a warning for each training of all weights of a large model at the learning rate of a tiny one."""
    if not isinstance(experiment, TrainingExperiment) or experiment.model not in local_models(experiment):
        return
    size = parameters(_folder(experiment.model))
    if size <= LARGE:
        return
    for name in type(experiment).model_fields:
        section = getattr(experiment, name)
        if (
            isinstance(section, TrainerSection)
            and section.steps != 0
            and getattr(section, "adapter", None) is None
            and section.learning_rate > FULL_WEIGHTS_RATE
        ):
            yield Finding(
                f"{name}.learning_rate is {section.learning_rate:g}, at which {experiment.model.path} "
                f"({size / 1e6:,.0f} million parameters) forgets how to write within a few steps: set it to 2e-5 or "
                "less, or set preset to small_llm, 7b or 70b",
                is_warning=True,
            )


def check_memory(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem if a model cannot fit into the memory of its device, a warning if that is likely."""
    for section in local_models(experiment):
        if _device_problem(section.device) or section.device == "mps":
            continue
        folder = _folder(section)
        if section.engine == "transformers":
            yield from _fits("sampling from", section, _sampled_bytes(section, folder))
        if isinstance(experiment, TrainingExperiment) and section is experiment.model:
            held = max(_bytes_per_parameter(one) for one in experiment.trainings.values())
            yield from _fits("training", section, round(held * parameters(folder)))


def check_memory_settings(home: Home, experiment: Experiment) -> Iterator[Finding]:
    """Yield a problem for each setting with which a training needs a GPU, where it runs on a CPU."""
    if not isinstance(experiment, TrainingExperiment) or _on_gpu(experiment.model):
        return
    for name, section in experiment.trainings.items():
        for problem in cpu_problems(_memory(section)):
            yield Finding(f"{name}.{problem}")
        if getattr(section, "rollouts", None) is not None:
            yield Finding(f"{name}.{ROLLOUTS_ON_CPU}")


def _bytes_per_parameter(section: TrainerSection) -> float:
    """Return what a training holds of a model, at least: of an adapter the weights of its base, all else is small."""
    memory = _memory(section)
    if section.adapter is None:
        return memory.bytes_per_parameter
    return _BYTES[memory.weights] if section.adapter.quantise is None else HELD_IN_4_BITS


def _memory(section: TrainerSection) -> MemorySettings:
    return AS_IT_COMES if section.memory is None else MemorySettings(**section.memory.model_dump())


def _fits(doing: str, section: ModelSection, needed: int) -> Iterator[Finding]:
    memory = memory_of(section)
    said = f"{doing} {section.path} takes at least {_shown(needed)} of memory"
    if needed > memory.total:
        yield Finding(f"{said}, and {memory.name} has {_shown(memory.total)}: choose a smaller model")
    elif needed > memory.free:
        yield Finding(
            f"{said}, and {memory.name} has {_shown(memory.free)} free: end other programs, or choose a smaller model",
            is_warning=True,
        )


def memory_of(section: ModelSection) -> Memory:
    """Return the memory of the device on which a section's model is sampled from and trained."""
    if _on_gpu(section):
        import torch

        number = int(section.device.partition(":")[2] or 0)
        free, total = torch.cuda.mem_get_info(number)
        return Memory(total, free, f"the GPU {number}")
    memory = psutil.virtual_memory()
    return Memory(memory.total + psutil.swap_memory().total, memory.available, "this machine")


def _sampled_bytes(section: ModelSection, folder: Path) -> int:
    """Return the size of the weights as the engine holds them."""
    dtype = section.dtype
    if dtype == "auto":
        if _on_gpu(section):
            return weight_bytes(folder)
        dtype = "float32"
    return parameters(folder) * _BYTES[dtype]


def _trained_dtype(section: ModelSection) -> str:
    """Return the number format in which the trainer writes weights."""
    if section.dtype == "auto":
        return "bfloat16" if _on_gpu(section) else "float32"
    return "float32" if section.dtype == "float16" else section.dtype


def _device_problem(device: str) -> str:
    """Return why this machine cannot use a device; empty if it can."""
    found = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d+))?", device)
    if found is None:
        return f"model.device is {device!r}: set it to auto, cpu, cuda or cuda:N"
    if device in ("auto", "cpu"):
        return ""
    import torch

    if device == "mps":
        return (
            ""
            if torch.backends.mps.is_available()
            else "model.device is mps, which this machine lacks: use cpu"
        )
    if not torch.cuda.is_available():
        return f"model.device is {device}, and torch finds no GPU: set it to auto or cpu, or install torch for CUDA"
    count = torch.cuda.device_count()
    if found[1] and int(found[1]) >= count:
        return f"model.device is {device}, and there are {count} GPUs: use cuda:0 to cuda:{count - 1}"
    return ""


def _on_gpu(section: ModelSection) -> bool:
    """Return whether the section's device is a GPU of CUDA, as `auto` is where there is one."""
    if section.device in ("cpu", "mps"):
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_bfloat16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported())


def _folder(section: ModelSection) -> Path:
    return model_folder(section.path, trust_remote_code=section.trust_remote_code)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
