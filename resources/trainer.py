"""Provide training as a Dagster resource."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import TrainingSection
from selfimprove_dagster.families.preferences.settings import (
    PolicyTrainingSection,
    RewardModelSection,
    SupervisedStepSection,
)
from selfimprove_dagster.resources.pipes import by_pipes
from selfimprove_dagster.work.spec import Spec

if TYPE_CHECKING:
    from selfimprove_dagster.training.policy import PolicyOutcome
    from selfimprove_dagster.training.settings import TrainingOutcome, TrainingSettings
    from selfimprove_dagster.training.watching import WatchSettings

OnLog = Callable[[dict[str, float]], None]


class TrainerResource(dg.ConfigurableResource):
    """Runs training jobs with the settings of an experiment; see `selfimprove_dagster.training.jobs`.

    Every method takes the experiment, the section that says how to train, the model to start from, the file of rows
    and the folder of the trained model; `watch` is where people watch it. Jobs with a section `launch` run in several
    processes.
    """

    device: str = Field(
        default="", description="device that overrides the experiment's; empty for no override"
    )

    def device_of(self, experiment: Experiment) -> str:
        """Return the device on which the experiment's models are trained."""
        return self.device or experiment.model.device

    def fine_tune(
        self,
        experiment: Experiment,
        section: TrainingSection | SupervisedStepSection,
        base: str | Path,
        rows: Path,
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
        watch: WatchSettings | None = None,
    ) -> TrainingOutcome:
        """Train on `TokenisedExample`s."""
        from selfimprove_dagster.training import jobs
        from selfimprove_dagster.training.supervised import SupervisedSettings

        job = self._job(
            experiment,
            jobs.supervised,
            base,
            rows,
            output,
            SupervisedSettings(**_shared(section, watch)),
            seed=seed,
        )
        outcome: TrainingOutcome = run(job, on_log=on_log)
        return outcome

    def train_reward_model(
        self,
        experiment: Experiment,
        section: RewardModelSection,
        base: str | Path,
        rows: Path,
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
        watch: WatchSettings | None = None,
    ) -> TrainingOutcome:
        """Train a reward model on `Comparison`s."""
        from selfimprove_dagster.training import jobs
        from selfimprove_dagster.training.reward import RewardSettings

        job = self._job(
            experiment,
            jobs.reward_model,
            base,
            rows,
            output,
            RewardSettings(**_shared(section, watch)),
            seed=seed,
        )
        outcome: TrainingOutcome = run(job, on_log=on_log)
        return outcome

    def optimise_preferences(
        self,
        experiment: Experiment,
        section: PolicyTrainingSection,
        base: str | Path,
        rows: Path,
        output: Path,
        *,
        seed: int,
        on_log: OnLog | None = None,
        watch: WatchSettings | None = None,
    ) -> TrainingOutcome:
        """DPO on `Comparison`s."""
        from selfimprove_dagster.training import jobs
        from selfimprove_dagster.training.preference import PreferenceSettings

        settings = PreferenceSettings(**_shared(section, watch), beta=section.kl_coefficient)
        job = self._job(experiment, jobs.preferences, base, rows, output, settings, seed=seed)
        outcome: TrainingOutcome = run(job, on_log=on_log)
        return outcome

    def optimise_policy(
        self,
        experiment: Experiment,
        section: PolicyTrainingSection,
        base: str | Path,
        rows: Path,
        output: Path,
        *,
        reward: Spec,
        reward_id: str,
        seed: int,
        stop: Sequence[str] = (),
        turn_end: int | None = None,
        on_log: OnLog | None = None,
        on_paid: Callable[[float], None] | None = None,
        watch: WatchSettings | None = None,
    ) -> PolicyOutcome:
        """GRPO or RLOO on `TokenisedPrompt`s; `reward` names what opens the reward.

        `on_paid` is called with the money so far before each step's rewards are asked for. `stop` strings and the token
        `turn_end` end what the policy writes.
        """
        from selfimprove_dagster.training import jobs
        from selfimprove_dagster.training.policy import PolicySettings
        from selfimprove_dagster.training.vllm_rollouts import VllmRollouts

        assert section.algorithm != "dpo"
        settings = PolicySettings(
            **_shared(section, watch),
            algorithm=section.algorithm,
            beta=section.kl_coefficient,
            group_size=section.group_size,
            temperature=section.temperature,
            max_completion_tokens=section.max_tokens,
            stop=tuple(stop),
            turn_end=turn_end,
            rollouts=VllmRollouts(**section.rollouts.model_dump()) if section.rollouts else None,
        )
        rewarded = {"reward": reward.to_json(), "reward_id": reward_id}
        job = self._job(experiment, jobs.policy, base, rows, output, settings, seed=seed, **rewarded)
        outcome: PolicyOutcome = run(job, on_log=on_log, on_paid=on_paid)
        return outcome

    def _job(
        self,
        experiment: Experiment,
        function: Callable[..., TrainingOutcome],
        base: str | Path,
        rows: Path,
        output: Path,
        settings: TrainingSettings,
        **more: Any,
    ) -> Spec:
        """The job as plain data, with the device and the number format in which it computes."""
        import torch

        device, dtype = self.device_of(experiment), experiment.model.dtype
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_available() and device != "cpu" else "float32"
        elif dtype == "float16":
            dtype = "float32"  # gradients leave the range of float16
        return Spec.of(
            function,
            base=str(base),
            rows=str(rows),
            output=str(output),
            settings=asdict(settings),
            device=device,
            dtype=dtype,
            trust_remote_code=experiment.model.trust_remote_code,
            **more,
        )


def run(job: Spec, **listeners: Callable[..., None] | None) -> Any:
    """Return the outcome of a training job, in this process or in those that its settings ask for.

    Within a step of Dagster their messages come by Dagster Pipes.
    """
    from selfimprove_dagster.training.launching import by_file, launch
    from selfimprove_dagster.training.settings import Launch

    how = job.arguments["settings"]["launch"]
    if how is None or Launch(**how).total == 1:
        return job.call(**listeners)
    try:
        context = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return launch(job, channel=by_file, **listeners)
    return launch(job, channel=partial(by_pipes, context), **listeners)


def _shared(
    section: TrainingSection | RewardModelSection | SupervisedStepSection, watch: WatchSettings | None
) -> dict[str, Any]:
    """Return the settings that every trainer has."""
    from selfimprove_dagster.training.settings import TrainingSettings

    names = {setting.name for setting in fields(TrainingSettings)} - {"watch"}
    mix = getattr(section, "mix", None)
    return {
        "steps": 0,
        "watch": watch,
        **section.model_dump(include=names),
        **({"mix_share": mix.share} if mix else {}),
    }
