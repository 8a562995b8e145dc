"""Supervised fine-tuning on completions: `fine_tune`.

Huang et al., "Large Language Models Can Self-Improve" (arXiv 2210.11610, section 4) fine-tune for 10,000
steps at learning rate 5e-5 with batches of 32 on the model's own voted answers. Here the optimizer is AdamW
(betas 0.9 and 0.999) with gradients clipped at norm 1, through TRL's SFTTrainer, on one device.

Deviations from TRL's defaults: examples come as token ids, so that what was generated is what is learnt, and
are never truncated; batches are of examples of similar length, in an order that the seed alone decides;
gradient checkpointing is off.
"""

from __future__ import annotations

import hashlib
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.plots import line_chart
from selfimprove_dagster.training import folders
from selfimprove_dagster.training.surroundings import deterministic_kernels, quiet

LogEntry = dict[str, float]
_BATCHES_PER_BUCKET = 16
_LOG_ENTRIES = 200


@dataclass(frozen=True)
class SupervisedSettings:
    """How to fine-tune.

    `steps` are optimizer steps, each on `batch_size` × `gradient_accumulation` examples. The learning rate
    rises from 0 during the first `warmup_fraction` of the steps, then stays (constant) or falls to 0 (linear,
    cosine). `max_length` is in tokens, prompt and completion together; a model that has fewer positions
    lowers it. `save_every` is in steps; it does not change the result.
    """

    steps: int
    learning_rate: float
    batch_size: int
    warmup_fraction: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    max_length: int = 1024
    gradient_accumulation: int = 1
    save_every: int = 100


@dataclass(frozen=True)
class TokenisedExample:
    """A prompt, which carries no loss, and the completion to learn, its end-of-sequence token included."""

    prompt_token_ids: list[int]
    completion_token_ids: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.completion_token_ids)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did.

    `tokens` counts prompt and completion tokens over all steps, padding left out; `examples` those trained
    on, each once however often it was seen; `dropped` those longer than `max_length`. `seconds` is the time
    in training, interrupted attempts up to the checkpoint they left included. Losses are means in nats a
    completion token: `first_loss` of step 1, `final_loss` of the steps since the entry before the last in
    `log`, whose entries have step, loss, learning_rate, grad_norm and seconds.
    """

    path: Path
    steps: int
    tokens: int
    examples: int
    dropped: int
    seconds: float
    first_loss: float
    final_loss: float
    log: list[LogEntry]


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
    is called with each entry of the log and its `tokens`, those trained on so far.

    `device` is "auto", "cpu" or "cuda". `dtype` "float32" computes and saves in it; "bfloat16" computes in it
    on float32 weights and saves bfloat16.

    Raises ModelError if the base is missing or cannot be loaded; TrainingError if there is nothing to train
    on, an example has no completion or token ids beyond the vocabulary, the loss is not finite, memory runs
    out, or `output` holds another model.
    """
    _check(settings, device, dtype)
    base_folder = model_folder(base, trust_remote_code=trust_remote_code)
    output = Path(output)
    determinants = {
        "base": weights_hash(base_folder),
        "examples": _hash_examples(examples),
        "settings": {key: value for key, value in asdict(settings).items() if key != "save_every"},
        "seed": seed,
        "dtype": dtype,
    }
    partial = output.with_name(output.name + ".partial")
    if not folders.is_finished(output, determinants):
        with folders.locked(partial):
            # Another process may have finished it between the two looks.
            if not folders.is_finished(output, determinants):
                folders.clear_unless_same(partial, determinants)
                with quiet():
                    run = _Run(base_folder, partial, settings, seed, device, dtype, trust_remote_code)
                    _train(run, examples, on_log)
                folders.publish(partial / folders.FINISHED, output)
            shutil.rmtree(partial)
    return TrainingOutcome(path=output, **folders.read_json(output / folders.LOG))


def plan_batches(lengths: Sequence[int], settings: SupervisedSettings, seed: int) -> list[list[int]]:
    """Which examples each batch holds: `steps` × `gradient_accumulation` lists of `batch_size` indices.

    Each pass over the examples is shuffled. Runs of 16 batches are sorted by length before they are cut into
    batches, which leaves little padding, and the batches of a run are shuffled.
    """
    shuffler = random.Random(seed)
    batches_wanted = settings.steps * settings.gradient_accumulation
    order: list[int] = []
    while len(order) < batches_wanted * settings.batch_size:
        epoch = list(range(len(lengths)))
        shuffler.shuffle(epoch)
        order += epoch
    order = order[: batches_wanted * settings.batch_size]
    batches = []
    bucket_size = settings.batch_size * _BATCHES_PER_BUCKET
    for start in range(0, len(order), bucket_size):
        bucket = sorted(order[start : start + bucket_size], key=lambda index: lengths[index])
        cut = [bucket[at : at + settings.batch_size] for at in range(0, len(bucket), settings.batch_size)]
        shuffler.shuffle(cut)
        batches += cut
    return batches


@dataclass(frozen=True)
class _Run:
    """What `fine_tune` was asked for, besides the examples."""

    base: Path
    partial: Path
    settings: SupervisedSettings
    seed: int
    device: str
    dtype: str
    trust_remote_code: bool


def _train(
    run: _Run, examples: Sequence[TokenisedExample], on_log: Callable[[LogEntry], None] | None
) -> None:
    """Train in `run.partial` and leave the whole model in `run.partial/finished`."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from selfimprove_dagster.training.completion_trainer import CompletionTrainer

    settings = run.settings
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ModelError('device "cuda" was asked for and torch finds none. Use "auto" or "cpu".')
    on_cpu = run.device == "cpu" or not torch.cuda.is_available()
    model, tokenizer = _load(run.base, run.trust_remote_code)
    usable = _usable(examples, settings, model.config.get_text_config())
    batches = plan_batches([example.length for example in usable], settings, run.seed)
    seen = list(accumulate(sum(usable[index].length for index in batch) for batch in batches))

    def log_with_tokens(entry: LogEntry) -> None:
        if on_log is not None:
            last_batch = int(entry["step"]) * settings.gradient_accumulation - 1
            on_log({**entry, "tokens": seen[last_batch]})

    with deterministic_kernels(on_cpu):
        trainer = CompletionTrainer(
            model=model,
            args=_arguments(run, on_cpu),
            train_dataset=_dataset(usable, batches),
            # The padding token is masked out and, on the right, seen by no other: any id will do. With a
            # collator of ours TRL leaves the tokenizer and the configs as they are.
            data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
            processing_class=tokenizer,
            on_log=log_with_tokens,
        )
        # From here it would only be saved with each checkpoint, and its special tokens forced on the model.
        trainer.processing_class = None
        checkpoint = folders.last_checkpoint(run.partial / folders.CHECKPOINTS)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Out of memory with batches of {settings.batch_size}. Lower batch_size and raise "
                "gradient_accumulation by the same factor, or lower max_length."
            ) from error

    # A step that blows up is seen in the next step's loss, which the last step does not have.
    if not all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters()):
        raise TrainingError(
            f"The weights are not finite after step {settings.steps}. "
            f"Lower the learning rate (now {settings.learning_rate:g}), or see whether those of the base are."
        )
    log = trainer.training_log
    outcome = {
        "steps": settings.steps,
        "tokens": seen[-1],
        "examples": len(usable),
        "dropped": len(examples) - len(usable),
        "seconds": log[-1]["seconds"],
        "first_loss": log[0]["loss"],
        "final_loss": log[-1]["loss"],
        "log": log,
    }
    _write(run, trainer.model.to(getattr(torch, run.dtype)), outcome)


def _write(run: _Run, model: Any, outcome: dict[str, Any]) -> None:
    """Fill `run.partial/finished`."""
    finished = run.partial / folders.FINISHED
    shutil.rmtree(finished, ignore_errors=True)
    model.save_pretrained(finished)
    folders.copy_companions(run.base, finished, dtype=run.dtype, trust_remote_code=run.trust_remote_code)
    shutil.copyfile(run.partial / folders.DETERMINANTS, finished / folders.DETERMINANTS)
    folders.write_json(finished / folders.LOG, outcome)
    points = {"loss": [(entry["step"], entry["loss"]) for entry in outcome["log"]]}
    chart = line_chart(points, x="step", y="loss (nats a token)", title="Training loss")
    (finished / "loss.png").write_bytes(chart)


def _check(settings: SupervisedSettings, device: str, dtype: str) -> None:
    for name in ("steps", "batch_size", "max_length", "gradient_accumulation", "save_every"):
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name} is {getattr(settings, name)}; it must be at least 1.")
    if not (0 < settings.learning_rate < math.inf):
        raise TrainingError(f"learning_rate is {settings.learning_rate}; it must be above 0.")
    if not 0 <= settings.warmup_fraction <= 1:
        raise TrainingError(f"warmup_fraction is {settings.warmup_fraction}; it must lie between 0 and 1.")
    if settings.schedule not in ("constant", "linear", "cosine"):
        raise TrainingError(f"schedule is {settings.schedule!r}; it must be constant, linear or cosine.")
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f'device is {device!r}; it must be "auto", "cpu" or "cuda".')
    if dtype not in ("float32", "bfloat16"):
        raise TrainingError(f'dtype is {dtype!r}; it must be "float32" or "bfloat16".')


def _hash_examples(examples: Sequence[TokenisedExample]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(f"{example.prompt_token_ids}{example.completion_token_ids}\n".encode())
    return f"b2:{digest.hexdigest()}"


def _usable(
    examples: Sequence[TokenisedExample], settings: SupervisedSettings, config: Any
) -> list[TokenisedExample]:
    """The examples that fit; raises TrainingError where one is malformed or none fits."""
    for number, example in enumerate(examples):
        if not example.completion_token_ids or example.length < 2:
            raise TrainingError(f"Example {number} has no completion token to predict.")
        highest = max(*example.prompt_token_ids, *example.completion_token_ids)
        lowest = min(*example.prompt_token_ids, *example.completion_token_ids)
        if lowest < 0 or highest >= config.vocab_size:
            raise TrainingError(
                f"Example {number} has token id {lowest if lowest < 0 else highest}; the model's vocabulary "
                f"has {config.vocab_size}. Tokenise with the base model's tokenizer."
            )
    max_length = min(settings.max_length, getattr(config, "max_position_embeddings", None) or math.inf)
    usable = [example for example in examples if example.length <= max_length]
    if not examples:
        raise TrainingError("There are no examples to train on. See what the filters before it dropped.")
    if not usable:
        raise TrainingError(f"All {len(examples)} examples are longer than {max_length} tokens.")
    return usable


def _load(base: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, **options
        )
        return model, AutoTokenizer.from_pretrained(base, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{base} cannot be loaded as a causal language model: {error}") from error


def _dataset(examples: Sequence[TokenisedExample], batches: Sequence[Sequence[int]]) -> Any:
    """Rows of `input_ids` and `labels` in the order in which they are trained on."""
    from datasets import Dataset

    from selfimprove_dagster.training.completion_trainer import IGNORED

    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for example in examples:
        columns["input_ids"].append(example.prompt_token_ids + example.completion_token_ids)
        labels = [IGNORED] * len(example.prompt_token_ids) + example.completion_token_ids
        # Nothing predicts a first token, and the trainer would count it when it averages.
        columns["labels"].append([IGNORED, *labels[1:]])
    return Dataset.from_dict(columns).select([index for batch in batches for index in batch])


def _arguments(run: _Run, on_cpu: bool) -> Any:
    from trl import SFTConfig

    settings = run.settings

    # TRL 1.16 sets bf16 and gradient checkpointing unless told otherwise.
    arguments = SFTConfig(
        output_dir=str(run.partial / folders.CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup_fraction * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        # On a CPU the fused kernel is no faster, and its many short parallel sections stall on a busy one.
        optim="adamw_torch" if on_cpu else "adamw_torch_fused",
        seed=run.seed,
        bf16=run.dtype == "bfloat16",
        gradient_checkpointing=False,
        use_cpu=on_cpu,
        # The rows already lie in the planned order, so a resumed run has only to skip those it has seen.
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        save_strategy="steps",
        save_steps=settings.save_every,
        # The newest may be half written when the process dies.
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=math.ceil(settings.steps / _LOG_ENTRIES),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    # With several GPUs visible the trainer would wrap the model in DataParallel, which SFTTrainer refuses.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
