"""Name the published format of a row, and show how the rows of a source will be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.rows import Unreadable
from selfimprove_dagster.seeds.messages import LISTS, is_list


def format_of(row: Any) -> str:
    """Return the name of a row's format, with the fields by which it is known."""
    if isinstance(row, Unreadable):
        return f"unreadable: {row.reason}"
    if isinstance(row, str):
        return "plain text, one row per line"
    if not isinstance(row, Mapping):
        return f"not an object with fields, but {type(row).__name__}"
    fields = ", ".join(f"`{name}`" for name in row)
    asked = _prompt_of(row)
    if is_list(row.get("completions")) and "instruction" in row:
        return "`instruction` and `completions` with `overall_score` (UltraFeedback)"
    if {"chosen", "rejected"} <= row.keys():
        return f"comparisons: {_compared(row)}" + (f", and {asked} as the prompt" if asked else "")
    if asked:
        return asked
    return f"fields without a known format: {fields}"


def _compared(row: Mapping[str, Any]) -> str:
    chosen = row["chosen"]
    if is_list(chosen):
        whole = len(chosen) > 1
        scored = any(str(name).startswith("score_") for name in row)
        name = "UltraFeedback's" if scored else "TRL's"
        return f"{name} `chosen` and `rejected`, each {'a whole dialogue' if whole else 'a response'} as messages"
    if isinstance(chosen, Mapping):
        return "`chosen` and `rejected`, each one message (LLaMA-Factory)"
    if isinstance(chosen, str) and "\n\nAssistant:" in chosen:
        return "HH-RLHF's `chosen` and `rejected`, each a whole dialogue as text"
    return "`chosen` and `rejected` as text"


def _prompt_of(row: Mapping[str, Any]) -> str:
    if is_list(row.get("prompt")):
        return "`prompt` as messages (TRL)"
    if row.get("prompt") not in (None, ""):
        return "`prompt` as text"
    for name in LISTS:
        if row.get(name) in (None, ""):
            continue
        said = row[name]
        first = said[0] if is_list(said) and said and isinstance(said[0], Mapping) else {}
        if "from" in first:
            return f"`{name}` of `from` and `value` (ShareGPT)"
        return f"`{name}` of `role` and `content`" + (", as JSON text" if isinstance(said, str) else "")
    if is_list(row.get("instances")):
        return "`instruction` and `instances` (Self-Instruct)"
    if "instruction" in row:
        return "`instruction`, `input` and `output` (Alpaca)"
    for name in ("question", "text"):
        if name in row:
            return f"`{name}` as text" + (" with `answer`" if "answer" in row else "")
    return ""
