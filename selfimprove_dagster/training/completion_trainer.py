"""TRL's SFTTrainer, with what fine-tuning inside a pipeline needs and without what it does not.

Imports torch, transformers and TRL; import it where training starts.

Changed against trl 1.16, besides what `resumable_trainer` changes:
- On the CPU the loss is computed on the positions that carry it. TRL projects every position through the
  output head there, in float32 chunks, to also report entropy and token accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfimprove_dagster.training.resumable_trainer import ResumableTrainer

IGNORED = -100
"""Label of a token that carries no loss."""


class Example(Protocol):
    """A prompt, which carries no loss, and the completion to learn."""

    @property
    def prompt_token_ids(self) -> list[int]: ...

    @property
    def completion_token_ids(self) -> list[int]: ...


class ExampleCollator:
    """Rows that name examples → `input_ids` and `labels`, padded on the right."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        # The padding token is masked out and, on the right, seen by no other: any id will do. With a
        # collator of ours TRL leaves the tokenizer and the configs as they are.
        self._pad = DataCollatorForLanguageModeling(pad_token_id=0)

    def __call__(self, rows: Sequence[dict[str, int]]) -> Any:
        features = []
        for example in (self._examples[row["row"]] for row in rows):
            prompt, completion = example.prompt_token_ids, example.completion_token_ids
            # Nothing predicts a first token, and the trainer would count it when it averages.
            labels = [IGNORED, *[*[IGNORED] * len(prompt), *completion][1:]]
            features.append({"input_ids": prompt + completion, "labels": labels})
        return self._pad(features)


class CompletionTrainer(ResumableTrainer, SFTTrainer):
    """SFTTrainer over rows that name examples; losses are in nats a labelled token."""

    def summed_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Return the negative log-likelihood, in nats, of a batch's labelled tokens, and their number."""
        labelled = (inputs["labels"] != IGNORED).sum().item()
        one = torch.ones((), device=inputs["labels"].device)
        with self.accelerator.autocast():
            loss = self.compute_loss(model, inputs, num_items_in_batch=one)
        self._metrics["eval"].clear()
        return loss.item(), labelled

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean negative log-likelihood, in nats, of the labelled tokens of the optimizer step's batches."""
        if not self.is_lean or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][:, 1:]
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        # Rows are padded on the right, and no token sees what follows it: without a mask the real tokens are
        # computed just the same, by the attention kernel for plain causal masks, which is the fastest.
        logits = model(input_ids=inputs["input_ids"], logits_to_keep=columns, use_cache=False).logits
        targets = targets[:, columns]
        total = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / ((targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
