"""The exam of held-out tasks, as its family has it."""

from __future__ import annotations

from selfimprove_dagster.families.tasks.exam import EXAM

__all__ = ["EXAM"]
