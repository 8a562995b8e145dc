"""Supervised fine-tuning on completions: `fine_tune`.

Huang et al., "Large Language Models Can Self-Improve" (arXiv 2210.11610, section 4) fine-tune for 10,000
steps at learning rate 5e-5 with batches of 32 on the model's own voted answers. Here the optimizer is AdamW
(betas 0.9 and 0.999) with gradients clipped at norm 1, through TRL's SFTTrainer, on one device a process.

Deviations from TRL's defaults: examples come as token ids, so that what was generated is what is learnt, and
are never truncated; batches are of examples of similar length, in an order that the seed alone decides;
gradient checkpointing is off unless `MemorySettings` turn it on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.mixing import plan_mixed
from selfimprove_dagster.training.run import (
    Run,
    complete,
    configured,
    divided,
    kept,
    load,
    plan_batches,
    summary,
    train_to_the_end,
    write,
)
from selfimprove_dagster.training.settings import (
    LogEntry,
    TrainingOutcome,
    TrainingSettings,
    check_tokens,
    hash_texts,
    longer_than,
    none_usable,
)
from selfimprove_dagster.training.surroundings import deterministic_kernels

__all__ = [
    "LogEntry",
    "SupervisedSettings",
    "TokenisedExample",
    "TrainingOutcome",
    "fine_tune",
    "plan_batches",
]


@dataclass(frozen=True)
class SupervisedSettings(TrainingSettings):
    """How to fine-tune; an example is a prompt with its completion."""

    packs: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenisedExample:
    """A prompt, which carries no loss, and the completion to learn, its end-of-sequence token included.

    `problem` is why the prompt cannot be asked, such as that the chat template refuses it; such an example is left out
    of the training. Examples of one `group`, by default those of one prompt, are held out together. `general` ones are
    mixed in, and never held out.
    """

    prompt_token_ids: list[int]
    completion_token_ids: list[int]
    problem: str = ""
    group: str = ""
    general: bool = False

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.completion_token_ids)

    @property
    def held_out_with(self) -> str:
        """Return the group, or the prompt where there is none."""
        return self.group or str(self.prompt_token_ids)


def fine_tune(
    base: str | Path,
    examples: Sequence[TokenisedExample],
    output: Path,
    settings: SupervisedSettings,
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
) -> TrainingOutcome:
    """Fine-tune the model at `base` on the completions of `examples` and write it to `output`.

    The weights are determined by the base's weights, the examples and their order, the settings, the seed
    and `dtype`, for one device, one thread count and one version of torch. Killed at any moment and called
    again, it goes on from the last checkpoint and ends with the same weights; called with an `output` that
    is already this model, it returns what that folder says. `output` appears whole or not at all. `on_log`
    is called with each entry of the log, its `tokens`, those trained on so far, and the `steps` of the training.

    `device` is "auto", "cpu" or "cuda". `dtype` "float32" computes and saves in it; "bfloat16" computes in it
    on float32 weights and saves bfloat16.

    Raises ModelError if the base is missing or cannot be loaded; TrainingError if there is nothing to train
    on, an example has no completion or token ids beyond the vocabulary, the loss is not finite, memory runs
    out, or `output` holds another model.
    """
    run = Run.of(
        base,
        output,
        settings,
        seed=seed,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    groups = (example.held_out_with for example in examples)
    determinants = run.determinants(
        examples=_hash_examples(examples),
        **run.grouping(groups),
        **({} if settings.mix_share is None else {"general": hash_texts(map(str, _general(examples)))}),
    )
    outcome = complete(run, determinants, lambda: _train(run, examples, on_log))
    return TrainingOutcome(path=run.output, **outcome)


def _train(run: Run, examples: Sequence[TokenisedExample], on_log: Callable[[LogEntry], None] | None) -> None:
    """Train in `run.partial` and leave the whole model in `run.partial/finished`."""
    from datasets import Dataset
    from trl import SFTConfig

    from selfimprove_dagster.training.completion_trainer import (
        CompletionTrainer,
        ExampleCollator,
        PackingCollator,
        check_packing,
    )

    model, tokenizer = load(run)
    usable, left_out = _usable(examples, run, model.config.get_text_config())
    general = [*_general(examples)] if run.settings.mix_share is not None else []
    mixed_in = {index: usable.pop(index) for index in general if index in usable}
    if not usable:
        why = f", the first since {left_out[0][1]}" if left_out else ""
        raise TrainingError(f"There is no example of the dataset to train on, but general ones alone{why}.")
    trained, validation = divided(run, usable, lambda index: examples[index].held_out_with)
    run = run.planned(len(trained))
    settings, on_cpu = run.settings, run.on_cpu
    rows, lengths = [*trained, *mixed_in], [*trained.values(), *mixed_in.values()]
    batches = plan_mixed(lengths, len(mixed_in), settings, run.seed)
    collator = ExampleCollator(examples)
    if run.memory.packing:
        check_packing(model)
        collator = PackingCollator(examples, run.max_length(model.config.get_text_config()))
    seen = list(accumulate(sum(lengths[index] for index in batch) for batch in batches))

    def log_with_tokens(entry: LogEntry) -> None:
        if on_log is not None:
            last_batch = int(entry["step"]) * settings.gradient_accumulation - 1
            on_log({**entry, "tokens": seen[last_batch], "steps": settings.steps})

    with deterministic_kernels(on_cpu):
        trainer = CompletionTrainer(
            model=model,
            args=configured(
                SFTConfig,
                run,
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
                remove_unused_columns=False,
            ),
            # In the order in which they are trained on.
            train_dataset=Dataset.from_dict({"row": [rows[index] for batch in batches for index in batch]}),
            data_collator=collator,
            memory=run.memory,
            processing_class=tokenizer,
            on_log=log_with_tokens,
            validation=validation,
        )
        train_to_the_end(run, trainer)
        held_out = kept(trainer)
    log = trainer.training_log
    done = int(log[-1]["step"]) * settings.gradient_accumulation
    outcome = summary(
        log,
        tokens=seen[done - 1],
        examples=len(trained),
        dropped=len(left_out),
        left_out=left_out,
        mixed=sorted({rows[at] for batch in batches[:done] for at in batch} & mixed_in.keys()),
        **held_out,
    )
    write(run, trainer.model, outcome, loss="loss (nats a token)")


def _general(examples: Sequence[TokenisedExample]) -> Iterator[int]:
    """Yield the indices of the general examples."""
    yield from (index for index, example in enumerate(examples) if example.general)


def _hash_examples(examples: Sequence[TokenisedExample]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(f"{example.prompt_token_ids}{example.completion_token_ids}\n".encode())
    return f"b2:{digest.hexdigest()}"


def _usable(
    examples: Sequence[TokenisedExample], run: Run, config: Any
) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """The examples that fit, as their lengths by index, and the others with their problems.

    Raises TrainingError where one is malformed or none fits.
    """
    lengths, refused = {}, []
    for number, example in enumerate(examples):
        if example.problem:
            refused.append((number, example.problem))
            continue
        check_tokens(
            f"Example {number}", example.prompt_token_ids, example.completion_token_ids, config.vocab_size
        )
        lengths[number] = example.length
    max_length = run.max_length(config)
    usable = {number: length for number, length in lengths.items() if length <= max_length}
    if not examples:
        raise TrainingError("There are no examples to train on. See what the filters before it dropped.")
    if not usable:
        raise none_usable("examples", refused, len(lengths), max_length)
    return usable, [*refused, *longer_than(max_length, lengths)]
