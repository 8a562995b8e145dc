"""Training jobs of every kind on a tiny model, which several ranks can run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kit.training import END, make_comparisons
from selfimprove_dagster.training import jobs
from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.policy import PolicySettings
from selfimprove_dagster.training.preference import PreferenceSettings
from selfimprove_dagster.training.reward import RewardSettings
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.rows import write_rows
from selfimprove_dagster.training.settings import Launch, TrainingSettings
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample
from selfimprove_dagster.work.spec import Spec

_COMMON: dict[str, Any] = {"steps": 5, "learning_rate": 3e-3, "warmup_fraction": 0.2, "save_every": 2}
_POLICY: dict[str, Any] = {**_COMMON, "max_completion_tokens": 8, "beta": 0.05}

SETTINGS: dict[str, TrainingSettings] = {
    "supervised": SupervisedSettings(**_COMMON, batch_size=4, gradient_accumulation=2),
    "reward": RewardSettings(**_COMMON, batch_size=4),
    "dpo": PreferenceSettings(**_COMMON, batch_size=4, beta=0.5),
    # A group of four on two ranks: each has a part of it.
    "grpo": PolicySettings(**_POLICY, batch_size=4, group_size=4, gradient_accumulation=2),
    "rloo": PolicySettings(**_POLICY, batch_size=8, group_size=4, algorithm="rloo"),
}

_ROWS = {"supervised": TokenisedExample, "reward": Comparison, "dpo": Comparison}
_JOBS = {"supervised": jobs.supervised, "reward": jobs.reward_model, "dpo": jobs.preferences}


def examples() -> list[TokenisedExample]:
    """Examples of very different lengths, so that two ranks rarely have as many tokens."""
    chooser = random.Random(3)
    return [
        TokenisedExample(
            [1, *chooser.choices(range(3, 30), k=chooser.randint(1, 6))],
            [*chooser.choices(range(30, 60), k=chooser.randint(1, 25)), END],
        )
        for _ in range(30)
    ]


def write_all_rows(folder: Path) -> None:
    """Write the rows of every kind of training, in a file of its name."""
    prompts = [TokenisedPrompt([1, *range(3 + index, 6 + 2 * index)]) for index in range(7)]
    for kind in SETTINGS:
        rows: Sequence[Any] = make_comparisons() if _ROWS.get(kind) is Comparison else prompts
        write_rows(
            folder / kind, _ROWS.get(kind, TokenisedPrompt), examples() if kind == "supervised" else rows
        )


def job(kind: str, base: Path, rows: Path, output: Path, launch: Launch | None, **more: Any) -> Spec:
    """The job of a kind; `more` are further settings."""
    policy = {} if kind in _JOBS else {"reward": Spec.of(rewards_high_tokens).to_json(), "reward_id": "high"}
    return Spec.of(
        _JOBS.get(kind, jobs.policy),
        base=str(base),
        rows=str(rows / kind),
        output=str(output),
        settings={**asdict(SETTINGS[kind]), "launch": asdict(launch) if launch else None, **more},
        seed=7,
        device="cpu",
        dtype="float32",
        trust_remote_code=False,
        **policy,
    )


@contextmanager
def rewards_high_tokens() -> Iterator[Reward]:
    """Opens a reward: the share of a completion's tokens from 100 on; NaN for one of a single token."""
    yield lambda _, completions: [
        sum(token >= 100 for token in one) / len(one) if len(one) > 1 else float("nan") for one in completions
    ]
