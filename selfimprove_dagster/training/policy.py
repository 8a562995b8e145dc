"""Policy optimisation against a reward, by GRPO or RLOO: `optimise_policy`.

GRPO: Shao et al., "DeepSeekMath" (arXiv 2402.03300, section 4.1): the advantage of a completion is its reward
less the mean of its group, over the group's standard deviation; the loss is averaged over each completion's
tokens, then over completions; β times the KL divergence from the base is added to it, token by token.
RLOO: Ahmadian et al., "Back to Basics" (arXiv 2402.14740, section 3): the advantage is the reward, less β
times the completion's log-ratio to the base, less the mean of the same over the group's others.

Through TRL's GRPOTrainer and RLOOTrainer, on one device a process, each completion used for one optimizer step. What is
changed in them says `policy_trainer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.language_model.paid import PAID
from selfimprove_dagster.training import folders, ranks
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.rollouts import ROLLOUTS, Rollout, RolloutFiles, read_rollouts
from selfimprove_dagster.training.run import (
    Run,
    complete,
    configured,
    draw,
    last_checkpoint,
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
    check_vocabulary,
    hash_token_ids,
)
from selfimprove_dagster.training.surroundings import deterministic_kernels
from selfimprove_dagster.training.vllm_rollouts import VllmRollouts, check_rollouts

__all__ = [
    "PolicyOutcome",
    "PolicySettings",
    "Reward",
    "Rollout",
    "TokenisedPrompt",
    "optimise_policy",
    "read_rollouts",
]


@dataclass(frozen=True)
class PolicySettings(TrainingSettings):
    """How to optimise a policy; an example is a completion, `group_size` of which share a prompt.

    `beta` is β: the higher, the closer the policy stays to the base. Completions are drawn at `temperature`
    and end with an end-of-sequence token, the token `turn_end`, a string of `stop`, or after
    `max_completion_tokens`; `max_length` bounds prompt and completion together. The tokens of a stop string are
    trained on, as those that ended the completion, but not rewarded. `batch_size` × `gradient_accumulation` must be a
    multiple of `group_size`. `rollouts` lets vLLM write them, with GRPO on a GPU.
    """

    nested: ClassVar[Mapping[str, type]] = {**TrainingSettings.nested, "rollouts": VllmRollouts}

    algorithm: Literal["grpo", "rloo"] = "grpo"
    beta: float = 0.05
    group_size: int = 8
    max_completion_tokens: int = 128
    temperature: float = 1.0
    stop: Sequence[str] = ()
    turn_end: int | None = None
    rollouts: VllmRollouts | None = None

    @property
    def determining(self) -> dict[str, Any]:
        """Return the settings that change the result, without those that are not set."""
        settings = super().determining
        stops = [*settings.pop("stop")]
        return {**settings, **({"stop": stops} if stops else {})}


@dataclass(frozen=True)
class PolicyOutcome(TrainingOutcome):
    """`examples` are the prompts that fit, `dropped` those without room for a whole completion.

    Rewards are means over a log entry's steps: `first_reward` of the first entry, `final_reward` of the last.
    """

    first_reward: float
    final_reward: float

    @property
    def rollouts(self) -> Path:
        """A Parquet file, a row a `Rollout`; see `read_rollouts`."""
        return self.path / ROLLOUTS


def optimise_policy(
    base: str | Path,
    prompts: Sequence[TokenisedPrompt],
    reward: Reward,
    output: Path,
    settings: PolicySettings,
    *,
    reward_id: str,
    seed: int,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    on_log: Callable[[LogEntry], None] | None = None,
    on_rollouts: Callable[[list[Rollout]], None] | None = None,
    on_paid: Callable[[float], None] | None = None,
) -> PolicyOutcome:
    """Train `base` towards completions of higher reward and write the policy to `output`.

    Determined, resumed and returned like `supervised.fine_tune`, and raises what it raises; in place of
    examples there are prompts and the reward, which `reward_id` tells from others (the hash of a model, say)
    and which must give the same for the same. A run that was killed ends with the same rollouts too, each
    once, in the file `rollouts`; `on_rollouts` is called with those of each step as they are drawn, so that
    after a kill some come again.

    The log has also, as means over an entry's steps: `reward` and `reward_deviation` over all completions,
    `kl` (from the base, nats a token; not where β is 0), `entropy` (nats a token), `completion_tokens`, and
    `unfinished`, the share of completions without an end.

    Where rewards are paid for, the log has the `money` so far, in dollars, killed attempts included. `on_paid` is
    called with it before each step's rewards are asked for, and may raise to stop training there.

    Several ranks each draw and reward their share of a step's completions. All have the reward; `on_log`,
    `on_rollouts` and `on_paid` are rank 0's, and get what all ranks did.

    A reward of NaN says that a completion could not be rewarded: it counts like the mean of its group. Raises
    TrainingError also where the reward is not one number a completion, or infinite, or NaN for all of a step.
    """
    _check(settings)
    run = Run.of(
        base,
        output,
        settings,
        seed=seed,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    check_rollouts(
        settings.rollouts, algorithm=settings.algorithm, on_cpu=run.on_cpu, processes=settings.processes
    )
    asked = hash_token_ids(prompt.token_ids for prompt in prompts)
    determinants = run.determinants(kind="policy", prompts=asked, reward=reward_id)
    PAID.begin()
    outcome = complete(
        run, determinants, lambda: _train(run, settings, prompts, reward, on_log, on_rollouts, on_paid)
    )
    PAID.settle()  # the log of the outcome counts all answers
    return PolicyOutcome(path=run.output, **outcome)


def _train(
    run: Run,
    settings: PolicySettings,
    prompts: Sequence[TokenisedPrompt],
    reward: Reward,
    on_log: Callable[[LogEntry], None] | None,
    on_rollouts: Callable[[list[Rollout]], None] | None,
    on_paid: Callable[[float], None] | None,
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, RLOOConfig

    from selfimprove_dagster.language_model.base import SamplingParameters
    from selfimprove_dagster.language_model.tokens import TokenText
    from selfimprove_dagster.training.policy_trainer import (
        GroupTrainer,
        LeaveOneOutTrainer,
        Sampler,
        VllmSampler,
    )

    model, tokenizer = load(run)
    usable, left_out = _usable(prompts, settings, run, model.config.get_text_config())
    per_step = settings.batch_size * settings.gradient_accumulation // settings.group_size
    run = run.planned(len(usable), per_step)
    settings = replace(settings, steps=run.settings.steps, epochs=None)
    end_tokens = _end_tokens(run.base, tokenizer, settings.turn_end)
    checkpoint = last_checkpoint(run)
    resumed_at = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    files = RolloutFiles(run.partial / "rollouts", resumed_at) if ranks.is_first() else None
    on_cpu = run.on_cpu
    is_grpo = settings.algorithm == "grpo"

    def log_with_tokens(entry: LogEntry) -> None:
        if on_log is not None:
            on_log({**entry, "tokens": trainer.state.num_input_tokens_seen, "steps": run.settings.steps})

    with deterministic_kernels(on_cpu):
        model.to("cpu" if on_cpu else "cuda")
        sampling = SamplingParameters(
            settings.temperature, max_tokens=settings.max_completion_tokens, stop=tuple(settings.stop)
        )
        text = TokenText(run.base, trust_remote_code=run.trust_remote_code)
        end = text.end_token_id if settings.turn_end is None else settings.turn_end
        trainer = (GroupTrainer if is_grpo else LeaveOneOutTrainer)(
            model=model,
            args=configured(
                GRPOConfig if is_grpo else RLOOConfig,
                run,
                beta=settings.beta,
                num_generations=settings.group_size,
                max_completion_length=settings.max_completion_tokens,
                temperature=settings.temperature,
                shuffle_dataset=False,
                disable_dropout=True,
                trust_remote_code=run.trust_remote_code,
                **({"loss_type": "grpo"} if is_grpo else {}),
                **vllm_arguments(settings, run.max_length(model.config.get_text_config())),
            ),
            train_dataset=Dataset.from_dict({"prompt": _plan(prompts, usable, settings, run.seed)}),
            processing_class=tokenizer,
            prompts=prompts,
            reward=reward,
            sampler=(VllmSampler if settings.rollouts else Sampler)(model, end_tokens, sampling, text, end),
            files=files,
            seed=run.seed,
            on_log=log_with_tokens,
            on_rollouts=on_rollouts,
            memory=run.memory,
            on_paid=on_paid,
        )
        train_to_the_end(run, trainer)
    log = trainer.training_log
    outcome = summary(
        log,
        tokens=trainer.state.num_input_tokens_seen,
        examples=len(usable),
        dropped=len(left_out),
        left_out=left_out,
        first_reward=log[0]["reward"],
        final_reward=log[-1]["reward"],
    )
    finished = write(run, trainer.model, outcome, loss="loss")
    if finished is not None and files is not None:
        draw(finished / "reward.png", log, ["reward"], y="mean reward", title="Reward in training")
        files.write(finished / ROLLOUTS)


def vllm_arguments(settings: PolicySettings, longest: float) -> dict[str, Any]:
    """What TRL's configuration takes where vLLM writes; `longest` is in tokens, prompt and completion together."""
    if settings.rollouts is None:
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": settings.rollouts.gpu_memory,
        "vllm_tensor_parallel_size": settings.rollouts.tensor_parallel,
        "vllm_max_model_length": int(longest),
        "generation_kwargs": {
            **({"stop": [*settings.stop]} if settings.stop else {}),
            **({} if settings.turn_end is None else {"stop_token_ids": [settings.turn_end]}),
        },
    }


def _plan(
    prompts: Sequence[TokenisedPrompt], usable: list[int], settings: PolicySettings, seed: int
) -> list[int]:
    """The prompts of all steps, in their order; each pass over them is shuffled."""
    per_step = settings.batch_size * settings.gradient_accumulation // settings.group_size
    steps = replace(settings, batch_size=per_step, gradient_accumulation=1)
    batches = plan_batches([len(prompts[index].token_ids) for index in usable], steps, seed)
    return [usable[place] for batch in batches for place in batch]


def _end_tokens(base: Path, tokenizer: Any, turn_end: int | None) -> list[int]:
    """The tokenizer's end token, that of a turn, and those that the generation settings add."""
    settings = folders.read_json(base / "generation_config.json") or {}
    named = settings.get("eos_token_id")
    more = [] if named is None else [named] if isinstance(named, int) else list(named)
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    turn = [] if turn_end is None else [turn_end]
    found = sorted({*own, *more, *turn})
    if not found:
        raise TrainingError(f"{base} names no end-of-sequence token, so that no completion would end.")
    return found


def _check(settings: PolicySettings) -> None:
    if settings.algorithm not in ("grpo", "rloo"):
        raise TrainingError(f"algorithm is {settings.algorithm!r}; it must be grpo or rloo.")
    if not 0 <= settings.beta < math.inf:
        raise TrainingError(f"beta is {settings.beta}; it must be 0 or more.")
    if not 0 < settings.temperature < math.inf:
        raise TrainingError(f"temperature is {settings.temperature}; it must be above 0.")
    if settings.max_completion_tokens < 1:
        raise TrainingError(
            f"max_completion_tokens is {settings.max_completion_tokens}; it must be at least 1."
        )
    if settings.adapter is not None and settings.adapter.dropout > 0:
        raise TrainingError(
            f"adapter.dropout is {settings.adapter.dropout}; a policy writes and is trained without dropout, so it "
            "must be 0."
        )
    if settings.validation is not None:
        raise TrainingError(
            "validation holds out examples with known completions, and a policy writes its own. Leave it out; the log "
            "has the reward, and the exam measures the policy on held-out prompts."
        )
    if settings.group_size < 2:
        raise TrainingError(
            f"group_size is {settings.group_size}; completions are compared with others of their prompt, so "
            "it must be at least 2."
        )
    if settings.launch and settings.launch.strategy == "fsdp2":
        raise TrainingError(
            "launch.strategy is fsdp2; a policy writes with weights that each process has as a whole. Use ddp."
        )
    if settings.batch_size * settings.gradient_accumulation % settings.group_size:
        raise TrainingError(
            f"batch_size × gradient_accumulation is {settings.batch_size * settings.gradient_accumulation}; "
            f"it must be a multiple of group_size, {settings.group_size}."
        )


def _usable(
    prompts: Sequence[TokenisedPrompt], settings: PolicySettings, run: Run, config: Any
) -> tuple[list[int], list[tuple[int, str]]]:
    """Indices of the prompts that leave room for a whole completion, and of the others with their problems."""
    if not prompts:
        raise TrainingError("There are no prompts to train on. See what the filters before it dropped.")
    room = run.max_length(config) - settings.max_completion_tokens
    usable: list[int] = []
    left_out: list[tuple[int, str]] = []
    for number, prompt in enumerate(prompts):
        if prompt.problem:
            left_out.append((number, prompt.problem))
            continue
        if not prompt.token_ids:
            raise TrainingError(f"Prompt {number} is empty; a completion must follow at least one token.")
        check_vocabulary(f"Prompt {number}", prompt.token_ids, config.vocab_size)
        if len(prompt.token_ids) <= room:
            usable.append(number)
        else:
            problem = f"the prompt has {len(prompt.token_ids):,} tokens, and training has room for {room:,}"
            left_out.append((number, f"too_long: {problem}, less than its completion"))
    if not usable:
        raise TrainingError(
            f"None of the {len(prompts)} prompts can be trained on, the first since {left_out[0][1]}. They may have "
            f"{room} tokens, which leave room for max_completion_tokens, {settings.max_completion_tokens}."
        )
    return usable, left_out
