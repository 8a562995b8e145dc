"""What the prompts of Self-Instruct show (Wang et al., 2212.10560, section 2.2).

A text prompt ends where the model goes on: the completion of the generation prompt is
` {instruction}\n10. {instruction}…`, that of the classification prompt ` Yes` or ` No`. The prompts for instances end
with a line break, and their completions begin with `Example 1` or `Label:`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from selfimprove_dagster.families.tasks.tasks import Instance
from selfimprove_dagster.text import one_line

Pooled = TypeVar("Pooled")


PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts `generation`, `classification`, `input_first` and `output_first`."""


def listed(instruction: str) -> str:
    """Return an instruction on one line, as it is shown in a list.

    A closing colon is dropped, as in the published code: after it a model goes on with an input.
    """
    return one_line(instruction).rstrip(": ")


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


def input_first(instances: Sequence[Instance]) -> str:
    """Instances as numbered examples; one without an input has no input line."""
    return "\n".join(
        f"Example {number}\n" + (f"Input: {one.input}\n" if one.input else "") + f"Output: {one.output}"
        for number, one in enumerate(instances, start=1)
    )


def output_first(instances: Sequence[Instance]) -> str:
    """Instances as labels with an input for each."""
    return "\n".join(f"Label: {one.output}\nInput: {one.input}" for one in instances)
