"""The prompts of tools: `annotation` asks where a text calls a tool, `question` and `translation` ask QA and MT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfimprove_dagster.tools.base import Tool

PROMPTS = Path(__file__).with_name("prompts.yaml")


def annotating(tool: Tool, text: str) -> Mapping[str, Any]:
    """Return the fields of the prompt `annotation`: the text again, with calls of the tool."""
    return {"introduction": tool.introduction.strip(), "shots": tool.shots, "text": text}
