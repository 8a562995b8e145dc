"""Reward models: `train_reward_model` and `RewardModel`.

Bradley and Terry's model of comparisons, as in Ouyang et al. (arXiv 2203.02155, section 3.5), with the soft
targets of Bai et al., "Constitutional AI" (arXiv 2212.08073, section 4.1) and Lee et al., "RLAIF" (arXiv
2309.00267, section 3.2): the loss of a comparison with label p is
−[p · ln σ(r₁ − r₂) + (1 − p) · ln σ(r₂ − r₁)].

Through TRL's RewardTrainer, on one device a process; what is changed in it says `pair_trainers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.adapters import adapter_in
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.merging import opened
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.training.adapters import load_adapted
from selfimprove_dagster.training.comparisons import Comparison, hash_comparisons
from selfimprove_dagster.training.pairs import PairTraining
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.rows import batched
from selfimprove_dagster.training.run import Run, complete, configured, tokenizer_of, train_to_the_end, write
from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome, TrainingSettings
from selfimprove_dagster.training.surroundings import deterministic_kernels, quiet

_BATCH_TOKENS = 16_384
"""Tokens, padding included, that are scored at once."""


@dataclass(frozen=True)
class RewardSettings(TrainingSettings):
    """How to train a reward model; an example is a comparison, and `max_length` bounds each of its sides."""


def train_reward_model(
    base: str | Path,
    comparisons: Sequence[Comparison],
    output: Path,
    settings: RewardSettings,
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
) -> TrainingOutcome:
    """Train a reward model on `comparisons` and write it to `output`.

    It is the causal language model `base` with a new layer, drawn with the seed, in place of its output
    layer: a sequence-classification model of one label, the reward of a prompt and completion. Any list of
    comparisons will do, also of one completion after two prompts.

    Determined, resumed and returned like `supervised.fine_tune`, and raises what it raises; in place of
    examples there are comparisons, each with a probability between 0 and 1. The log has also `accuracy` (the
    share of comparisons on whose preferred side the reward is higher; a label of 0.5 counts one half) and
    `margin` (the mean of r₁ − r₂), both before the step that they led to.
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
    groups = (comparison.held_out_with for comparison in comparisons)
    hashed = hash_comparisons(comparisons)
    determinants = run.determinants(kind="reward", comparisons=hashed, **run.grouping(groups))
    outcome = complete(run, determinants, lambda: _train(run, comparisons, on_log))
    return TrainingOutcome(path=run.output, **outcome)


def _train(run: Run, comparisons: Sequence[Comparison], on_log: Callable[[LogEntry], None] | None) -> None:
    from transformers import set_seed
    from trl import RewardConfig

    from selfimprove_dagster.training.pair_trainers import SoftRewardTrainer

    set_seed(run.seed)

    def opens(folder: Path, **held: Any) -> Any:
        return _open(folder, run.trust_remote_code, dtype=run.memory.weights, **held)[0]

    adapted = run.settings.adapter is not None
    model = load_adapted(run, opens, head=True) if adapted else opened(opens, run.base)
    text_config = model.config.get_text_config()
    padding = text_config.pad_token_id
    with deterministic_kernels(run.on_cpu):
        training = PairTraining(run, comparisons, text_config)
        trainer = SoftRewardTrainer(
            model=model,
            args=configured(RewardConfig, training.run, max_length=None, remove_unused_columns=False),
            processing_class=tokenizer_of(run),
            memory=run.memory,
            **training.arguments(on_log),
        )
        train_to_the_end(training.run, trainer)
        outcome = training.finished(trainer)
    # TRL puts in the end-of-sequence token where there is none.
    text_config.pad_token_id = padding
    write(
        run,
        trainer.model,
        outcome,
        loss="loss (nats a comparison)",
        own_config=True,
    )


class RewardModel:
    """A trained reward model, on one device; `model_id` is the hash of its weights."""

    def __init__(self, model: Any, model_id: str) -> None:
        self.model_id = model_id
        self._model = model

    @classmethod
    def open(cls, path: str | Path, device: str = "auto", *, trust_remote_code: bool = False) -> RewardModel:
        """Load what `train_reward_model` wrote; raises ModelError where there is no such model.

        On the CPU it computes in float32, on a GPU in the type of its weights. `device` "auto" is CUDA where
        there is one.
        """
        import torch

        folder = model_folder(path, trust_remote_code=trust_remote_code)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        drawn: set[str] = set()

        def opens(base: Path) -> Any:
            nonlocal drawn
            model, drawn = _open(base, trust_remote_code, dtype="float32" if device == "cpu" else "auto")
            return model

        adapter = adapter_in(folder)
        if adapter is not None and adapter.config.get("task_type") != "SEQ_CLS":
            raise ModelError(f"{folder} holds no reward model: it is an adapter of a language model.")
        with quiet():
            model = opened(opens, folder)
        if adapter is not None:
            drawn -= {f"{layer}.weight" for layer in adapter.config["modules_to_save"] or ()}
        if drawn:
            raise ModelError(f"{folder} holds no reward model: it has no {', '.join(sorted(drawn))}.")
        return cls(model.to(device).eval(), model_id(folder))

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[float]:
        """The reward of each completion after its prompt, in their order; NaN for one that is longer than the model
        has positions.

        Sequences of similar length are read together. Raises ModelError for one that is empty.
        """
        import torch

        from selfimprove_dagster.training.last_token import last_token_rewards

        sequences = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if not all(sequences):
            raise ModelError(f"sequence {sequences.index([])} has no token, and a reward needs one")
        fitting = [index for index, sequence in enumerate(sequences) if len(sequence) <= self.positions]
        order = sorted(fitting, key=lambda index: len(sequences[index]))
        rewards = [math.nan] * len(sequences)
        while order:
            # The last are the longest, so they bound the width.
            rows = max(1, _BATCH_TOKENS // len(sequences[order[-1]]))
            batch, order = order[-rows:], order[:-rows]
            tensors = [torch.tensor(sequences[index]) for index in batch]
            ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(self._model.device)
            lengths = torch.tensor([len(tensor) for tensor in tensors], device=ids.device)
            with torch.inference_mode():
                found = last_token_rewards(self._model, ids, lengths).tolist()
            for index, reward in zip(batch, found, strict=True):
                rewards[index] = reward
        return rewards

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[float, float, float]]:
        """The rewards of both sides of each comparison, and its label; comparisons are taken a batch at a time.

        A side that is longer than the model has positions has the reward NaN.
        """
        for batch in batched(comparisons):
            sides = [side for one in batch for side in zip(one.prompts, one.completions, strict=True)]
            rewards = self.score([prompt for prompt, _ in sides], [completion for _, completion in sides])
            labels = (one.probability for one in batch)
            yield from zip(rewards[::2], rewards[1::2], labels, strict=True)

    @property
    def positions(self) -> float:
        """The maximum number of tokens of a prompt and completion."""
        config = self._model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or math.inf

    def close(self) -> None:
        """Free the weights' memory."""
        import torch

        self.__dict__.pop("_model", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _open(folder: Path, trust_remote_code: bool, *, dtype: str, **held: Any) -> tuple[Any, set[str]]:
    """A sequence-classification model of one label, and the weights that the folder lacks, drawn anew.

    `held` are further arguments of `from_pretrained`.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **held,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as a reward model: {first_line(error)}") from error
    if not hasattr(model, "score"):
        raise ModelError(
            f"{type(model).__name__} has no layer named score, as decoder-only models have; choose another "
            "base for the reward model"
        )
    return model, set(loading["missing_keys"])


def agreement(compared: Iterable[tuple[float, float, float]]) -> float:
    """Share of what `RewardModel.compare` gave in which the preferred side has the higher reward.

    Equal rewards, and a label of 0.5, count one half, and so does a side without a reward. NaN where nothing was
    compared.
    """
    signs = [_sign(first - second) * _sign(probability - 0.5) for first, second, probability in compared]
    return (sum(signs) / len(signs) + 1) / 2 if signs else math.nan


@contextmanager
def reward_by_model(path: str, device: str) -> Iterator[Reward]:
    """Opens the reward that the reward model at `path` gives."""
    with closing(RewardModel.open(path, device)) as judge:

        def reward(prompts: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
            return judge.score([prompt.token_ids for prompt in prompts], completions)

        yield reward


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
