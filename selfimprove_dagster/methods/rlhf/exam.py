"""The exam of held-out prompts with the reward of the responses, as its family has it."""

from __future__ import annotations

from selfimprove_dagster.families.preferences.exam import EXAM

__all__ = ["EXAM"]
