"""The exam of dialogues, rewarded by the reward model of the iteration whose models sit it."""

from __future__ import annotations

from selfimprove_dagster.evaluation.exam import Exams, OpenedExam, OpenModel
from selfimprove_dagster.families.dialogues.exam import DialogueExam
from selfimprove_dagster.families.dialogues.files import read_held_out_prompts
from selfimprove_dagster.families.judging.exam import judge_of
from selfimprove_dagster.families.preferences.rewarding import reward_model_of
from selfimprove_dagster.families.preferences.settings import PreferenceExperiment
from selfimprove_dagster.home.home import Home


def _open(
    home: Home, experiment: PreferenceExperiment, open_model: OpenModel, iteration: int | None
) -> OpenedExam:
    prompts, rejected = read_held_out_prompts(experiment.evaluation)
    judge = judge_of(experiment, experiment.evaluation.judge, open_model)
    if iteration is None:
        return OpenedExam(DialogueExam(experiment, prompts, judge=judge), [], rejected)
    reward, inputs = reward_model_of(home.lake, experiment, iteration)
    rewarded_by = reward.model_id if reward else None
    return OpenedExam(DialogueExam(experiment, prompts, reward, rewarded_by, judge), inputs, rejected)


EXAM = Exams(_open, held_out=lambda experiment: read_held_out_prompts(experiment.evaluation))
