"""The shipped text prompts about a dialogue."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts

DIALOGUES = load_prompts([PROMPTS], TEXT)


def asked(name: str, prompt: str, **fields: str) -> str:
    """The prompt of that name about what a human said, or about a dialogue."""
    return DIALOGUES.ask(name, **spoken(prompt), **fields)
