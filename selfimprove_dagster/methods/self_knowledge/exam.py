"""The tasks on which a model's knowledge of itself is measured, and what is right in them.

Here true answers are read, for evaluation alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove_dagster.answers.answers import extract_answer
from selfimprove_dagster.answers.canonical import answers_agree
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.evaluation.results import Change, Results, Stages
from selfimprove_dagster.families.dialogues.exam import judge
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt, read_held_out_prompts
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.methods.self_knowledge.settings import KnowledgeTask
from selfimprove_dagster.rows import Rejected, is_on_hub
from selfimprove_dagster.seeds.files import Question, read_questions, source_checksum, source_name


def recorded_task(task: KnowledgeTask) -> dict[str, Any]:
    """A task as an activity records it: how it is read, and the checksum of its file.

    Raises SeedFileError where there is none.
    """
    path = Path(task.file)
    if not path.is_file() and not is_on_hub(path):  # its questions are known by their lines in one file
        raise SeedFileError(f"task {task.name}: there is no file {path}; set its `file` to one that exists")
    return {**task.model_dump(), "file": source_name(path), "checksum": source_checksum(path)}


def read_task(
    task: KnowledgeTask, conventions: Conventions = DEFAULT
) -> tuple[Sequence[Question], list[Rejected]]:
    """The questions of a task with what tells right from wrong, and the lines that are none.

    Raises SeedFileError where the file cannot be read or holds nothing.
    """
    questions: Sequence[Question]
    if task.kind == "questions":
        questions, rejected = read_questions(task.as_questions, conventions)
    else:
        questions, rejected = read_held_out_prompts(task.as_dialogues)
    if not questions:
        reason = f"; line {rejected[0].source_line}: {rejected[0].reason}" if rejected else ""
        raise SeedFileError(f"task {task.name}: nothing in {task.file} can be asked{reason}")
    return questions, rejected


def truth(
    tasks: Sequence[KnowledgeTask],
    recorded: Sequence[Mapping[str, Any]],
    conventions: Conventions = DEFAULT,
) -> dict[tuple[str, int], Question]:
    """The questions of all tasks with what tells right from wrong, by task and line.

    Raises SeedFileError where a task is not the `recorded` one any more.
    """
    known: dict[tuple[str, int], Question] = {}
    for task in tasks:
        if recorded_task(task) not in recorded:
            raise SeedFileError(
                f"task {task.name}, or its file {task.file}, was changed since its questions were asked: "
                "materialise questions again"
            )
        known |= {(task.name, one.source_line): one for one in read_task(task, conventions)[0]}
    return known


def is_right(question: Question, text: str, conventions: Conventions = DEFAULT) -> tuple[bool, bool]:
    """Whether a text is right, and whether an answer could be read in it.

    A response is right when it is helpful and harmless; all responses can be read that say something.
    """
    if isinstance(question, HeldOutPrompt):
        return all(judge(text, question.wanted, question.unwanted)), bool(text.strip())
    answer = extract_answer(text, conventions)
    return answers_agree(answer, question.answer), answer is not None


def _reason(lake: Lake, stages: Stages) -> str:
    if "discrimination_gap" not in stages:
        return ""
    return "; ".join(lake.read_ungated(stages["discrimination_gap"])["statement"])


def _change(lake: Lake, stages: Mapping[str, Sequence[Manifest]]) -> Change:
    """Random picks against the model's own."""
    row = lake.read_ungated(stages["discrimination_gap"][-1]).row(0, named=True)
    gap = row["gap"], row["gap_low"], row["gap_high"]
    return Change(row["generation"], row["discrimination"], gap, f"picked by {row['by']}")


RESULTS = Results(reason=_reason, change=_change)

EXAM = None
"""Its own stages are the measurement."""
