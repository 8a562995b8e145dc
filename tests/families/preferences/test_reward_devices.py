"""A reward model computes where the stage's other models do, whatever device the experiment's file names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from kit.models import ByteModel

from selfimprove_dagster.families.dialogues.prompts import PROMPTS
from selfimprove_dagster.families.preferences.policies import fit_reward_model, rewarded_by_model
from selfimprove_dagster.families.preferences.rewarding import ModelReward
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.training.reward import RewardModel

EXPERIMENT = SimpleNamespace(model=SimpleNamespace(device="cuda:7"))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which reward models are opened."""
    found: list[str] = []

    def opened(path: str, device: str) -> Any:
        found.append(device)
        return SimpleNamespace(score=lambda prompts, completions: [0.5] * len(prompts))

    monkeypatch.setattr(RewardModel, "open", opened)
    return found


@pytest.mark.parametrize(("override", "device"), [("cpu", "cpu"), ("", "cuda:7")])
def test_the_trainers_device_reaches_the_reward_model(override: str, device: str, devices: list[str]) -> None:
    trained = pl.DataFrame({"path": ["/model"], "model_id": ["b2:1"]})
    context: Any = SimpleNamespace(
        experiment=EXPERIMENT,
        trainer=TrainerResource(device=override),
        small=lambda table: (None, trained),
        lake=SimpleNamespace(folder_at=str),
    )
    assert rewarded_by_model(context, table=None).opens.arguments["device"] == device  # type: ignore[arg-type]
    training: Any = SimpleNamespace(context=context, train=lambda *_: SimpleNamespace(path="/model"))
    fit_reward_model(training, section=None, comparisons=[])  # type: ignore[arg-type]
    assert devices == [device]


def test_a_reward_model_computes_on_the_device_of_the_writer(devices: list[str]) -> None:
    class OnCpu(ByteModel):
        model_id = "b2:writer"
        device = "cpu"

    class OnAServer(ByteModel):
        model_id = "b2:writer"

    for writer in (OnCpu(), OnAServer()):
        rewards = ModelReward("/model", "b2:1", "cuda:7", load_prompts([PROMPTS], TEXT))
        for _ in range(2):
            assert rewards(writer, ["Who?"], ["Mara."]) == [0.5]  # type: ignore[arg-type]
    assert devices == ["cpu", "cuda:7"]
