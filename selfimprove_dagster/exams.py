"""The exams of the methods: questions with an answer, by self-consistency's prompts; tasks with an output.

Here, and nowhere else, are true answers read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation.exam import OpenedExam
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.families.dialogues.exam import DialogueExam
from selfimprove_dagster.families.dialogues.files import read_held_out_prompts
from selfimprove_dagster.families.dialogues.settings import DialogueExperiment
from selfimprove_dagster.families.preferences.rewarding import reward_model_of
from selfimprove_dagster.families.preferences.settings import PreferenceExperiment
from selfimprove_dagster.families.tasks.exam import TaskExam, read_held_out_tasks
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.methods.lmsi.exam import QuestionExam
from selfimprove_dagster.methods.lmsi.sampling import demonstrations
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.pit.exam import ImprovementExam, improvements_of
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.methods.refinement.exam import RefinementExam
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.methods.self_knowledge.settings import SelfKnowledgeExperiment
from selfimprove_dagster.methods.toolformer.exam import ToolExam
from selfimprove_dagster.methods.toolformer.files import read_beginnings, read_plain_texts
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.toolboxes import OpenModel, experiment_tools
from selfimprove_dagster.methods.unnatural_instructions.settings import UnnaturalInstructionsExperiment
from selfimprove_dagster.seeds.files import Question, read_questions
from selfimprove_dagster.text import normalise_question


def open_exam(
    home: Home, experiment: Experiment, open_model: OpenModel, iteration: int | None = None
) -> OpenedExam:
    """The held-out exam of an experiment; `open_model` opens those that tools ask.

    In an iteration with a reward model the responses are rewarded too.
    """
    if isinstance(experiment, LmsiExperiment):
        shown, inputs = demonstrations(home.lake, experiment, experiment.sampling.prompt_format)
        questions, rejected = read_questions(experiment.evaluation)
        return OpenedExam(QuestionExam(experiment, questions, shown), inputs, rejected)
    if isinstance(experiment, ToolformerExperiment):
        beginnings, rejected = read_beginnings(experiment.evaluation)
        plain, unread = read_plain_texts(experiment.evaluation)
        tools = partial(experiment_tools, experiment, home, open_model)
        return OpenedExam(ToolExam(experiment, beginnings, plain, tools), [], [*rejected, *unread])
    if isinstance(experiment, RefinementExperiment):
        prompts, rejected = read_held_out_prompts(experiment.evaluation)
        return OpenedExam(RefinementExam(experiment, prompts), [], rejected)
    if isinstance(experiment, DialogueExperiment):
        prompts, rejected = read_held_out_prompts(experiment.evaluation)
        if isinstance(experiment, PitExperiment) and iteration is not None:
            improved, made = improvements_of(home.lake, experiment.name, iteration)
            improvements = ImprovementExam(experiment, prompts, improved=improved, made_by=made.activity.id)
            return OpenedExam(improvements, [made], rejected)
        if isinstance(experiment, PreferenceExperiment) and iteration is not None:
            reward, inputs = reward_model_of(home.lake, experiment, iteration)
            name = reward.model_id if reward else None
            return OpenedExam(DialogueExam(experiment, prompts, reward, name), inputs, rejected)
        return OpenedExam(DialogueExam(experiment, prompts), [], rejected)
    if isinstance(experiment, SelfKnowledgeExperiment):
        raise ExperimentError(
            f"experiment {experiment.name}: {experiment.method} has no evaluation file; its own stages are "
            "the measurement: run it"
        )
    assert isinstance(experiment, SelfInstructExperiment | UnnaturalInstructionsExperiment)
    tasks, rejected = read_held_out_tasks(experiment.evaluation)
    return OpenedExam(TaskExam(experiment, tasks), [], rejected)


def held_out_questions(experiment: Experiment) -> Sequence[Question]:
    """What an experiment holds out, without reading the lake."""
    if isinstance(experiment, LmsiExperiment):
        return read_questions(experiment.evaluation)[0]
    if isinstance(experiment, ToolformerExperiment):
        return [*read_beginnings(experiment.evaluation)[0], *read_plain_texts(experiment.evaluation)[0]]
    if isinstance(experiment, DialogueExperiment | RefinementExperiment):
        return read_held_out_prompts(experiment.evaluation)[0]
    assert isinstance(experiment, SelfInstructExperiment | UnnaturalInstructionsExperiment)
    return read_held_out_tasks(experiment.evaluation)[0]


def held_out_keys(experiment: Experiment) -> set[str]:
    """The held-out questions as `normalise_question` has them: by these two questions are the same."""
    return {normalise_question(question.question) for question in held_out_questions(experiment)}
