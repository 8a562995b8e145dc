"""The presets for models of three sizes, which every method that trains has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import TrainingExperiment
from selfimprove_dagster.experiment.sizes import FULL_WEIGHTS_RATE, SIZES, TOKENS
from selfimprove_dagster.home.files import parse_experiment

TRAINS = [
    name for name, method in registry.methods().items() if issubclass(method.experiment, TrainingExperiment)
]


def experiment_of(folder: Path, method: str, preset: str, **more: Any) -> Any:
    shipped = Path(registry.__file__).parents[1] / "experiments"
    embedded = {"file": "embedded"}
    given = {
        "name": "sized",
        "method": method,
        "preset": preset,
        "model": {"path": "embedded"},
        "seeds": embedded,
        "evaluation": embedded,
        **more,
    }
    assert shipped.is_dir()
    return parse_experiment(given, folder=folder)


@pytest.mark.parametrize("preset", [*SIZES])
@pytest.mark.parametrize("method", TRAINS)
def test_every_method_that_trains_has_them(tmp_path: Path, method: str, preset: str) -> None:
    experiment = experiment_of(tmp_path, method, preset)
    found = experiment.trainings
    assert "training" in found
    assert experiment.decontamination is not None
    for name, section in found.items():
        if section.steps == 0:
            continue
        assert section.epochs and section.steps is None, name
        adapter = getattr(section, "adapter", None)
        if "adapter" in type(section).model_fields:
            assert (adapter is not None) is (preset != "small_llm"), name
        if preset == "small_llm":
            assert section.learning_rate <= 2e-5 < FULL_WEIGHTS_RATE, name
        assert section.per_step >= 4, name
        assert getattr(section, "max_length", 2048) == 2048, name
    if section := getattr(experiment, "sampling", None) or getattr(experiment, "responses", None):
        assert section.max_tokens >= TOKENS
    if (group := getattr(experiment.training, "group_size", None)) is not None:
        size = experiment.training.batch_size * experiment.training.gradient_accumulation
        assert size % group == 0 and experiment.training.max_tokens >= TOKENS
    said = registry.method(method).all_presets[preset].all_deviations
    assert any("Alpaca" in one or "QLoRA" in one for one in said), "the recipe is named"
    assert not any("5e-4" in one for one in said), "what holds for the embedded models alone"


def test_a_large_model_is_shown_demonstrations(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, "lmsi", "7b")
    assert experiment.sampling.prompt_format == "few_shot_cot" and experiment.demonstrations.count == 8


def test_fields_of_the_file_go_before_the_preset(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, "lmsi", "small_llm", training={"steps": 9})
    assert (experiment.training.steps, experiment.training.epochs) == (9, None)
    practical = experiment_of(tmp_path, "lmsi", "practical", training={"epochs": 2})
    assert (practical.training.steps, practical.training.epochs) == (None, 2.0)
    assert experiment_of(tmp_path, "lmsi", "small_llm", decontamination=None).decontamination is None
    with pytest.raises(ExperimentError, match="give either steps or epochs"):
        experiment_of(tmp_path, "lmsi", "practical", training={"epochs": 2, "steps": 3})


@pytest.mark.parametrize("method", sorted({*registry.methods()} - {*TRAINS}))
def test_methods_that_do_not_train_have_none(tmp_path: Path, method: str) -> None:
    with pytest.raises(ExperimentError, match="'7b' is not one of 'paper', 'practical'"):
        experiment_of(tmp_path, method, "7b")
