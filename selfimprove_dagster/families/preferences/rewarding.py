"""The reward model of an iteration, as what rewards responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt, improvement_prompt
from selfimprove_dagster.families.dialogues.settings import DialogueExperiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.language_model.base import LanguageModel, placement

if TYPE_CHECKING:
    from selfimprove_dagster.training.reward import RewardModel


class ModelReward:
    """Rewards responses by a reward model, which is opened when it is first asked.

    It computes on the device of the model that wrote the responses, or else on `device`.
    """

    def __init__(self, path: str, model_id: str, device: str) -> None:
        self.path, self.model_id, self.device = path, model_id, device
        self._opened: RewardModel | None = None

    def _model(self, writer: LanguageModel) -> RewardModel:
        from selfimprove_dagster.training.reward import RewardModel

        if self._opened is None:
            self._opened = RewardModel.open(self.path, placement(writer).get("device", self.device))
        return self._opened

    def __call__(
        self, writer: LanguageModel, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[float]:
        """The reward of each response to each prompt, read with the tokens of the model that wrote it."""
        return self.after(writer, [dialogue_prompt(prompt) for prompt in prompts], responses)

    def gaps(
        self,
        writer: LanguageModel,
        prompts: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str],
    ) -> list[float]:
        """The gap r_gap(x, y, y_ref) of each response to its reference, by a model of gaps (PIT)."""
        asked = [improvement_prompt(*each) for each in zip(prompts, references, strict=True)]
        return self.after(writer, asked, responses)

    def after(self, writer: LanguageModel, texts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The reward of each response after the whole text that it follows."""
        read = writer.encode_many(texts)
        said = writer.encode_continuations([f" {response.strip()}" for response in responses])
        return self._model(writer).score(read, [[*ids, writer.end_token_id] for ids in said])


def reward_model_of(
    lake: Lake, experiment: DialogueExperiment, iteration: int, stage: str = "reward_model"
) -> tuple[ModelReward | None, list[Manifest]]:
    """The reward model that an iteration trained, and the partition that names it; None where it has none."""
    table = f"{experiment.method}/{stage}"
    partition = partition_of(experiment.name, iteration)
    manifest = lake.manifest(table, partition)
    row = next(lake.read(table, partition).iter_rows(named=True), None)
    if row is None:
        return None, [manifest]
    return ModelReward(row["path"], row["model_id"], experiment.model.device), [manifest]
