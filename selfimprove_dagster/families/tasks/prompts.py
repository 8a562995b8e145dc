"""The prompts of tasks: an instruction and its input, in one of several wordings (2212.10560, section 2.3)."""

from __future__ import annotations

from pathlib import Path

from selfimprove_dagster.families.tasks.tasks import Instance
from selfimprove_dagster.lots import seed_of

PROMPTS = Path(__file__).with_name("prompts.yaml")
"""The prompts of `TEMPLATES`, which ask for the output of a task: `instruction`, and `input` or an empty text."""

TEMPLATES = tuple(f"template_{number}" for number in range(6))
"""Training samples among all, so that no single wording is learnt. Evaluation asks by the first."""


def sampled_template(instruction: str, instance: Instance, seed: int) -> str:
    """Return the template in which an instance is trained on, the same for the same seed."""
    place = seed_of(seed, "template", instruction, instance.input, instance.output)
    return TEMPLATES[place % len(TEMPLATES)]
