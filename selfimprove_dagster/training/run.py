"""The frame of a training run, whatever it trains: finished already? lock, clear, train, publish.

What is trained lies in `supervised`, `reward`, `preference` and `policy`; they give this frame the data's
hash and a function that trains. It sees to it that a run that was killed goes on from its last checkpoint to
the same weights, and that a model appears whole or not at all.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError, TrainingError
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.merging import opened
from selfimprove_dagster.language_model.weights import COVERED, model_id, output_settings
from selfimprove_dagster.plots import line_chart
from selfimprove_dagster.training import folders, ranks, watching
from selfimprove_dagster.training.adapters import load_adapted, write_adapter
from selfimprove_dagster.training.launching import strategy_arguments
from selfimprove_dagster.training.memory import AS_IT_COMES, MemorySettings, check_memory_settings
from selfimprove_dagster.training.settings import LogEntry, TrainingSettings, check_settings, hash_texts
from selfimprove_dagster.training.shortage import explained
from selfimprove_dagster.training.surroundings import quiet
from selfimprove_dagster.training.validation import VALIDATION_LOSS, Validation, hold_out

BATCHES_PER_BUCKET = 16
"""Batches whose examples are sorted by length together."""


_LOG_ENTRIES = 200


_PATIENCE = 30.0
"""Seconds that rank 0 waits for the lock: ranks of which one was killed end a moment later."""


@dataclass(frozen=True)
class Run:
    """What was asked for, besides the data and the kind of training."""

    base: Path
    output: Path
    settings: TrainingSettings
    seed: int
    device: str
    dtype: str
    trust_remote_code: bool

    @classmethod
    def of(
        cls,
        base: str | Path,
        output: Path,
        settings: TrainingSettings,
        *,
        seed: int,
        device: str,
        dtype: str,
        trust_remote_code: bool,
    ) -> Run:
        """Checked; raises TrainingError for settings out of range, ModelError where there is no base."""
        check_settings(settings, device, dtype)
        folder = model_folder(base, trust_remote_code=trust_remote_code)
        run = cls(folder, Path(output), settings, seed, device, dtype, trust_remote_code)
        if settings.memory is not None:
            check_memory_settings(settings.memory, on_cpu=run.on_cpu, packs=settings.packs)
        return run

    @property
    def partial(self) -> Path:
        return self.output.with_name(self.output.name + ".partial")

    @property
    def memory(self) -> MemorySettings:
        """Return how memory is saved, also where nothing is set."""
        return self.settings.memory or AS_IT_COMES

    @property
    def on_cpu(self) -> bool:
        """Raises ModelError where CUDA was asked for and there is none."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ModelError('device "cuda" was asked for and torch finds none. Use "auto" or "cpu".')
        return self.device == "cpu" or not torch.cuda.is_available()

    def determinants(self, **data: Any) -> dict[str, Any]:
        """What the weights depend on, for one device, one thread count and one version of torch."""
        covered = sorted(output_settings(self.base))
        return {
            "base": model_id(self.base),
            **data,
            "settings": self.settings.determining,
            "seed": self.seed,
            "dtype": self.dtype,
            **({COVERED: covered} if covered else {}),
        }

    def planned(self, examples: int, per_step: int | None = None) -> Run:
        """Return the run with its steps, where `epochs` over so many examples give them."""
        return replace(self, settings=self.settings.planned(examples, per_step))

    def grouping(self, groups: Iterable[str]) -> dict[str, str]:
        """Return a hash of the groups of all examples, where some are held out, as a determinant; else nothing."""
        return {} if self.settings.validation is None else {"groups": hash_texts(groups)}

    def max_length(self, config: Any) -> float:
        """Tokens that an example may have, with the model's own `config` of its text part."""
        return min(self.settings.max_length, getattr(config, "max_position_embeddings", None) or math.inf)


def complete(run: Run, determinants: Mapping[str, Any], train: Callable[[], None]) -> dict[str, Any]:
    """Return the recorded outcome of a finished training, after calling `train` if it was not finished.

    `train` resumes from the last checkpoint in `run.partial` and leaves the model in its folder `finished`.
    Raises TrainingError where `run.output` holds another model, or where other than the wanted ranks were started. All
    but `train` is done by rank 0.
    """
    wanted = dict(determinants)

    def is_to_train() -> bool:
        # Another process may have finished it between the two looks.
        if folders.is_finished(run.output, wanted):
            return False
        folders.clear_unless_same(run.partial, wanted)
        return True

    with ranks.together(run.settings.processes, run.on_cpu), ExitStack() as held:
        # A run that was killed after its folder was put in place leaves the other one behind.
        if ranks.agreed(lambda: run.partial.exists() or not folders.is_finished(run.output, wanted)):
            if ranks.is_first():
                held.enter_context(
                    folders.locked(run.partial, patience=_PATIENCE if ranks.started() > 1 else 0)
                )
            trains = ranks.agreed(is_to_train)
            if trains:
                with (
                    quiet(),
                    watching.watched(run.settings.watch, run.output),
                    explained(run.base, run.settings, run.trust_remote_code),
                ):
                    train()
            if ranks.is_first():
                if trains:
                    folders.publish(run.partial / folders.FINISHED, run.output)
                shutil.rmtree(run.partial)
        outcome: dict[str, Any] = ranks.agreed(lambda: folders.read_json(run.output / folders.LOG))
    return outcome


def passes(count: int, wanted: int, shuffler: random.Random) -> list[int]:
    """Return `wanted` of the numbers below `count`: shuffled passes over all of them, the last one cut off."""
    order: list[int] = []
    while len(order) < wanted:
        epoch = list(range(count))
        shuffler.shuffle(epoch)
        order += epoch
    return order[:wanted]


def plan_batches(lengths: Sequence[int], settings: TrainingSettings, seed: int) -> list[list[int]]:
    """Which examples each batch holds: `steps` × `gradient_accumulation` lists of `batch_size` indices.

    Each pass over the examples is shuffled. Runs of 16 batches are sorted by length before they are cut into
    batches, which leaves little padding, and the batches of a run are shuffled.
    """
    shuffler = random.Random(seed)
    order = passes(
        len(lengths), settings.steps * settings.gradient_accumulation * settings.batch_size, shuffler
    )
    batches = []
    bucket_size = settings.batch_size * BATCHES_PER_BUCKET
    for start in range(0, len(order), bucket_size):
        bucket = sorted(order[start : start + bucket_size], key=lambda index: lengths[index])
        cut = [bucket[at : at + settings.batch_size] for at in range(0, len(bucket), settings.batch_size)]
        shuffler.shuffle(cut)
        batches += cut
    return batches


def divided(
    run: Run, lengths: Mapping[int, int], group_of: Callable[[int], str]
) -> tuple[dict[int, int], Validation | None]:
    """Return the lengths of the examples to train on, by index, and those that the run holds out, if any."""
    settings = run.settings.validation
    if settings is None:
        return dict(lengths), None
    held_out = {*hold_out({index: group_of(index) for index in lengths}, settings.share, run.seed)}
    validation = Validation.of(
        settings, {index: lengths[index] for index in held_out}, run.settings.batch_size, run.partial
    )
    return {index: length for index, length in lengths.items() if index not in held_out}, validation


def configured(kind: Callable[..., Any], run: Run, **more: Any) -> Any:
    """Arguments of `kind`, one of TRL's configurations, as all training here has them, and `more`."""
    settings, on_cpu = run.settings, run.on_cpu
    # TRL 1.16 sets bf16 unless told otherwise.
    arguments = kind(
        output_dir=str(run.partial / folders.CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size // settings.processes,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup_fraction * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        **run.memory.arguments(on_cpu),
        seed=run.seed,
        bf16=run.dtype == "bfloat16",
        use_cpu=on_cpu,
        # The rows already lie in the planned order, so a resumed run has only to skip those it has seen.
        train_sampling_strategy="sequential",
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
        **watching.arguments(settings.watch),
        disable_tqdm=True,
        **strategy_arguments(settings.launch, on_cpu),
        **more,
    )
    # With several GPUs visible the trainer would wrap the model in DataParallel, which TRL refuses.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def load(run: Run) -> tuple[Any, Any]:
    """The base as a causal language model, in the number format of training, and its tokenizer.

    Raises ModelError if it is none.
    Where the settings have an adapter, that is what is trained; where the base has one, it is otherwise merged in.
    """
    import torch
    from transformers import AutoModelForCausalLM

    def opens(folder: Path, **held: Any) -> Any:
        try:
            return AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, run.memory.weights),
                use_safetensors=True,
                trust_remote_code=run.trust_remote_code,
                local_files_only=True,
                **held,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"{folder} cannot be loaded as a causal language model: {error}") from error

    model = opened(opens, run.base) if run.settings.adapter is None else load_adapted(run, opens)
    return model, tokenizer_of(run)


def tokenizer_of(run: Run) -> Any:
    """The base's tokenizer; raises ModelError where it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            run.base, trust_remote_code=run.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the tokenizer in {run.base} cannot be loaded: {error}") from error


def last_checkpoint(run: Run) -> Path | None:
    """Return the checkpoint that training resumes at, on all ranks; those that are not whole are deleted."""
    return ranks.agreed(lambda: folders.last_checkpoint(run.partial / folders.CHECKPOINTS))


def train_to_the_end(run: Run, trainer: Any) -> None:
    """Train from the last checkpoint, or from the start; the model has finite weights afterwards."""
    import torch

    # From here it would only be saved with each checkpoint, and its special tokens forced on the model.
    trainer.processing_class = None
    checkpoint = last_checkpoint(run)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # A step that blows up is seen in the next step's loss, which the last step does not have.
    if not all(torch.isfinite(ranks.own_part(one)).all() for one in trainer.model.parameters()):
        raise TrainingError(
            f"The weights are not finite after step {run.settings.steps}. "
            f"Lower the learning rate (now {run.settings.learning_rate:g}), or see whether those of the base "
            "are."
        )


def kept(trainer: Any) -> dict[str, Any]:
    """Give the trained model the weights that are kept, and return what the outcome has of the held-out examples."""
    validation: Validation | None = trainer.validation
    if validation is None:
        return {}
    step = trainer.kept_step
    if step is not None and step != trainer.state.global_step:
        validation.restore(trainer.model, step)
    return {"held_out": sorted(validation.rows), "kept_step": step}


def summary(log: list[LogEntry], **more: Any) -> dict[str, Any]:
    """Return the fields of a `TrainingOutcome` except its path; those in the log are filled in from there."""
    return {
        "steps": int(log[-1]["step"]),
        **more,
        "seconds": log[-1]["seconds"],
        "first_loss": log[0]["loss"],
        "final_loss": log[-1]["loss"],
        "log": log,
    }


def write(
    run: Run, model: Any, outcome: dict[str, Any], *, loss: str, own_config: bool = False
) -> Path | None:
    """Fill the folder `finished` and return it; None on ranks above 0. `loss` names the unit that the loss has.

    `own_config`: the model is of another kind than the base, so that its config is not the base's.
    """
    import torch

    finished, dtype = run.partial / folders.FINISHED, getattr(torch, run.dtype)
    gathered = ranks.whole_weights(model)
    if not ranks.is_first():
        return None
    shutil.rmtree(finished, ignore_errors=True)
    if run.settings.adapter is not None:
        write_adapter(run, model, finished, own_config=own_config, weights=gathered)
    else:
        whole = (
            {}
            if gathered is None
            else {"state_dict": {name: one.to(dtype) for name, one in gathered.items()}}
        )
        (model.to(dtype) if gathered is None else model).save_pretrained(finished, **whole)
        shutil.copyfile(run.partial / folders.DETERMINANTS, finished / folders.DETERMINANTS)
    folders.copy_companions(
        run.base,
        finished,
        dtype=run.dtype if run.settings.adapter is None else None,
        trust_remote_code=run.trust_remote_code,
        own_config=own_config,
    )
    folders.write_json(finished / folders.LOG, outcome)
    names = [
        "loss",
        *([VALIDATION_LOSS] if any(VALIDATION_LOSS in entry for entry in outcome["log"]) else []),
    ]
    draw(finished / "loss.png", outcome["log"], names, y=loss, title="Training loss")
    return finished


def draw(path: Path, log: list[LogEntry], names: Sequence[str], *, y: str, title: str) -> None:
    """A chart of the log's entries of these names over the steps."""
    points = {name: [(entry["step"], entry[name]) for entry in log if name in entry] for name in names}
    path.write_bytes(line_chart(points, x="step", y=y, title=title))
