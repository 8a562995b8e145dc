"""Examples that are held out of a training to measure its loss: which, how often, when to stop, and what is kept.

Early stopping: Prechelt, "Early Stopping — But When?" (1998), his third class of criteria: stop after `patience`
measurements in a row without a lower loss than the lowest before. What is kept are the weights of the lowest loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.lake.disk import sync
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.training import ranks

VALIDATION_LOSS = "validation_loss"
"""The name of the loss on the held-out examples in a log."""

_BEST = "best.safetensors"


@dataclass(frozen=True)
class ValidationSettings:
    """Hold out `share` of the examples, and measure their loss every `every` optimiser steps and after the last.

    `patience`: stop after so many measurements in a row that are no better than the best; None for never. `best`: keep
    the weights of the lowest loss, of equal ones the first; otherwise those of the last step.
    """

    share: float
    every: int
    patience: int | None = None
    best: bool = True


def check_validation(settings: ValidationSettings) -> None:
    """Raise TrainingError for a value that makes no sense."""
    if not 0 < settings.share < 1:
        raise TrainingError(f"validation.share is {settings.share}; it must lie between 0 and 1.")
    for name, value in (("every", settings.every), ("patience", settings.patience)):
        if value is not None and value < 1:
            raise TrainingError(f"validation.{name} is {value}; it must be at least 1.")


def hold_out(groups: Mapping[int, str], share: float, seed: int) -> list[int]:
    """Return which examples are held out, sorted: whole groups at random, until they are `share` of all or more.

    `groups` are the groups of examples by index. At least one group is held out, and one is left. Raises TrainingError
    where there is one group only.
    """
    sizes: dict[str, int] = {}
    for group in groups.values():
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < 2:
        raise TrainingError(
            "validation holds out whole questions, and all examples are of one. Leave validation out, or give more."
        )
    chosen: set[str] = set()
    wanted, found = share * len(groups), 0
    for group in sorted(sizes, key=lambda group: seed_of(seed, "validation", group)):
        if found >= wanted or len(chosen) == len(sizes) - 1:
            break
        chosen.add(group)
        found += sizes[group]
    return [index for index, group in groups.items() if group in chosen]


def best_step(measured: Sequence[tuple[float, float]]) -> int | None:
    """Return the step of the lowest of the (step, loss) pairs, of equal ones the first; None without any."""
    return int(min(measured, key=lambda one: (one[1], one[0]))[0]) if measured else None


def has_lost_patience(measured: Sequence[tuple[float, float]], patience: int | None) -> bool:
    """Return whether the last `patience` of the (step, loss) pairs are no better than the best before them."""
    if patience is None or len(measured) <= patience:
        return False
    losses = [loss for _, loss in measured]
    return min(losses[-patience:]) >= min(losses[:-patience])


@dataclass(frozen=True)
class Validation:
    """The held-out `rows` of one training, in batches of similar length, and the file of the best weights so far."""

    settings: ValidationSettings
    rows: Sequence[int]
    batches: Sequence[Sequence[int]]
    folder: Path

    @classmethod
    def of(
        cls, settings: ValidationSettings, lengths: Mapping[int, int], batch_size: int, folder: Path
    ) -> Validation:
        """`lengths` are those of the held-out examples by index; `folder` is that of the run."""
        rows = sorted(lengths, key=lambda index: (lengths[index], index))
        batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
        return cls(settings, rows, batches, folder)

    def is_due(self, step: int, last: bool) -> bool:
        """Return whether the loss is measured after this step."""
        return last or step % self.settings.every == 0

    def measure(self, trainer: Any) -> float:
        """Return the mean loss of all held-out examples under the trainer's weights, in the unit of its training."""
        import torch

        model, total, weight = trainer.model, 0.0, 0.0
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for batch in self.batches:
                    inputs = trainer.data_collator([{"row": row} for row in batch])
                    inputs = {name: tensor.to(trainer.args.device) for name, tensor in inputs.items()}
                    part, size = trainer.summed_loss(model, inputs)
                    total, weight = total + part, weight + size
        finally:
            model.train(was_training)
        return total / weight

    def keep(self, model: Any, step: int) -> None:
        """Write the trained weights as the best so far, whole or not at all. All ranks call it, and rank 0 writes."""
        from safetensors.torch import save_file

        if ranks.is_first():
            path = self.folder / _BEST
            temporary = path.with_suffix(".tmp")
            weights = {name: weight.detach().contiguous() for name, weight in _trained(model).items()}
            save_file(weights, temporary, metadata={"step": str(step)})
            sync(temporary)
            temporary.replace(path)
        ranks.wait()

    def restore(self, model: Any, step: int) -> None:
        """Give the model the weights that `keep` wrote at this step.

        Raises TrainingError where the file has others.
        """
        import torch
        from safetensors import safe_open

        with safe_open(self.folder / _BEST, framework="pt") as kept, torch.no_grad():
            if (found := kept.metadata().get("step")) != str(step):
                raise TrainingError(
                    f"{self.folder / _BEST} has the weights of step {found}, and the lowest validation loss is that of "
                    f"step {step}. Delete {self.folder} to train again."
                )
            for name, weight in _trained(model).items():
                weight.copy_(kept.get_tensor(name))


def _trained(model: Any) -> dict[str, Any]:
    """Return the weights that are trained, tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
