"""What all trainers here have in common, over whichever trainer of TRL does the work.

Imports torch and transformers; import it where training starts.

Changed against trl 1.16:
- A loss that is not finite stops training at its step.
- An adapter is left as it was made; see `adapters`.
- No telemetry, no model card, nothing printed.
- A checkpoint is marked complete once it is whole and flushed.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.language_model.paid import PAID
from selfimprove_dagster.training import ranks
from selfimprove_dagster.training.adapters import inner, undisturbed
from selfimprove_dagster.training.chunked_logits import chunk_logits
from selfimprove_dagster.training.folders import COMPLETE, sync
from selfimprove_dagster.training.memory import AS_IT_COMES, MemorySettings
from selfimprove_dagster.training.validation import (
    VALIDATION_LOSS,
    Validation,
    best_step,
    has_lost_patience,
)


class ResumableTrainer:
    """Mixed in before one of TRL's trainers, each rank of which has one device.

    `on_log` is called with step, loss (mean since the last call), learning_rate, grad_norm (before clipping),
    seconds of training, those of interrupted attempts included, and the trainer's `measures`; where answers of
    providers were paid for, also with their `money` so far.
    """

    measures: tuple[tuple[str, str], ...] = ()
    """What the log has besides: its name there, and the name that TRL or a subclass gives it."""

    accelerator: Any
    validation: Validation | None = None
    """The examples that are held out, if any; those of a subclass with `summed_loss`."""

    args: Any
    model: Any
    ref_model: Any
    state: Any
    _initial_global_step: int

    def __init__(
        self,
        *args: Any,
        memory: MemorySettings = AS_IT_COMES,
        on_log: Callable[[dict[str, float]], None] | None = None,
        validation: Validation | None = None,
        **kwargs: Any,
    ):
        self.validation, self._measured = validation, dict[int, float]()
        self.memory = memory
        if memory.logits is not None and kwargs["model"].get_output_embeddings() is not None:
            chunk_logits(kwargs["model"], memory.logits)
        with undisturbed(kwargs.get("model")):
            super().__init__(*args, **kwargs)
        if memory.logits is not None and getattr(self, "ref_model", None) is not None:
            chunk_logits(self.ref_model, memory.logits)
        self._on_log = on_log if ranks.is_first() else None
        self._started, self._paid = time.monotonic(), PAID.money
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)  # type: ignore[attr-defined]
        self.add_callback(_Steps(self.before_commit, self._stops_after))  # type: ignore[attr-defined]

    @cached_property
    def is_lean(self) -> bool:
        """Whether the output layer can be run at chosen positions, and without TRL's fused one.

        TRL's kernel for it skips positions on a GPU only, and saves memory there.
        """
        forward = type(inner(self.model)).forward
        has_experts = getattr(self, "aux_loss_enabled", False)
        takes_positions = "logits_to_keep" in inspect.signature(forward).parameters
        return self.args.device.type == "cpu" and not has_experts and takes_positions

    @property
    def in_chunks(self) -> bool:
        """Return whether the lean losses compute the logits of some positions at a time."""
        return self.memory.logits is not None

    @property
    def training_log(self) -> list[dict[str, float]]:
        """What was logged, from step 1 on, whichever attempt logged it."""
        names = {key: key for key in ("step", "loss", "learning_rate", "grad_norm", "seconds")}
        names |= dict(self.measures)
        return [
            {
                **{key: row[name] for key, name in names.items()},
                **{key: row[key] for key in ("money", VALIDATION_LOSS) if key in row},
            }
            for row in self.state.log_history
            if "loss" in row
        ]

    @property
    def validation_losses(self) -> list[tuple[float, float]]:
        """The (step, loss) pairs of the held-out examples, whichever attempt measured them."""
        logged = {
            int(row["step"]): row[VALIDATION_LOSS] for row in self.training_log if VALIDATION_LOSS in row
        }
        return sorted((logged | self._measured).items())

    @property
    def kept_step(self) -> int | None:
        """The step whose weights are kept; None where they are those of the last step, whatever the loss."""
        if self.validation is None or not self.validation.settings.best:
            return None
        return best_step(self.validation_losses)

    def _stops_after(self, step: int, last: bool) -> bool | None:
        """Measure the held-out examples where this is due, and return whether training stops there; else None."""
        if self.validation is None or not self.validation.is_due(step, last):
            return None
        self._measured[step] = self.validation.measure(self)
        if self.kept_step == step:
            self.validation.keep(self.model, step)
        return has_lost_patience(self.validation_losses, self.validation.settings.patience)

    def before_commit(self, step: int) -> None:
        """Put down what belongs to the checkpoint of `step`, which is then marked complete."""

    def over_ranks(self, mean: torch.Tensor) -> float:
        """Return the mean of a batch's measure over all ranks, whose parts of the batch have one size."""
        return float(self.accelerator.reduce(mean.detach(), reduction="mean"))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch, forward and backward; raises TrainingError where its loss is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not math.isfinite(loss.item()):
            step = self.state.global_step + 1
            raise TrainingError(
                f"The loss became {loss.item()} at step {step} of {self.args.max_steps}. "
                f"Lower the learning rate (now {self.args.learning_rate:g}) or raise warmup_fraction."
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the seconds of training and hand the entry on; the trainer's closing summary is left out."""
        if "loss" not in logs:
            return
        logs["seconds"] = round(self._earlier("seconds") + time.monotonic() - self._started, 3)
        if money := self.money:
            logs["money"] = money
        if (step := self.state.global_step) in self._measured:
            logs[VALIDATION_LOSS] = self._measured[step]
        super().log(logs, start_time)  # type: ignore[misc]
        if self._on_log is not None:
            self._on_log(self.training_log[-1])

    @property
    def money(self) -> float:
        """Return the dollars that the training has cost so far on all ranks, which all have to ask.

        Earlier attempts are included up to their last checkpoint.
        """
        return round(self._earlier("money") + sum(ranks.gathered([PAID.money - self._paid])), 9)

    def _earlier(self, name: str) -> float:
        """Return a value of the log at the checkpoint that training resumed at; 0 without one."""
        entries = self.state.log_history[: self._resumed_entries]
        return float(entries[-1].get(name, 0.0)) if entries else 0.0

    @property
    def _resumed_entries(self) -> int:
        """How many log entries came from the checkpoint that training resumed at."""
        return sum(row["step"] <= self._initial_global_step for row in self.state.log_history)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: the origin of a checkpoint is in the lineage."""

    def _send_telemetry(self) -> None:
        """Send no telemetry."""


class _Steps(TrainerCallback):
    """When to log and save besides the trainer's own intervals, and what marks a checkpoint whole."""

    def __init__(
        self, before_commit: Callable[[int], None], stops_after: Callable[[int, bool], bool | None]
    ) -> None:
        self._before_commit, self._stops_after = before_commit, stops_after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = state.global_step >= state.max_steps
        stops = self._stops_after(state.global_step, last)
        if stops is not None:
            control.should_log = True
            # No checkpoint is saved at the step that stops, so a run that is killed after it stops there again.
            last = control.should_training_stop = stops or last
        # The mean loss since the last entry is not part of a checkpoint. With an entry at each one, the log
        # of a resumed run is that of an undisturbed one.
        control.should_log = control.should_log or control.should_save or last
        # The model is about to be written anyway.
        control.should_save = control.should_save and not last

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        ranks.wait()  # each has written its part
        if ranks.is_first():
            sync(checkpoint)
            self._before_commit(state.global_step)
            (checkpoint / COMPLETE).touch()
            sync(checkpoint)
        ranks.wait()
        PAID.settle()  # the log of the checkpoint counts the answers so far
