"""The common parts of training on comparisons: which are used, in what order, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from selfimprove_dagster.training.comparisons import Comparison, usable_comparisons
from selfimprove_dagster.training.run import Run, divided, kept, plan_batches, summary
from selfimprove_dagster.training.settings import LogEntry


class PairTraining:
    """The comparisons of a run, planned into batches of similar length; `run` has the planned steps."""

    def __init__(self, run: Run, comparisons: Sequence[Comparison], config: Any) -> None:
        """`config`: that of the model's text part. Raises TrainingError as `usable_comparisons` does."""
        self._comparisons = comparisons
        usable, self._left_out = usable_comparisons(
            comparisons, vocabulary=config.vocab_size, max_length=run.max_length(config)
        )
        longest = {index: max(sides) for index, sides in usable.items()}
        trained, self._validation = divided(run, longest, lambda index: comparisons[index].held_out_with)
        self.run = run = run.planned(len(trained))
        self._examples = len(trained)
        rows, lengths = [*trained], [usable[index] for index in trained]
        batches = plan_batches([*trained.values()], run.settings, run.seed)
        self._order = [rows[index] for batch in batches for index in batch]
        sizes = [sum(sides) for sides in lengths]
        self._seen = list(accumulate(sum(sizes[index] for index in batch) for batch in batches))

    def arguments(self, on_log: Callable[[LogEntry], None] | None) -> dict[str, Any]:
        """What a trainer of `pair_trainers` takes: its data, and whom to tell, with the `tokens` so far."""
        from datasets import Dataset

        from selfimprove_dagster.training.pair_trainers import PairCollator

        def log_with_tokens(entry: LogEntry) -> None:
            if on_log is not None:
                on_log({**entry, "tokens": self._tokens(entry), "steps": self.run.settings.steps})

        return {
            "train_dataset": Dataset.from_dict({"row": self._order}),
            "data_collator": PairCollator(self._comparisons),
            "on_log": log_with_tokens,
            "validation": self._validation,
        }

    def finished(self, trainer: Any) -> dict[str, Any]:
        """Give the model the weights that are kept, and return the fields of a `TrainingOutcome` but its path.

        Tokens are those of both sides.
        """
        log = trainer.training_log
        return summary(
            log,
            tokens=self._tokens(log[-1]),
            examples=self._examples,
            dropped=len(self._left_out),
            left_out=self._left_out,
            **kept(trainer),
        )

    def _tokens(self, entry: LogEntry) -> int:
        """The tokens that were trained on up to the step of an entry of the log."""
        return self._seen[int(entry["step"]) * self.run.settings.gradient_accumulation - 1]
