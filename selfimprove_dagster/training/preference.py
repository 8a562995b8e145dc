"""Direct preference optimisation with soft labels: `optimise_preferences`.

Rafailov et al. (arXiv 2305.18290, equation 7). The label p of each comparison takes the place of the one
label smoothing for all that conservative DPO has (Mitchell, "A note on DPO with noisy preferences", 2023):
the loss is −[p · ln σ(m) + (1 − p) · ln σ(−m)], where m = β · [ln π(y₁|x)/π₀(y₁|x) − ln π(y₂|x)/π₀(y₂|x)].

Through TRL's DPOTrainer, on one device a process; what is changed in it says `pair_trainers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training.comparisons import Comparison, hash_comparisons
from selfimprove_dagster.training.pairs import PairTraining
from selfimprove_dagster.training.run import Run, complete, configured, load, train_to_the_end, write
from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome, TrainingSettings
from selfimprove_dagster.training.surroundings import deterministic_kernels


@dataclass(frozen=True)
class PreferenceSettings(TrainingSettings):
    """How to optimise preferences; an example is a comparison, and `max_length` bounds each of its sides.

    `beta` is β: the higher, the closer the model stays to the base.
    """

    beta: float = 0.1


def optimise_preferences(
    base: str | Path,
    comparisons: Sequence[Comparison],
    output: Path,
    settings: PreferenceSettings,
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
) -> TrainingOutcome:
    """Train `base`, which is also the reference π₀, on `comparisons` and write the model to `output`.

    Determined, resumed and returned like `supervised.fine_tune`, and raises what it raises; in place of
    examples there are comparisons, each with a probability between 0 and 1 and one prompt for both sides.
    The log has also `accuracy` (the share of comparisons on whose preferred side m lies; a label of 0.5
    counts one half) and `margin` (the mean of m), both before the step that they led to.
    """
    if not 0 < settings.beta < math.inf:
        raise TrainingError(f"beta is {settings.beta}; it must be above 0.")
    for number, comparison in enumerate(comparisons):
        if comparison.prompts[0] != comparison.prompts[1]:
            raise TrainingError(
                f"Comparison {number} has two prompts. Preferences are optimised between completions of one "
                "prompt; only a reward model can compare others."
            )
    run = Run.of(
        base,
        output,
        settings,
        seed=seed,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    groups = (comparison.held_out_with for comparison in comparisons)
    hashed = hash_comparisons(comparisons)
    determinants = run.determinants(kind="preference", comparisons=hashed, **run.grouping(groups))
    outcome = complete(run, determinants, lambda: _train(run, settings, comparisons, on_log))
    return TrainingOutcome(path=run.output, **outcome)


def _train(
    run: Run,
    settings: PreferenceSettings,
    comparisons: Sequence[Comparison],
    on_log: Callable[[LogEntry], None] | None,
) -> None:
    from trl import DPOConfig

    from selfimprove_dagster.training.pair_trainers import SoftPreferenceTrainer

    model, tokenizer = load(run)
    with deterministic_kernels(run.on_cpu):
        training = PairTraining(run, comparisons, model.config.get_text_config())
        trainer = SoftPreferenceTrainer(
            model=model,
            args=configured(
                DPOConfig,
                training.run,
                beta=settings.beta,
                precompute_ref_log_probs=True,
                max_length=None,
                remove_unused_columns=False,
            ),
            processing_class=tokenizer,
            memory=run.memory,
            **training.arguments(on_log),
        )
        train_to_the_end(training.run, trainer)
        outcome = training.finished(trainer)
    write(run, trainer.model, outcome, loss="loss (nats a comparison)")
