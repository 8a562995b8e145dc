"""The common parts of training on comparisons: which are used, in what order, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from selfimprove_dagster.training.comparisons import Comparison, usable_comparisons
from selfimprove_dagster.training.run import Run, plan_batches, summary
from selfimprove_dagster.training.settings import LogEntry


class PairTraining:
    """The comparisons of a run, planned into batches of similar length."""

    def __init__(self, run: Run, comparisons: Sequence[Comparison], config: Any) -> None:
        """`config`: that of the model's text part. Raises TrainingError as `usable_comparisons` does."""
        self._run = run
        self._comparisons = comparisons
        usable, self._left_out = usable_comparisons(
            comparisons, vocabulary=config.vocab_size, max_length=run.max_length(config)
        )
        self._examples = len(usable)
        rows, lengths = [*usable], [*usable.values()]
        batches = plan_batches([max(sides) for sides in lengths], run.settings, run.seed)
        self._order = [rows[index] for batch in batches for index in batch]
        sizes = [sum(sides) for sides in lengths]
        self._seen = list(accumulate(sum(sizes[index] for index in batch) for batch in batches))

    def arguments(self, on_log: Callable[[LogEntry], None] | None) -> dict[str, Any]:
        """What a trainer of `pair_trainers` takes: its data, and whom to tell, with the `tokens` so far."""
        from datasets import Dataset

        from selfimprove_dagster.training.pair_trainers import PairCollator

        def log_with_tokens(entry: LogEntry) -> None:
            if on_log is not None:
                last_batch = int(entry["step"]) * self._run.settings.gradient_accumulation - 1
                on_log({**entry, "tokens": self._seen[last_batch]})

        return {
            "train_dataset": Dataset.from_dict({"row": self._order}),
            "data_collator": PairCollator(self._comparisons),
            "on_log": log_with_tokens,
        }

    def summary(self, log: list[LogEntry]) -> dict[str, Any]:
        """The fields of a `TrainingOutcome` but its path; tokens are those of both sides."""
        return summary(
            self._run,
            log,
            tokens=self._seen[-1],
            examples=self._examples,
            dropped=len(self._left_out),
            left_out=self._left_out,
        )
