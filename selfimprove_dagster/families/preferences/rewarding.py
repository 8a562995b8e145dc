"""The reward model of an iteration, as what rewards responses."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING

from selfimprove_dagster import registry
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.dialogues.settings import DialogueExperiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.language_model.base import LanguageModel, RefusedPrompt, placement
from selfimprove_dagster.prompts import Prompts

if TYPE_CHECKING:
    from selfimprove_dagster.training.reward import RewardModel


class ModelReward:
    """Rewards responses by a reward model, which is opened when it is first asked.

    It computes on the device of the model that wrote the responses, or else on `device`. `prompts` are those that the
    responses follow, in the form that their writer reads.
    """

    def __init__(self, path: str, model_id: str, device: str, prompts: Prompts) -> None:
        self.path, self.model_id, self.device, self.prompts = path, model_id, device, prompts
        self._opened: RewardModel | None = None

    def close(self) -> None:
        """Free the memory of the reward model; it is opened again when it is asked."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _model(self, writer: LanguageModel) -> RewardModel:
        from selfimprove_dagster.training.reward import RewardModel

        if self._opened is None:
            self._opened = RewardModel.open(self.path, placement(writer).get("device", self.device))
        return self._opened

    def __call__(
        self, writer: LanguageModel, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[float]:
        """The reward of each response to each prompt, read with the tokens of the model that wrote it."""
        asked = [self.prompts.ask("response", **spoken(prompt)) for prompt in prompts]
        return self._after(writer, "response", asked, responses)

    def gaps(
        self,
        writer: LanguageModel,
        prompts: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str],
    ) -> list[float]:
        """The gap r_gap(x, y, y_ref) of each response to its reference, by a model of gaps (PIT)."""
        asked = [
            self.prompts.ask("improvement", **spoken(prompt), response=reference)
            for prompt, reference in zip(prompts, references, strict=True)
        ]
        return self._after(writer, "improvement", asked, responses)

    def _after(
        self, writer: LanguageModel, name: str, asked: Sequence[str], responses: Sequence[str]
    ) -> list[float]:
        """The reward of each response after the whole prompt that it follows; `name` is that of the prompts.

        It is NaN where both together are longer than the reward model reads.
        """
        completions = [self.prompts.completion(name, response.strip()) for response in responses]
        said = writer.encode_completions(completions)
        read = writer.encode_prompts(asked)
        rewards = self._model(writer).score(read, [[*ids, writer.turn_end_id] for ids in said])
        return [
            nan if isinstance(prompt, RefusedPrompt) else reward
            for prompt, reward in zip(read, rewards, strict=True)
        ]


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
    prompts = registry.prompts(experiment)
    folder = lake.folder_at(row["path"])
    return ModelReward(folder, row["model_id"], experiment.model.device, prompts), [manifest]
