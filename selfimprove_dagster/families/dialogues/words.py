"""Words for prompts and for comparisons that people made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.words import accepted, quoted, source_of

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row

_KINDS = {"red_team": "a red-team prompt", "helpful": "a prompt for help"}


def prompt(row: Row) -> str:
    """A prompt, its kind, and a person's response to it."""
    answered = f", answered by a person: {quoted(row['response'])}" if row["response"] else ""
    kind = _KINDS.get(row["kind"], "a prompt")
    return f"accepted from {source_of(row)}, {kind}: {quoted(row['prompt'])}{answered}"


def comparison(row: Row) -> str:
    """A prompt with the response that was chosen and the one that was not."""
    return f"{accepted(row, row['prompt'])} people chose {choice(row)}"


def choice(row: Row) -> str:
    """The chosen response over the rejected one."""
    return f"{quoted(row['chosen'])} over {quoted(row['rejected'])}"
