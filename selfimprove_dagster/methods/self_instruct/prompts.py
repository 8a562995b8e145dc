"""The prompts of Self-Instruct (Wang et al., 2212.10560, section 2.2 and tables 5 to 8), in our own words.

Every prompt ends where the model goes on, with a space: the completion of the generation prompt is
` {instruction}\\n10. {instruction}…`, that of the classification prompt ` Yes` or ` No`. Only the prompts for
instances end with a line break, and their completions begin with `Example 1` or `Label:`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from selfimprove_dagster.families.tasks.tasks import Instance, Task
from selfimprove_dagster.text import one_line

Pooled = TypeVar("Pooled")


INSTANCE_STOPS = ("\n\nTask:",)


def generation_prompt(instructions: Sequence[str]) -> str:
    """A numbered list of the instructions, each on one line, and the next number.

    A closing colon is dropped, as in the published code: after it a model goes on with an input.
    """
    listed = "".join(
        f"{number}. {one_line(text).rstrip(': ')}\n" for number, text in enumerate(instructions, start=1)
    )
    return f"Here is a series of tasks.\n\n{listed}{len(instructions) + 1}."


def generation_stops(tasks: int = 16) -> tuple[str, ...]:
    """Where a completion ends: at the number `tasks` (the paper's 16th task).

    Only at the beginning of a line: the published code also stops at any `16.`, as in `in 1916.`.
    """
    return (f"\n{tasks}.", f"\n{tasks} .")


def choose_demonstrations(
    human: Sequence[Pooled], machine: Sequence[Pooled], seed: int, n_human: int = 6, n_machine: int = 2
) -> list[Pooled]:
    """The demonstrations of one prompt in random order: 6 of people and 2 of the model's own (section 2.2).

    Where one side has too few, the other fills up: all are human while there are no machine-made ones. The
    choice follows from the seed and the order of the two sequences. With fewer than n_human + n_machine in
    all, all are shown.
    """
    wanted = n_human + n_machine
    from_machine = min(len(machine), max(n_machine, wanted - len(human)))
    from_human = min(len(human), wanted - from_machine)
    draw = random.Random(seed)
    chosen = draw.sample(human, from_human) + draw.sample(machine, from_machine)
    draw.shuffle(chosen)
    return chosen


def classification_prompt(instruction: str, shots: Iterable[tuple[str, bool]]) -> str:
    """Asks whether a task is classification; `shots` are instructions and whether they are."""
    shown = "".join(f"Task: {text}\nLabels: {'Yes' if answer else 'No'}\n\n" for text, answer in shots)
    return (
        "Does the task have a small set of labels to choose from?\n\n"
        f"{shown}Task: {instruction.strip()}\nLabels:"
    )


def input_first_prompt(instruction: str, shots: Iterable[Task]) -> str:
    """Asks for instances of a task that is no classification: inputs, each followed by its output."""
    shown = "".join(f"Task: {task.instruction}\n{input_first(task.instances)}\n\n" for task in shots)
    return f"Write examples for each task.\n\n{shown}Task: {instruction.strip()}\n"


def output_first_prompt(instruction: str, shots: Iterable[Task]) -> str:
    """Asks for instances of a classification task: labels, each followed by an input for it.

    With the input first a model writes inputs of one label only (section 2.2).
    """
    shown = "".join(f"Task: {task.instruction}\n{output_first(task.instances)}\n\n" for task in shots)
    return f"Write examples for each task, the label first.\n\n{shown}Task: {instruction.strip()}\n"


def input_first(instances: Sequence[Instance]) -> str:
    """Instances as numbered examples; one without an input has no input line."""
    return "\n".join(
        f"Example {number}\n" + (f"Input: {one.input}\n" if one.input else "") + f"Output: {one.output}"
        for number, one in enumerate(instances, start=1)
    )


def output_first(instances: Sequence[Instance]) -> str:
    """Instances as labels with an input for each."""
    return "\n".join(f"Label: {one.output}\nInput: {one.input}" for one in instances)
