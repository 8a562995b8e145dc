"""TRL's RewardTrainer and DPOTrainer on comparisons whose labels are probabilities.

Imports torch, transformers and TRL; import it where training starts.

Changed against trl 1.16, besides what `resumable_trainer` changes:
- Each comparison has a label of its own between 0 and 1. TRL's reward loss knows hard labels only, and its
  DPO one smoothing for all.
- The two sides may follow different prompts.
- A reward is read at the last token of its sequence. TRL looks for the last that is not padding, which is the
  one before where a model pads with its end-of-sequence token.
- On the CPU, DPO's log-probabilities are computed where there are completion tokens; TRL projects every
  position through the output head, to also report entropy and token accuracy.
- The reference's log-probabilities are computed once for each comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from trl import DPOTrainer, RewardTrainer

from selfimprove_dagster.training import ranks
from selfimprove_dagster.training.adapters import switched_off
from selfimprove_dagster.training.chunked_logits import IGNORED
from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.last_token import last_token_rewards
from selfimprove_dagster.training.resumable_trainer import ResumableTrainer


def soft_label_loss(margins: Tensor, probabilities: Tensor) -> Tensor:
    """−[p · ln σ(m) + (1 − p) · ln σ(−m)] of each margin, in nats."""
    return -(
        probabilities * functional.logsigmoid(margins) + (1 - probabilities) * functional.logsigmoid(-margins)
    )


class PairCollator:
    """Rows that name comparisons → tensors, all first sides before all second sides, padded on the right.

    `input_ids`: [2 × pairs, length]; `prompt_lengths`, `lengths`: [2 × pairs]; `probabilities`, `rows`:
    [pairs].
    """

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self.comparisons = comparisons

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        chosen = [self.comparisons[row["row"]] for row in rows]
        prompts, completions = (
            [getattr(comparison, name)[side] for side in (0, 1) for comparison in chosen]
            for name in ("prompts", "completions")
        )
        sequences = [
            torch.tensor(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return {
            # The content of the padding affects no token and is never read.
            "input_ids": torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True),
            "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts]),
            "lengths": torch.tensor([len(sequence) for sequence in sequences]),
            "probabilities": torch.tensor([comparison.probability for comparison in chosen]),
            "rows": torch.tensor([row["row"] for row in rows]),
        }


class PairTrainer(ResumableTrainer):
    """What both have in common: the loss of a batch's margins, and what is noted of them."""

    measures = (("accuracy", "accuracy"), ("margin", "margin"))
    model: Any
    _metrics: Any

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """As it is: rows name comparisons, which the collator has."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Mean over the batch's comparisons, in nats."""
        with self.accelerator.autocast():
            margins = self.margins(model, inputs)
        probabilities = inputs["probabilities"]
        agreement = margins.detach().sign() * (probabilities - 0.5).sign()
        noted = self._metrics["train"]
        noted["accuracy"].append((self.over_ranks(agreement.mean()) + 1) / 2)
        noted["margin"].append(self.over_ranks(margins.mean()))
        return soft_label_loss(margins, probabilities).mean()

    def summed_loss(self, model: Any, inputs: dict[str, Tensor]) -> tuple[float, float]:
        """Return the loss of a batch's comparisons, in nats, and their number."""
        with self.accelerator.autocast():
            margins = self.margins(model, inputs)
        loss = soft_label_loss(margins, inputs["probabilities"])
        return loss.sum().item(), len(loss)

    def margins(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """How far the model has each first side before the second: [pairs], in nats."""
        raise NotImplementedError


class SoftRewardTrainer(PairTrainer, RewardTrainer):
    """The margin is the difference of two rewards (Bradley and Terry's model)."""

    def __init__(self, model: Any, **arguments: Any) -> None:
        self._read = last_token_rewards
        if ranks.started() > 1:
            # Ranks average the gradients of what the model itself is called for, so this is what it is called for.
            model.forward = partial(last_token_rewards, model)
            self._read = nn.Module.__call__
        super().__init__(model=model, **arguments)

    def margins(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        first, second = self._read(model, inputs["input_ids"], inputs["lengths"]).chunk(2)
        return first - second


class SoftPreferenceTrainer(PairTrainer, DPOTrainer):
    """The margin is β times the difference of two log-ratios of policy and reference."""

    def margins(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        reference = self._reference[inputs["rows"]].T.reshape(-1)
        first, second = (self._log_probabilities(model, inputs) - reference).chunk(2)
        margins: Tensor = self.beta * (first - second)
        return margins

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Fill the table of the reference's log-probabilities [comparisons, 2], by the base."""
        held_out = self.validation.rows if self.validation else ()
        used = {*dataset["row"], *held_out}
        rows = sorted(used, key=lambda row: max(self.data_collator.comparisons[row].lengths))
        device = self.args.device
        self._reference = torch.zeros(len(self.data_collator.comparisons), 2, device=device)
        if self.is_fsdp_enabled:  # the trainer leaves the model on the CPU until it is shared out
            self.model.to(device)
        with torch.no_grad(), self.accelerator.autocast(), switched_off(self.model):
            size = batch_size * self.accelerator.num_processes
            starts = range(0, len(rows), size)
            for start in starts[self.accelerator.process_index :: self.accelerator.num_processes]:
                part = rows[start : start + size]
                inputs = self.data_collator([{"row": row} for row in part])
                inputs = {key: value.to(device) for key, value in inputs.items()}
                first, second = self._log_probabilities(self.model, inputs).chunk(2)
                self._reference[inputs["rows"]] = torch.stack([first, second], dim=1)
        self._reference = self.accelerator.reduce(self._reference, reduction="sum")
        return dataset

    def _log_probabilities(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """ln p of each completion given its prompt, [2 × pairs]."""
        ids, positions = (
            inputs["input_ids"],
            torch.arange(inputs["input_ids"].shape[1], device=self.args.device),
        )
        is_target = (positions >= inputs["prompt_lengths"][:, None]) & (
            positions < inputs["lengths"][:, None]
        )
        if not self.is_lean:
            labels = ids.masked_fill(~is_target, IGNORED)
            mask = (positions < inputs["lengths"][:, None]).long()
            outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
            total: Tensor = outputs.log_probs.sum(1)
            return total
        if self.in_chunks:
            labels = ids.masked_fill(~is_target, IGNORED)
            chunked: Tensor = model(input_ids=ids, labels=labels, in_chunks=True).log_probs.sum(1)
            return chunked
        # Nothing predicts a first token.
        is_target = is_target[:, 1:]
        columns = is_target.any(dim=0).nonzero().squeeze(1)
        logits = model(input_ids=ids, logits_to_keep=columns, use_cache=False).logits.float()
        targets = ids[:, 1:][:, columns, None]
        log_probabilities = logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(-1)
        return (log_probabilities * is_target[:, columns]).sum(1)
