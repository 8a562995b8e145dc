"""The exams of the methods: questions with an answer, by self-consistency's prompts; tasks with an output.

Here, and nowhere else, are true answers read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster import seeds
from selfimprove_dagster.dialogue_exam import DialogueExam
from selfimprove_dagster.dialogue_files import read_held_out_prompts
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation import Exam, Part
from selfimprove_dagster.experiment import (
    DialogueExperiment,
    Experiment,
    LmsiExperiment,
    PitExperiment,
    PreferenceExperiment,
    RefinementExperiment,
    SelfInstructExperiment,
    SelfKnowledgeExperiment,
    ToolformerExperiment,
    UnnaturalInstructionsExperiment,
)
from selfimprove_dagster.filters.novelty import rouge_l_f1
from selfimprove_dagster.generation import sampling_parameters
from selfimprove_dagster.home import Home
from selfimprove_dagster.improvement_exam import ImprovementExam, improvements_of
from selfimprove_dagster.lake import Manifest
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.answers import answers_agree, extract_answers
from selfimprove_dagster.methods.lmsi import build_prompt
from selfimprove_dagster.methods.tasks import task_prompt
from selfimprove_dagster.methods.voting import vote
from selfimprove_dagster.question_files import (
    DUPLICATE,
    Question,
    Rejected,
    file_name,
    normalise_question,
    read_each,
    read_questions,
    text_field,
)
from selfimprove_dagster.records import content_hash
from selfimprove_dagster.refinement_exam import RefinementExam
from selfimprove_dagster.rewarding import reward_model_of
from selfimprove_dagster.seeds import DemonstrationRecord
from selfimprove_dagster.task_sections import TaskEvaluationSection
from selfimprove_dagster.text_files import read_beginnings, read_plain_texts
from selfimprove_dagster.tool_exam import ToolExam
from selfimprove_dagster.toolboxes import OpenModel, experiment_tools

PART_PATHS = 1024
"""Paths a shard of an exam, at most: what a killed run loses. The answers do not depend on it."""


@dataclass(frozen=True)
class QuestionExam(Exam):
    """The held-out questions and how they are put: one greedy path each, and for the first of them a vote."""

    experiment: LmsiExperiment
    questions: Sequence[Question]
    demonstrations: Sequence[DemonstrationRecord]

    @property
    def modes(self) -> dict[str, Sequence[Question]]:
        """The questions that each mode asks; a mode without any is left out."""
        voted = self.questions[: self.experiment.evaluation.majority_questions]
        return {"greedy": self.questions, "majority": voted} if voted else {"greedy": self.questions}

    @property
    def parts(self) -> list[Part]:
        """The whole exam, mode by mode, in the order in which it is sat."""
        each = {"greedy": 1, "majority": self.experiment.evaluation.majority_paths}
        return [
            Part(mode, asked, len(asked) * each[mode])
            for mode, questions in self.modes.items()
            for size in (max(PART_PATHS // each[mode], 1),)
            for start in range(0, max(len(questions), 1), size)
            for asked in (questions[start : start + size],)
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        section, sampling = self.experiment.evaluation, self.experiment.sampling
        return {
            "questions": content_hash({"all": [vars(question) for question in self.questions]}),
            "demonstrations": content_hash({"all": [vars(shown) for shown in self.demonstrations]}),
            "seed": self.experiment.seed,
            "majority": [section.majority_questions, section.majority_paths],
            "temperature": sampling.temperature,
            **sampling.model_dump(include={"top_p", "top_k", "max_tokens", "prompt_format", "stop"}),
        }

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        section, questions, mode = self.experiment.sampling, part.questions, part.mode
        if not questions:
            return []
        if mode == "greedy":
            stop = tuple(section.stop)
            parameters = SamplingParameters(temperature=0.0, max_tokens=section.max_tokens, stop=stop)
            per_question = 1
        else:
            parameters = sampling_parameters(section, improved=False)
            per_question = self.experiment.evaluation.majority_paths
        texts = [question.question for question in questions]
        prompts = [build_prompt(text, section.prompt_format, self.demonstrations) for text in texts]
        seeds = [
            [seed_of(self.experiment.seed, "evaluation", text, index) for index in range(per_question)]
            for text in texts
        ]
        paths = model.generate(model.encode_many(prompts), seeds, parameters, progress)
        ballots = pl.DataFrame(
            [
                {
                    "question_id": str(at),
                    "path_id": f"{at}/{index}",
                    "sample_index": index,
                    "text_key": path.text,
                }
                for at, drawn in enumerate(paths)
                for index, path in enumerate(drawn)
            ]
        )
        predicted = vote(ballots.with_columns(extract_answers(ballots["text_key"]).alias("answer")))
        return [
            {
                "question": question.question,
                "source_file": question.source_file,
                "source_line": question.source_line,
                "difficulty": question.difficulty,
                "expected": question.answer,
                "mode": mode,
                "predicted": answer,
                "text": drawn[0].text if mode == "greedy" else None,
                "correct": answers_agree(answer, question.answer),
            }
            for question, answer, drawn in zip(questions, predicted["voted_answer"], paths, strict=True)
        ]


@dataclass(frozen=True)
class HeldOutTask(Question):
    """A task with one input; `question` is both, `answer` the output."""

    prompt: str = ""


def read_held_out_tasks(section: TaskEvaluationSection) -> tuple[list[HeldOutTask], list[Rejected]]:
    """All tasks of a file (JSON Lines of instruction, input, output), and all lines that are none."""
    path = Path(section.file)

    def parse(row: Any, line: int) -> HeldOutTask:
        instruction, given = text_field(row, "instruction"), str(row.get("input") or "")
        difficulty = text_field(row, section.difficulty_field) if section.difficulty_field else None
        return HeldOutTask(
            f"{instruction}\n{given}".strip(),
            file_name(path),
            line,
            section.licence,
            text_field(row, "output"),
            difficulty,
            task_prompt(instruction, given),
        )

    return read_each(path, parse, lambda task: [(task.question, DUPLICATE)], section.rows)


@dataclass(frozen=True)
class TaskExam(Exam):
    """Held-out tasks, put without any demonstration and answered greedily."""

    experiment: SelfInstructExperiment | UnnaturalInstructionsExperiment
    tasks: Sequence[HeldOutTask]

    @property
    def parts(self) -> list[Part]:
        """The whole exam, in the order in which it is sat."""
        return [
            Part("greedy", asked, len(asked))
            for start in range(0, max(len(self.tasks), 1), PART_PATHS)
            for asked in (self.tasks[start : start + PART_PATHS],)
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        section = self.experiment.evaluation
        return {
            "questions": content_hash({"all": [vars(task) for task in self.tasks]}),
            **section.model_dump(include={"measure", "least_rouge_l", "max_tokens", "stop"}),
        }

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        section, asked = self.experiment.evaluation, part.questions
        parameters = SamplingParameters(
            temperature=0.0, max_tokens=section.max_tokens, stop=tuple(section.stop)
        )
        prompts = model.encode_many([task.prompt for task in asked if isinstance(task, HeldOutTask)])
        drawn = model.generate(prompts, [[0]] * len(prompts), parameters, progress)
        return [
            {
                "question": task.question,
                "source_file": task.source_file,
                "source_line": task.source_line,
                "difficulty": task.difficulty,
                "expected": task.answer,
                "mode": part.mode,
                "predicted": path.text.strip() or None,
                "text": path.text,
                "correct": self._is_correct(path.text, task.answer or ""),
            }
            for task, (path,) in zip(asked, drawn, strict=True)
        ]

    def _is_correct(self, found: str, expected: str) -> bool:
        section = self.experiment.evaluation
        if section.measure == "rouge_l":
            return rouge_l_f1(found, expected) >= section.least_rouge_l
        return found.split() == expected.split()


@dataclass(frozen=True)
class OpenedExam:
    """An exam, the partitions that it was made from, and the lines of its file that could not be read."""

    exam: Exam
    inputs: list[Manifest]
    rejected: list[Rejected]


def open_exam(
    home: Home, experiment: Experiment, open_model: OpenModel, iteration: int | None = None
) -> OpenedExam:
    """The held-out exam of an experiment; `open_model` opens those that tools ask.

    In an iteration with a reward model the responses are rewarded too.
    """
    if isinstance(experiment, LmsiExperiment):
        shown, inputs = seeds.demonstrations(home.lake, experiment, experiment.sampling.prompt_format)
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
