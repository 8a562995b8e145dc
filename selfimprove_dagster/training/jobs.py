"""Training as a process of its own runs it: functions of plain data, which a `Spec` names.

`base` is the model to start from, `rows` a file that `write_rows` wrote, `output` the folder of the trained model, and
`settings` has the fields of the training's settings. The rest (`where`) is the seed, the device, the number format,
and whether code of the base may run. `on_log` and `on_paid` are not part of a job: the caller adds them. A job that is
run again resumes, or returns what it made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.policy import PolicyOutcome, PolicySettings, optimise_policy
from selfimprove_dagster.training.preference import PreferenceSettings, optimise_preferences
from selfimprove_dagster.training.reward import RewardSettings, train_reward_model
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.rows import RowFile
from selfimprove_dagster.training.settings import LogEntry, TrainingOutcome
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune
from selfimprove_dagster.work.spec import Spec

Settings = Mapping[str, Any]
OnLog = Callable[[LogEntry], None] | None


def supervised(
    *, base: str, rows: str, output: str, settings: Settings, on_log: OnLog = None, **where: Any
) -> TrainingOutcome:
    """`fine_tune` on `TokenisedExample`s."""
    examples, how = RowFile(rows, TokenisedExample), SupervisedSettings(**settings)
    return fine_tune(base, examples, Path(output), how, on_log=on_log, **where)


def reward_model(
    *, base: str, rows: str, output: str, settings: Settings, on_log: OnLog = None, **where: Any
) -> TrainingOutcome:
    """`train_reward_model` on `Comparison`s."""
    comparisons, how = RowFile(rows, Comparison), RewardSettings(**settings)
    return train_reward_model(base, comparisons, Path(output), how, on_log=on_log, **where)


def preferences(
    *, base: str, rows: str, output: str, settings: Settings, on_log: OnLog = None, **where: Any
) -> TrainingOutcome:
    """`optimise_preferences` on `Comparison`s."""
    comparisons, how = RowFile(rows, Comparison), PreferenceSettings(**settings)
    return optimise_preferences(base, comparisons, Path(output), how, on_log=on_log, **where)


def policy(
    *,
    base: str,
    rows: str,
    output: str,
    settings: Settings,
    reward: Mapping[str, Any],
    on_log: OnLog = None,
    on_paid: Callable[[float], None] | None = None,
    **where: Any,
) -> PolicyOutcome:
    """`optimise_policy` on `TokenisedPrompt`s; `reward` is the spec of a function that opens the reward."""
    prompts, how = RowFile(rows, TokenisedPrompt), PolicySettings(**settings)
    with Spec(**reward).call() as rewards:
        return optimise_policy(
            base, prompts, rewards, Path(output), how, on_log=on_log, on_paid=on_paid, **where
        )
