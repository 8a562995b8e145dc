"""The exam of the methods whose model writes tasks: held-out tasks, each with its output.

Here, and nowhere else, are true answers read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.exam import PART_PATHS, Exam, Exams, OpenedExam, OpenModel, Part
from selfimprove_dagster.evaluation.judge import AnswerJudge
from selfimprove_dagster.experiment.base import GREEDY
from selfimprove_dagster.families.judging.exam import judge_of
from selfimprove_dagster.families.tasks.files import filled
from selfimprove_dagster.families.tasks.prompts import TEMPLATES
from selfimprove_dagster.families.tasks.settings import TaskEvaluationSection, TaskExperiment
from selfimprove_dagster.filters.novelty import rouge_l_f1
from selfimprove_dagster.filters.tokenisers import TOKENISERS
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.rows import Place, Rejected, text_field
from selfimprove_dagster.seeds.files import DUPLICATE, Question, read_each


@dataclass(frozen=True)
class HeldOutTask(Question):
    """A task with one input; `question` is both, `answer` the output."""

    instruction: str = ""
    input: str = ""


def read_held_out_tasks(section: TaskEvaluationSection) -> tuple[list[HeldOutTask], list[Rejected]]:
    """All tasks of a file (JSON Lines of instruction, input, output), and all lines that are none.

    Self-Instruct's own files, whose rows hold `instances`, are read too, if each row has one. Without a judge each
    task needs an output.
    """
    path = Path(section.file)

    def parse(row: Any, at: Place) -> HeldOutTask:
        instruction = text_field(row, "instruction")
        if (instances := row.get("instances")) is not None:
            if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
                raise ValueError(
                    "field `instances` must hold one instance, with `input` and `output`: a held-out task has one; "
                    "give each instance a line of its own"
                )
            row = {**row, **instances[0]}
        given = str(row.get("input") or "")
        output = None
        if section.judge is None or row.get("output"):
            output = filled(row, "output")
        difficulty = text_field(row, section.difficulty_field) if section.difficulty_field else None
        return HeldOutTask(
            f"{instruction}\n{given}".strip(),
            at.file,
            at.line,
            section.licence,
            output,
            difficulty,
            instruction,
            given,
        )

    return read_each(path, parse, lambda task: [(task.question, DUPLICATE)], section.rows)


@dataclass(frozen=True)
class TaskExam(Exam):
    """Held-out tasks, put without any demonstration and answered greedily."""

    experiment: TaskExperiment
    tasks: Sequence[HeldOutTask]
    prompts: Prompts
    judge: AnswerJudge | None = None

    @property
    def parts(self) -> list[Part]:
        """The whole exam, in the order in which it is sat."""
        return [
            Part(GREEDY, asked, len(asked))
            for start in range(0, max(len(self.tasks), 1), PART_PATHS)
            for asked in (self.tasks[start : start + PART_PATHS],)
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        section = self.experiment.evaluation
        of_question = [one.name for one in fields(Question)]
        asked = [
            {**{name: getattr(task, name) for name in of_question}, "prompt": self._prompt(task)}
            for task in self.tasks
        ]
        return {
            "questions": content_hash({"all": asked}),
            **self.prompts.parameters,
            **section.model_dump(include={"measure", "least_rouge_l", "max_tokens", "tokeniser"}),
            "stop": self.stops,
        }

    @property
    def stops(self) -> list[str]:
        """The strings that end an output."""
        if (given := self.experiment.evaluation.stop) is not None:
            return given
        return [] if self.prompts.prompting.chat else ["\n\n"]

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        section, asked = self.experiment.evaluation, part.questions
        parameters = SamplingParameters(
            temperature=0.0,
            max_tokens=section.max_tokens,
            stop=tuple(self.stops),
            structure=self.prompts.structure(TEMPLATES[0]),
        )
        prompts = model.encode_prompts(
            [self._prompt(task) for task in asked if isinstance(task, HeldOutTask)]
        )
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
                "correct": None if task.answer is None else self._is_correct(path.text, task.answer),
                "problem": path.problem,
            }
            for task, (path,) in zip(asked, drawn, strict=True)
        ]

    def _prompt(self, task: HeldOutTask) -> str:
        return self.prompts.ask(TEMPLATES[0], instruction=task.instruction, input=task.input)

    def _is_correct(self, found: str, expected: str) -> bool:
        section = self.experiment.evaluation
        if section.measure == "rouge_l":
            return rouge_l_f1(found, expected, TOKENISERS[section.tokeniser]) >= section.least_rouge_l
        return found.split() == expected.split()


def _open(home: Home, experiment: TaskExperiment, open_model: OpenModel, iteration: int | None) -> OpenedExam:
    tasks, rejected = read_held_out_tasks(experiment.evaluation)
    judge = judge_of(experiment, experiment.evaluation.judge, open_model)
    return OpenedExam(TaskExam(experiment, tasks, registry.prompts(experiment), judge), [], rejected)


EXAM = Exams(_open, held_out=lambda experiment: read_held_out_tasks(experiment.evaluation))
