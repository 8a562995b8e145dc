"""TRL's SFTTrainer, with what fine-tuning inside a pipeline needs and without what it does not.

Imports torch, transformers and TRL; import it where training starts.

Changed against trl 1.16, besides what `resumable_trainer` changes:
- On the CPU the loss is computed on the positions that carry it. TRL projects every position through the
  output head there, in float32 chunks, to also report entropy and token accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch.nn import functional
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.chunked_logits import IGNORED
from selfimprove_dagster.training.packing import pack
from selfimprove_dagster.training.resumable_trainer import ResumableTrainer


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
        return self._pad([self.labelled(row["row"]) for row in rows])

    def labelled(self, number: int) -> dict[str, list[int]]:
        """Return the token ids of an example, and their labels."""
        example = self._examples[number]
        prompt, completion = example.prompt_token_ids, example.completion_token_ids
        # Nothing predicts a first token, and the trainer would count it when it averages.
        labels = [IGNORED, *[*[IGNORED] * len(prompt), *completion][1:]]
        return {"input_ids": prompt + completion, "labels": labels}


class PackingCollator(ExampleCollator):
    """Like `ExampleCollator`, with the examples of a batch in as few rows of at most `length` tokens as hold them.

    Returns `position_ids` too, which start at 0 with each example. transformers makes the mask of them in which a token
    sees its own example only, where no other mask is given. The padding at the end of a row counts as an example.
    """

    def __init__(self, examples: Sequence[Example], length: float) -> None:
        super().__init__(examples)
        self._length = length

    def __call__(self, rows: Sequence[dict[str, int]]) -> Any:
        examples = [self.labelled(row["row"]) for row in rows]
        packed = pack([len(one["input_ids"]) for one in examples], self._length)
        chosen = [[examples[at] for at in row] for row in packed]
        padded: Any = self._pad(
            [{key: [*chain(*(one[key] for one in row))] for key in ("input_ids", "labels")} for row in chosen]
        )
        width = padded["input_ids"].shape[1]
        positions = []
        for row in chosen:
            lengths = [len(one["input_ids"]) for one in row]
            positions.append([*chain(*map(range, [*lengths, width - sum(lengths)]))])
        del padded["attention_mask"]
        return {**padded, "position_ids": torch.tensor(positions)}


def check_packing(model: Any) -> None:
    """Raise TrainingError if a token of a packed example sees what is before its example, as in recurrent layers."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = [torch.arange(1, 9) % vocabulary, torch.arange(9, 17) % vocabulary]
    positions = torch.arange(8)
    with torch.no_grad():
        alone, packed = (
            model(
                input_ids=torch.cat(some)[None].to(model.device),
                position_ids=torch.cat([positions] * len(some))[None].to(model.device),
                use_cache=False,
            )
            .logits[0, -8:]
            .float()
            for some in (ids[1:], ids)
        )
    # In bfloat16 sums differ in their third digit; those over other tokens differ in their first.
    if (alone - packed).norm() > 0.05 * alone.norm():
        raise TrainingError(
            f"memory.packing is true, and in {type(model).__name__} tokens see the examples before their own in a row: "
            "leave it out."
        )


class CompletionTrainer(ResumableTrainer, SFTTrainer):
    """SFTTrainer over rows that name examples; losses are in nats a labelled token."""

    def summed_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Return the negative log-likelihood, in nats, of a batch's labelled tokens, and their number."""
        labelled = (inputs["labels"] != IGNORED).sum().item()
        # The loss is multiplied by the number of ranks, over whose gradients a mean is taken.
        ranks = torch.tensor(self.accelerator.num_processes, device=inputs["labels"].device)
        with self.accelerator.autocast():
            loss = self.compute_loss(model, inputs, num_items_in_batch=ranks)
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
        packed = {name: inputs[name] for name in ("position_ids",) if name in inputs}
        tokens: torch.Tensor | float = (targets != IGNORED).sum()
        if num_items_in_batch is not None:
            # These are the tokens of all ranks, whose gradients are averaged again.
            tokens = num_items_in_batch / self.accelerator.num_processes
        if self.in_chunks:
            found = model(input_ids=inputs["input_ids"], labels=inputs["labels"], in_chunks=True, **packed)
            return -found.log_probs.sum() / tokens
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        # Rows are padded on the right, and no token sees what follows it: without a mask the real tokens are
        # computed just the same, by the attention kernel for plain causal masks, which is the fastest.
        logits = model(
            input_ids=inputs["input_ids"], logits_to_keep=columns, use_cache=False, **packed
        ).logits
        targets = targets[:, columns]
        total = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / tokens
