"""The prompts for questions with one answer, with worked examples or without (2210.11610, section 3.2)."""

from __future__ import annotations

from pathlib import Path

PROMPTS = Path(__file__).with_name("prompts.yaml")
"""One prompt for each format: `question`, and the `demonstrations` with `question`, `reasoning` and `answer`."""

DIRECT_FORMATS = ("few_shot_direct", "zero_shot_direct")
