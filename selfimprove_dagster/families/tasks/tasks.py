"""Tasks: an instruction and instances of it, and the texts on which following instructions is learnt.

A task is what a line of Self-Instruct's `seed_tasks.jsonl` holds (Wang et al., 2212.10560, section 2.1). The
prompt and the completion of a training example are tokenised separately; a completion begins with a space.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.text import one_line


@dataclass(frozen=True)
class Instance:
    """One example of a task; `input` is empty where the instruction says it all."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction with its instances; `is_classification` is None if unknown."""

    instruction: str
    instances: tuple[Instance, ...] = ()
    is_classification: bool | None = None


@dataclass(frozen=True)
class Template:
    """A prompt in two forms: fields `{instruction}` and `{input}`, and `{instruction}` alone."""

    with_input: str
    without_input: str


TEMPLATES = (
    Template("Instruction: {instruction}\nInput: {input}\nAnswer:", "Instruction: {instruction}\nAnswer:"),
    Template("{instruction}\n\n{input}\n\nAnswer:", "{instruction}\n\nAnswer:"),
    Template("{instruction}\nGiven: {input}\nResponse:", "{instruction}\nResponse:"),
    Template(
        "### Task\n{instruction}\n\n### Input\n{input}\n\n### Output:",
        "### Task\n{instruction}\n\n### Output:",
    ),
    Template("Task: {instruction}\nInput: {input}\nOutput:", "Task: {instruction}\nOutput:"),
    Template("User: {instruction}\n{input}\nAssistant:", "User: {instruction}\nAssistant:"),
)
"""The first one is that of evaluation; training draws among all, so that no single wording is learnt."""


def training_text(instruction: str, instance: Instance, template: int = 0) -> tuple[str, str]:
    """Prompt and completion of an instance; the end-of-text token is left to the tokeniser."""
    return task_prompt(instruction, instance.input, template), " " + instance.output.strip()


def task_prompt(instruction: str, given: str = "", template: int = 0) -> str:
    """The prompt of a task and its input; without an input its line is left out."""
    chosen = TEMPLATES[template]
    if given.strip():
        return chosen.with_input.format(instruction=instruction.strip(), input=given.strip())
    return chosen.without_input.format(instruction=instruction.strip())


def template_by_lot(instruction: str, instance: Instance, seed: int) -> int:
    """The index of the template that an instance draws."""
    return seed_of(seed, "template", instruction, instance.input, instance.output) % len(TEMPLATES)


def normalise_instruction(text: str) -> str:
    """What two instructions that are the same have in common.

    Compatibility forms and case folded (NFKC), white space collapsed, closing `.`, `:` and `;` and what
    precedes them dropped. `?` and `!` stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return one_line(unicodedata.normalize("NFKC", folded)).rstrip(".:; ")
