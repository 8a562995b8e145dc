"""The conversation of an example whose prompt is a dialogue, as tools for fine-tuning read it."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove_dagster.conversation import Turn
from selfimprove_dagster.families.dialogues.prompts import turns
from selfimprove_dagster.table import Row


def asked(row: Row) -> Sequence[Turn]:
    """The turns of the dialogue that an example answers, one message each."""
    return turns(row["prompt"])
